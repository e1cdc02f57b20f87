"""Images and their semantic masks on their way into a segmenter.

Shapes: N rows, B rows of a batch, H, W an image's size, S side of the canvas, K classes with the background.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812 (as everywhere)

from featurebank.extract.datasets.mask_files import IGNORED
from featurebank.pipelines.jobs.maps.geometry import Placing

if TYPE_CHECKING:
    from featurebank.extract.datasets.objects import Objects
    from featurebank.pipelines.jobs.detection.scenes import Scenes
    from featurebank.pipelines.jobs.maps.levels import Maps
    from featurebank.pipelines.training.order import Repeats

__all__ = ["Pictures", "drawn", "on_canvas"]

SHOWN: Final = 256
"""Pixels of a side of what is looked at, at most."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Rows of images with a class for every pixel.

    Attributes:
        scenes: the rows, as images or as maps of the cache.
        labels: gives the classes (H, W) of a row's image.
    """

    scenes: Scenes
    labels: Callable[[int], NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def repeats(self) -> Repeats:
        """See `Scenes`."""
        return self.scenes.repeats

    def row(self, epoch: int, place: int) -> int:
        """See `Scenes`."""
        return self.scenes.row(epoch, place)

    def truth(self, epoch: int, window: NDArray[np.int64]) -> torch.Tensor:
        """(B, S, S) int64 classes of the places of a window, as an epoch sees them."""
        shown = [
            on_canvas(self.labels(self.row(epoch, place)), self.scenes.placing(epoch, place))
            for place in window.tolist()
        ]
        return torch.from_numpy(np.stack(shown).astype(np.int64))

    def batches(self, epoch: int, windows: Sequence[NDArray[np.int64]]) -> Iterator[torch.Tensor | Maps]:
        """See `Scenes`."""
        return self.scenes.batches(epoch, windows)

    @property
    def step(self) -> int:
        """Of canvases to be looked at every so many-th pixel is kept, that no side has more than `SHOWN`."""
        return -(-self.scenes.preprocessing.width // SHOWN)

    def looked_at(self) -> dict[str, NDArray[Any]]:
        """Of each row's canvas the classes, ``truth`` (N, s, s), and where its image lies, ``places`` (N, 4).

        A place is the first and one past the last row of pixels, and of columns.
        """
        truth, places = [], []
        for row in range(len(self)):
            own = self.scenes.placing(-1, row)
            truth.append(on_canvas(self.labels(row), own)[:: self.step, :: self.step])
            ends = (end for axis in (own.rows, own.columns) for end in (axis.border, axis.border + axis.kept))
            places.append([-(-end // self.step) for end in ends])
        return {"truth": np.stack(truth), "places": np.array(places, np.int64)}

    def classes(self, row: int, logits: torch.Tensor) -> NDArray[np.uint8]:
        """(K, S, S) logits of a row's canvas to the classes (H, W) of its image: cut out, resized, then decided."""
        own = self.scenes.placing(-1, row)
        top, left = own.rows.border, own.columns.border
        inside = logits[None, :, top : top + own.rows.kept, left : left + own.columns.kept].float()
        whole = F.interpolate(inside, size=(own.height, own.width), mode="bilinear", align_corners=False)
        return whole[0].argmax(0).to(torch.uint8).cpu().numpy()


def drawn(shown: Objects, numbers: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) the class of every pixel that the masks of objects cover, 0 of all others.

    Crowds lie below single objects, and of those the larger below the smaller.

    Args:
        shown: with a mask each.
        numbers: (K',) what each class becomes.
    """
    size = shown.height, shown.width
    masks = [mask.full(*size) for mask in shown.masks]
    values = np.where(shown.crowd, IGNORED, numbers[shown.labels]).astype(np.uint8)
    labels = np.zeros(size, np.uint8)
    for row in sorted(range(len(masks)), key=lambda row: (not shown.crowd[row], -int(masks[row].sum()))):
        labels[masks[row]] = values[row]
    return labels


def on_canvas(labels: NDArray[np.uint8], placing: Placing) -> NDArray[np.uint8]:
    """(S, S) classes at the middle of each pixel of the canvas; beside the image `IGNORED`."""
    record = placing.preprocessing
    canvas = np.full((record.height, record.width), IGNORED, np.uint8)
    places = []
    for axis, length in ((placing.rows, placing.height), (placing.columns, placing.width)):
        middles = (np.arange(axis.first, axis.first + axis.kept) + 0.5) * length / axis.size
        places.append((slice(axis.border, axis.border + axis.kept), middles.astype(np.int64)))
    (down, rows), (across, columns) = places
    canvas[down, across] = labels[np.ix_(rows, columns)]
    return canvas[:, ::-1] if record.flip else canvas
