"""FAISS and Dask for CUDA: they load, and the one searches, where there is no GPU too."""

import dask_cuda
from toy import absent, rows

from featurebank import retrieval

absent("torch", "timm", "typer", "sklearn")
assert dask_cuda.LocalCUDACluster
x, _ = rows(0)
index = retrieval.FeatureIndex.build(x, fingerprint=retrieval.content_fingerprint(x))
assert (index.search(x, k=1)[1][:, 0] == range(len(x))).all()
