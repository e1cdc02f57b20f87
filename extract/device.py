"""Which device and which precision a run uses, decided once and said aloud."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from featurebank.extract.key import Precision

__all__ = ["Execution", "cpu_cores", "resolve_device", "resolve_devices", "resolve_precision"]

CompileMode = Literal["auto", "always", "never"]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is carried out. Nothing here is part of the key.

    Attributes:
        device: ``auto`` (the first CUDA device, else the CPU), ``cpu``, ``cuda``, ``cuda:1`` …; several GPUs, which
            share the images, as ``cuda:0,cuda:1``.
        batch_size: images a forward pass, a power of two; ``None`` for 16 on a CPU, 256 on a GPU.
        workers: decode threads on a GPU, lanes on a CPU; ``None`` for one per core.
        compile: ``auto`` lays networks out for oneDNN on a CPU where the images repay it, as
            `featurebank.extract.packing` says; ``always`` is ``torch.compile``, weights frozen; ``never`` is neither.
        strict: stop at the first image that cannot be decoded.
        backbones_per_pass: networks in memory at once.
        commit_seconds: how often finished chunks are synced to disk.
        pixel_cache: folder of pixels prepared by Pillow that runs share, see ``featurebank.extract.pixel_cache``.
        pixel_cache_gb: nothing is added to that folder beyond this size, in units of 1e9 bytes.
        trust_merged: copy rows, by their images' content, of sets that another store made too.
    """

    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    compile: CompileMode = "auto"
    strict: bool = False
    backbones_per_pass: int = 8
    commit_seconds: float = 1.0
    pixel_cache: Path | None = None
    pixel_cache_gb: float | None = None
    trust_merged: bool = False

    def __post_init__(self) -> None:
        if self.batch_size is not None and (self.batch_size < 1 or self.batch_size & (self.batch_size - 1)):
            raise ValueError(
                f"batch_size must be a power of two, so that batches nest in chunks; got {self.batch_size}"
            )
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        if self.compile not in get_args(CompileMode):
            raise ValueError(f"compile must be one of {', '.join(get_args(CompileMode))}, got {self.compile!r}")
        if self.pixel_cache_gb is not None and (self.pixel_cache is None or not self.pixel_cache_gb > 0):
            raise ValueError(
                f"pixel_cache_gb must be positive and limits the folder named by pixel_cache; "
                f"got {self.pixel_cache_gb} for {self.pixel_cache}"
            )


def cpu_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def resolve_device(wanted: str) -> str:
    """``auto`` becomes ``cuda`` where there is one, else ``cpu``; only ``cpu`` is answered without importing torch.

    Raises:
        ValueError: CUDA is asked for and there is none, or the name is no device.
    """
    if wanted == "cpu":
        return wanted
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {wanted!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {wanted!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {wanted!r} was asked for and no CUDA device is usable; use device: cpu")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ValueError(f"device must be one of the {count} here, from cuda:0; found {wanted!r}; use cuda:{count - 1}")
    return wanted


def resolve_devices(wanted: str) -> str:
    """As `resolve_device`, of one device or several GPUs, ``cuda:0,cuda:1``.

    Raises:
        ValueError: one of them is none, or they are not different GPUs, each by its number.
    """
    names = wanted.split(",")
    if len(names) > 1 and (len(set(names)) < len(names) or not all(name.startswith("cuda:") for name in names)):
        raise ValueError(f"several devices must be GPUs by their numbers, such as cuda:0,cuda:1; found {wanted!r}")
    return ",".join(resolve_device(name) for name in names)


def resolve_precision(wanted: str, device: str) -> Precision:
    """``auto`` becomes ``bfloat16`` where the processor multiplies it natively, else ``float32``."""
    if wanted == "auto":
        return "bfloat16" if has_bfloat16(device) else "float32"
    for known in get_args(Precision):
        if wanted == known:
            if known == "float16" and not device.startswith("cuda"):
                raise ValueError("precision float16 needs a CUDA device; use bfloat16 or float32 on a CPU")
            return known  # type: ignore[no-any-return]
    raise ValueError(f"precision must be one of auto, {', '.join(get_args(Precision))}, got {wanted!r}")


def has_bfloat16(device: str) -> bool:
    """Whether the device has bfloat16 arithmetic in hardware."""
    if device.startswith("cuda"):
        import torch

        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if platform.machine() in ("x86_64", "AMD64"):
        flags = _cpu_flags()
        return "amx_bf16" in flags or "avx512_bf16" in flags
    return "bf16" in _cpu_flags()


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":", 1)[1].split()}
