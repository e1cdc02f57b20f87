# featurebank on a machine with GPUs. PyTorch's wheels bring CUDA; the host brings the driver and NVIDIA's container toolkit.
#
#   docker build -t featurebank .
#   docker run --gpus all -v /data:/data featurebank doctor
#   docker run --gpus all -v /data:/data featurebank features /data/run.yaml
#
# Stores, weights and prepared pixels lie in the volume; nothing that is computed stays in the container.
FROM python:3.11-slim-bookworm

ENV VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH \
    FEATUREBANK_STORE=/data/features \
    FEATUREBANK_CACHE=/data/cache \
    PYTHONUNBUFFERED=1

# torch's compiler needs g++
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/featurebank
COPY . .

RUN python -m venv "$VIRTUAL_ENV" && python -m pip install --no-cache-dir uv==0.13.9
RUN uv pip install --no-cache -c constraints.txt -b constraints.txt ".[cli,detection,extract,finetune,gpu,pack,probes,remote,scale]"
RUN featurebank --version

RUN useradd featurebank && mkdir /data && chown featurebank /data
USER featurebank
WORKDIR /data
ENTRYPOINT ["featurebank"]
CMD ["doctor"]
