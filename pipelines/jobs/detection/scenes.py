"""Images and what they show on their way into a detector: from files, or as maps of the cache.

Shapes: N rows, K classes, B rows of a batch, S side of the canvas, n objects, m detections.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from featurebank.extract.errors import DatasetError
from featurebank.extract.preprocessing import Preprocessing
from featurebank.pipelines.jobs.detection.detector import Truth
from featurebank.pipelines.jobs.detection.evaluation import Detections
from featurebank.pipelines.jobs.detection.pasting import encode
from featurebank.pipelines.jobs.finetune.images import ImageRows, Place, loaded
from featurebank.pipelines.jobs.maps.geometry import Placing, jittered, mirrored, placed
from featurebank.pipelines.jobs.maps.levels import Maps, as_map
from featurebank.pipelines.training.draws import seed_of
from featurebank.pipelines.training.order import Repeats

if TYPE_CHECKING:
    from featurebank.extract.datasets.objects import Annotated, Objects

__all__ = ["CachedScenes", "Scenes", "repeat_factors"]


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Rows of images with their objects.

    An epoch has a place for each row, or several; what is drawn, is drawn for a place. Evaluation is epoch -1.

    Attributes:
        split: opened.
        rows: (N,) which of its rows.
        preprocessing: of the backbone on its canvas.
        masks: whether objects have masks.
        flip: the probability that an image is mirrored in training.
        scales: the least and the largest size in training, in shares of the size that just fits; both 1 for that alone.
        repeat: images of classes that fewer than this share of all images show are seen more often; see
            `repeat_factors`.
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
    repeat: float = 0.0

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def repeats(self) -> Repeats:
        """How often an epoch sees each row."""
        return Repeats(repeat_factors(self.objects, len(self.split.class_names), self.repeat))

    def row(self, epoch: int, place: int) -> int:
        """The row that an epoch sees at a place."""
        return self.repeats.row(self.seed, epoch, place) if epoch >= 0 and self.repeat else place

    @cached_property
    def objects(self) -> list[Objects]:
        """Of each row."""
        return [self.split.objects(int(row)) for row in self.rows]

    @cached_property
    def _images(self) -> _Placed:
        return _Placed(self)

    def mirrored(self, epoch: int, place: int) -> bool:
        """Whether an epoch sees a place mirrored; evaluation never does."""
        return epoch >= 0 and seed_of(self.seed, "flip", epoch, place) % 1000 < 1000 * self.flip

    def placing(self, epoch: int, place: int) -> Placing:
        """Where an epoch sees a place's image on the canvas; in evaluation it just fits."""
        shown = self.objects[self.row(epoch, place)]
        size = shown.height, shown.width
        if epoch < 0 or self.scales == (1.0, 1.0):
            own = placed(self.preprocessing, *size)
        else:
            generator = np.random.default_rng(seed_of(self.seed, "scale", epoch, place))
            own = jittered(self.preprocessing, *size, generator, least=self.scales[0], most=self.scales[1])
        return mirrored(own) if self.mirrored(epoch, place) else own

    def truth(self, epoch: int, window: NDArray[np.int64]) -> Truth:
        """What the places of a window show, as an epoch sees them; crowds are not to be found."""
        return Truth([self._shown(epoch, place) for place in window.tolist()])

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

    def _shown(self, epoch: int, place: int) -> dict[str, torch.Tensor]:
        side, single = self.preprocessing.width, self.objects[self.row(epoch, place)]
        single = self.placing(epoch, place).objects(single.take(~single.crowd))
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
        places = [[(epoch, int(place)) for place in window] for window in windows]
        for _, images in loaded(self._images, places, self.workers):
            yield images


class _Placed(ImageRows):
    """The images of scenes, each where its epoch sees it."""

    def __init__(self, scenes: Scenes) -> None:
        super().__init__(scenes.split, scenes.rows, scenes.preprocessing)
        self._scenes = scenes

    def __getitem__(self, place: Place) -> torch.Tensor:
        row = int(self._rows[self._scenes.row(*place)])
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
            rows = [self.rows[self.row(epoch, place)] for place in window.tolist()]
            chosen = [int(self.mirrored(epoch, place)) for place in window.tolist()]
            levels = []
            for number in range(len(self.views[0])):
                own = [self.views[view][number][row] for view, row in zip(chosen, rows, strict=True)]
                levels.append(as_map(torch.from_numpy(np.stack(own).astype(np.float32)), (side, side)))
            yield Maps(levels)


def repeat_factors(objects: Sequence[Objects], n_classes: int, threshold: float) -> NDArray[np.float64]:
    """(N,) how often an epoch is to see each image: the most that a class in it asks for, and once at least.

    A class that a share f of the images shows asks for sqrt(threshold / f) (Gupta, Dollár and Girshick, LVIS: A Dataset
    for Large Vocabulary Instance Segmentation, CVPR 2019, where the threshold is .001).
    """
    shown = np.zeros((len(objects), n_classes), bool)
    for row, one in enumerate(objects):
        shown[row, one.labels[~one.crowd]] = True
    asked = np.sqrt(threshold / np.maximum(shown.mean(0), 1e-300))
    return np.asarray(np.maximum(1.0, np.where(shown, asked, 0.0).max(1, initial=0.0)))
