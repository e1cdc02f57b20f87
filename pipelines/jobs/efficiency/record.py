"""What a process that times one backbone is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featurebank.extract.key import Precision

__all__ = ["Found", "Wish"]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be measured.

    Attributes:
        backbone: its name.
        device: a resolved one, ``cpu``, ``cuda`` …
        precision: of the whole network.
        threads: of a CPU, for one pass.
        batch: images a pass of the throughput; ``None`` to search for the best and measure nothing else.
        seconds: that each of the measurements takes, at least.
    """

    backbone: str
    device: str
    precision: Precision
    threads: int
    batch: int | None = None
    seconds: float = 2.0


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one process measured.

    Attributes:
        latency: seconds of each pass of one image.
        latency_with_decode: likewise, from the bytes of a file on; none where there are no images.
        throughput: images a second at the batch of the wish.
        throughput_with_decode: likewise; ``None`` where there are no images.
        peak_memory: bytes that the network and passes of that batch took at most, over what the process had before.
        energy: joules an image, ``None`` where nothing measures them.
        no_images: why there are none.
        torch: its version.
    """

    latency: Sequence[float]
    latency_with_decode: Sequence[float]
    throughput: float
    throughput_with_decode: float | None
    peak_memory: int
    energy: float | None
    no_images: str
    torch: str
