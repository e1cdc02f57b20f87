"""Images and what they show on their way into a detector: from files, or as maps of the cache.

Shapes: N rows, B rows of a batch, S side of the canvas, n objects, m detections.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from featurebank.extract.errors import DatasetError
from featurebank.extract.preprocessing import Preprocessing
from featurebank.pipelines.jobs.detection.detector import Truth
from featurebank.pipelines.jobs.detection.evaluation import Detections
from featurebank.pipelines.jobs.detection.geometry import Placing, jittered, mirrored, placed
from featurebank.pipelines.jobs.detection.levels import Maps, as_map
from featurebank.pipelines.jobs.detection.pasting import encode
from featurebank.pipelines.jobs.finetune.images import ImageRows, Place, loaded
from featurebank.pipelines.training.draws import seed_of

if TYPE_CHECKING:
    from featurebank.extract.datasets.objects import Annotated, Objects

__all__ = ["CachedScenes", "Scenes", "annotated"]


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Rows of images with their objects.

    Attributes:
        split: opened.
        rows: (N,) which of its rows.
        preprocessing: of the backbone on its canvas.
        masks: whether objects have masks.
        flip: the probability that an image is mirrored in training.
        scales: the least and the largest size in training, in shares of the size that just fits; both 1 for that alone.
        seed: of the draws.
        workers: processes that read images.
    """

    split: Annotated
    rows: NDArray[np.intp]
    preprocessing: Preprocessing
    masks: bool
    flip: float
    seed: int
    workers: int
    scales: tuple[float, float] = (1.0, 1.0)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def objects(self) -> list[Objects]:
        """Of each row."""
        return [self.split.objects(int(row)) for row in self.rows]

    @cached_property
    def _images(self) -> _Placed:
        return _Placed(self)

    def mirrored(self, epoch: int, row: int) -> bool:
        """Whether an epoch sees a row mirrored; -1 for evaluation, which never does."""
        return epoch >= 0 and seed_of(self.seed, "flip", epoch, row) % 1000 < 1000 * self.flip

    def placing(self, epoch: int, row: int) -> Placing:
        """Where an epoch sees a row's image on the canvas; -1 for evaluation, which has it fit."""
        size = self.objects[row].height, self.objects[row].width
        if epoch < 0 or self.scales == (1.0, 1.0):
            own = placed(self.preprocessing, *size)
        else:
            generator = np.random.default_rng(seed_of(self.seed, "scale", epoch, row))
            own = jittered(self.preprocessing, *size, generator, least=self.scales[0], most=self.scales[1])
        return mirrored(own) if self.mirrored(epoch, row) else own

    def truth(self, epoch: int, window: NDArray[np.int64]) -> Truth:
        """What the rows of a window show, as an epoch sees them; crowds are not to be found."""
        return Truth([self._shown(epoch, row) for row in window.tolist()])

    def found(self, row: int, detected: Mapping[str, torch.Tensor]) -> Detections:
        """Detections on a row's canvas as those of its image; what lies beside it is left out."""
        shown, own = self.objects[row], {name: value.double().cpu().numpy() for name, value in detected.items()}
        boxes = self.placing(-1, row).back(own["boxes"])
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
        pairs = zip(own["masks"][kept, 0], boxes[kept], strict=True) if "masks" in own else ()
        return Detections(
            boxes=boxes[kept],
            scores=own["scores"][kept],
            labels=own["labels"][kept].astype(np.int64) - 1,
            masks=tuple(encode(mask, box, shown.height, shown.width) for mask, box in pairs),
        )

    def _shown(self, epoch: int, row: int) -> dict[str, torch.Tensor]:
        side, single = self.preprocessing.width, self.objects[row]
        single = self.placing(epoch, row).objects(single.take(~single.crowd))
        shown = {
            "boxes": torch.from_numpy(single.boxes).float(),
            "labels": torch.from_numpy(single.labels + 1),
        }
        if self.masks:
            drawn = [mask.full(side, side) for mask in single.masks]
            stacked = np.stack(drawn) if drawn else np.zeros((0, side, side), bool)
            shown["masks"] = torch.from_numpy(stacked.astype(np.uint8))
        return shown

    def batches(self, epoch: int, windows: Sequence[NDArray[np.int64]]) -> Iterator[torch.Tensor | Maps]:
        """(B, 3, S, S) of each window.

        Raises:
            DatasetError: an image cannot be read.
        """
        places = [[(epoch, int(row)) for row in window] for window in windows]
        for _, images in loaded(self._images, places, self.workers):
            yield images


class _Placed(ImageRows):
    """The images of scenes, each where its epoch sees it."""

    def __init__(self, scenes: Scenes) -> None:
        super().__init__(scenes.split, scenes.rows, scenes.preprocessing)
        self._scenes = scenes

    def __getitem__(self, place: Place) -> torch.Tensor:
        row = int(self._rows[place[1]])
        image = self._decoded(row)
        try:
            return self._normalised(self._scenes.placing(*place).pixels(image))
        except ValueError as error:
            spec = self._split.spec
            raise DatasetError(f"{spec.name}/{spec.split}: {self._split.ids[row]}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class CachedScenes(Scenes):
    """Rows whose maps are in the cache, with objects as `Scenes`.

    Attributes:
        views: the maps (M, …) of each level, of the images and, where there is a second entry, of mirrored ones.
    """

    views: Sequence[Sequence[NDArray[np.floating]]]

    def batches(self, epoch: int, windows: Sequence[NDArray[np.int64]]) -> Iterator[torch.Tensor | Maps]:
        """The maps of each window."""
        side = self.preprocessing.width
        for window in windows:
            chosen = [int(self.mirrored(epoch, row)) for row in window.tolist()]
            levels = []
            for number in range(len(self.views[0])):
                own = [self.views[view][number][self.rows[row]] for view, row in zip(chosen, window, strict=True)]
                levels.append(as_map(torch.from_numpy(np.stack(own).astype(np.float32)), (side, side)))
            yield Maps(levels)


def annotated(split: Any) -> Annotated:
    """A split whose objects are known.

    Raises:
        DatasetError: it has none.
    """
    if not hasattr(split, "objects"):
        raise DatasetError(
            f"{split.spec.name}/{split.spec.split}: detection needs a dataset with boxes; found one without: give one "
            "such as coco:FILE.json, or a dataset of the kind detection (featurebank datasets)"
        )
    own: Annotated = split
    return own
