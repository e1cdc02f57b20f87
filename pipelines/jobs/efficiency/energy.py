"""Energy, where a counter measures it: RAPL of Intel's and AMD's processors, NVML of NVIDIA's GPUs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

__all__ = ["Meter"]

RAPL = Path("/sys/class/powercap")


class Meter:
    """Energy that a device takes while the meter is entered: of a CPU all of its packages, of a GPU the board.

    Whatever else runs there counts too.

    Args:
        device: of torch.
        rapl: where the kernel has the counters of a CPU.

    Attributes:
        joules: since the meter was entered, once it is left; ``None`` where nothing measures it, or the counter did
            not tick.
    """

    def __init__(self, device: str, *, rapl: Path = RAPL) -> None:
        self.joules: float | None = None
        self._read = _nvml(device) if device.startswith("cuda") else _rapl(rapl)
        self._start: list[tuple[float, float]] = []

    def __enter__(self) -> Meter:
        self._start = self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pairs = zip(self._start, self._read(), strict=False)
        joules = sum((end - start) % span for (start, span), (end, _) in pairs)
        self.joules = joules or None


def _rapl(folder: Path) -> Callable[[], list[tuple[float, float]]]:
    """Joules of each package, and where its counter begins anew."""

    def read() -> list[tuple[float, float]]:
        found = []
        for package in sorted(folder.glob("intel-rapl:?")):
            with suppress(OSError, ValueError):  # for root alone, on most machines
                micro = [int((package / name).read_text()) for name in ("energy_uj", "max_energy_range_uj")]
                found.append((micro[0] / 1e6, micro[1] / 1e6))
        return found

    return read


def _nvml(device: str) -> Callable[[], list[tuple[float, float]]]:
    """Joules of a GPU since its driver was loaded."""

    def read() -> list[tuple[float, float]]:
        try:
            import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]
            import torch

            pynvml.nvmlInit()
            board = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
            millijoules = pynvml.nvmlDeviceGetTotalEnergyConsumption(board)
        except Exception:  # no such package, driver, or counter
            return []
        return [(millijoules / 1e3, float("inf"))]

    return read
