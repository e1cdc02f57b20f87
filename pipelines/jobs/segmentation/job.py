"""One segmenter: from a backbone and images with masks to trained weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets.mask_files import BACKGROUND, IGNORED, MaskFiles
from featurebank.extract.datasets.objects import annotated
from featurebank.extract.errors import DatasetError
from featurebank.pipelines.jobs.detection.scenes import CachedScenes, Scenes
from featurebank.pipelines.jobs.maps.job import MapJob
from featurebank.pipelines.jobs.segmentation.network import Segmenter, Shape
from featurebank.pipelines.jobs.segmentation.pictures import Pictures, drawn
from featurebank.pipelines.jobs.segmentation.task import Segmentation

if TYPE_CHECKING:
    from featurebank.extract.datasets.objects import Annotated
    from featurebank.pipelines.asking.inputs import SplitRows
    from featurebank.pipelines.training.trial import Numerics

__all__ = ["Job", "part_of"]


@dataclass(kw_only=True)
class Job(MapJob[Shape, Segmenter]):
    """All segmenters of one backbone on one set of images; see `MapJob`.

    Attributes:
        masks: a template of files, see `MaskFiles`; without one, masks are made of objects.
        classes: what the numbers in files are called.
    """

    verb: ClassVar[str] = "segment"
    kind: ClassVar[str] = "segmenters"
    network: ClassVar[type[Segmenter]] = Segmenter
    chosen_by: ClassVar[str] = "mean IoU"

    masks: str = ""
    classes: tuple[str, ...] = ()

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """K: those of files, or the background and those of the train images' objects.

        Raises:
            ValueError: more than there are numbers for.
        """
        names = self.classes or (BACKGROUND, *self._annotated(self.train).class_names)
        if len(names) > IGNORED:
            raise ValueError(f"{self.train.name} must have {IGNORED - 1} classes at most; found {len(names) - 1}")
        return names

    @cached_property
    def shown(self) -> set[int]:
        """Which classes the train images show."""
        split, rows = self._annotated(self.train), self.train.rows.tolist()
        if isinstance(split, MaskFiles):
            return {number for row in rows for number in np.unique(split.mask(row)).tolist()} - {IGNORED}
        singles = (one.labels[~one.crowd] + 1 for one in map(split.objects, rows))
        return {0}.union(*(labels.tolist() for labels in singles))

    def task(self, model: Segmenter, numerics: Numerics, seed: int) -> Segmentation:
        """See `MapJob`.

        Raises:
            ValueError: the train images show one class alone.
        """
        if len(self.shown) < 2:
            raise ValueError(
                f"{self.train.name} must show two classes at least, counting the background; found {len(self.shown)} "
                f"in {len(self.train.rows)} images: give a larger fraction, or other images"
            )
        return Segmentation(
            model=model,
            train=self.pictures(self.train, seed=seed, changed=True),
            validation=None if self.validation is None else self.pictures(self.validation, seed=seed),
            classes=len(self.class_names),
            layer_decay=self.training.layer_decay,
            numerics=numerics,
        )

    def truth_digest(self, rows: SplitRows) -> dict[str, Any]:
        """See `MapJob`."""
        if self.masks:
            return {"masks": self._annotated(rows).annotations_digest(), "classes": self.classes}
        return {"objects": self.workshop.objects_digest(rows.name)}

    def notes(self) -> list[str]:
        """See `MapJob`."""
        lacking = [name for number, name in enumerate(self.class_names) if number not in self.shown]
        lines = [f"{self.train.name}: {len(lacking)} classes that no train image shows: {', '.join(lacking)}"]
        return [*self._annotated(self.train).object_notes, *(lines if lacking else ())]

    def pictures(self, rows: SplitRows, *, seed: int = 0, changed: bool = False) -> Pictures:
        """Rows with their masks: of the train and validation images from the cache, where that is used.

        Args:
            rows: which.
            seed: of what is drawn.
            changed: whether images are changed as training does.

        Raises:
            DatasetError: an object has no mask.
            ValueError: the set has no class of the train images.
        """
        split = self._annotated(rows)
        options: dict[str, Any] = {
            "split": split,
            "rows": rows.rows,
            "preprocessing": self.spec.preprocessing,
            "masks": False,
            "flip": self.training.flip if changed else 0.0,
            "scales": self.training.scales if changed else (1.0, 1.0),
            "seed": seed,
            "workers": self.workshop.workers,
        }
        views = self.views(rows, flip=changed and self.training.flip > 0)
        scenes = Scenes(**options) if views is None else CachedScenes(**options, views=views)
        lacking = sum(len(one) - len(one.masks) for one in scenes.objects)
        if lacking:
            raise DatasetError(
                f"{rows.name} must have a mask of every object; found {lacking:,} objects with boxes alone: they can "
                "be detected (featurebank detect), not segmented"
            )
        if isinstance(split, MaskFiles):
            return Pictures(scenes=scenes, labels=lambda row: split.mask(int(rows.rows[row])))
        numbers = self._numbers(rows, split)
        return Pictures(scenes=scenes, labels=lambda row: drawn(scenes.objects[row], numbers))

    def _numbers(self, rows: SplitRows, split: Annotated) -> NDArray[np.uint8]:
        """What each class of a split is here, found by its name."""
        names = self.class_names[1:]
        numbers = [names.index(name) + 1 if name in names else IGNORED for name in split.class_names]
        if set(numbers) == {IGNORED}:
            raise ValueError(
                f"{rows.name} must share a class by name with {self.train.name}; found {', '.join(split.class_names)} "
                f"and {', '.join(names)}"
            )
        return np.array(numbers, np.uint8)

    def _annotated(self, rows: SplitRows) -> Annotated | MaskFiles:
        split = self.workshop.images(rows)
        return MaskFiles(split, self.masks, self.classes) if self.masks else annotated(split)


def part_of(rows: SplitRows, fraction: float, seed: int) -> SplitRows:
    """A share of rows, at least one; of a seed, a smaller share is part of a larger one."""
    kept = max(1, round(fraction * len(rows.rows)))
    mask = np.zeros(len(rows.rows), bool)
    mask[np.random.default_rng(seed).permutation(len(mask))[:kept]] = True
    return rows.where(mask)
