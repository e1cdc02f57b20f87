"""One segmenter: from a backbone and images with masks to trained weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from featurebank.extract import backbones
from featurebank.extract.datasets.objects import objects_digest
from featurebank.extract.errors import DatasetError
from featurebank.pipelines.jobs.detection.scenes import CachedScenes, Scenes
from featurebank.pipelines.jobs.map_job import MapJob
from featurebank.pipelines.jobs.segmentation.network import Segmenter, Shape
from featurebank.pipelines.jobs.segmentation.pictures import BACKGROUND, IGNORED, Pictures
from featurebank.pipelines.jobs.segmentation.task import Segmentation

if TYPE_CHECKING:
    from featurebank.extract.datasets.objects import Annotated
    from featurebank.pipelines.asking.inputs import SplitRows
    from featurebank.pipelines.training.trial import Numerics

__all__ = ["Job", "part_of"]


@dataclass(kw_only=True)
class Job(MapJob[Shape, Segmenter]):
    """All segmenters of one backbone on one set of images; see `MapJob`."""

    verb: ClassVar[str] = "segment"
    kind: ClassVar[str] = "segmenters"
    chosen_by: ClassVar[str] = "mean IoU"

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """K, the background before those of the train images.

        Raises:
            ValueError: more than there are numbers for.
        """
        names = (BACKGROUND, *self._annotated(self.train).class_names)
        if len(names) > IGNORED:
            raise ValueError(f"{self.train.name} must have {IGNORED - 1} classes at most; found {len(names) - 1}")
        return names

    @cached_property
    def seen(self) -> NDArray[np.int64]:
        """(K - 1,) how many objects of each class the train images show, crowds apart."""
        split, counts = self._annotated(self.train), np.zeros(len(self.class_names) - 1, np.int64)
        for row in self.train.rows.tolist():
            shown = split.objects(row)
            counts += np.bincount(shown.labels[~shown.crowd], minlength=len(counts))
        return counts

    def model(self, seed: int) -> Segmenter:
        """See `MapJob`."""
        model = Segmenter(
            backbones.trainable(self.spec),
            self.levels,
            shape=self.training.shape,
            classes=len(self.class_names),
            side=self.training.side,
            seed=seed,
            batch_norm=self.training.batch_norm,
            drop_path=self.training.drop_path,
        )
        model.freeze(-1 if self.training.frozen else 0)
        return model

    def task(self, model: Segmenter, numerics: Numerics, seed: int) -> Segmentation:
        """See `MapJob`.

        Raises:
            ValueError: the train images show no object.
        """
        if not self.seen.any():
            raise ValueError(
                f"{self.train.name} must show an object; found none in {len(self.train.rows)} images: give a larger "
                "fraction, or other images"
            )
        return Segmentation(
            model=model,
            train=self.pictures(self.train, seed=seed, drawn=True),
            validation=None if self.validation is None else self.pictures(self.validation, seed=seed),
            classes=len(self.class_names),
            layer_decay=self.training.layer_decay,
            numerics=numerics,
        )

    def truth_digest(self, rows: SplitRows) -> dict[str, Any]:
        """See `MapJob`."""
        return {"objects": objects_digest(self._annotated(rows))}

    def notes(self) -> list[str]:
        """See `MapJob`."""
        lacking = [name for name, count in zip(self.class_names[1:], self.seen, strict=True) if not count]
        lines = [f"{self.train.name}: {len(lacking)} classes that no train image shows: {', '.join(lacking)}"]
        return [*getattr(self._annotated(self.train), "object_notes", ()), *(lines if lacking else ())]

    def pictures(self, rows: SplitRows, *, seed: int = 0, drawn: bool = False) -> Pictures:
        """Rows with their masks: of the train and validation images from the cache, where that is used.

        Args:
            rows: which.
            seed: of what is drawn.
            drawn: whether images are changed as training does.

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
            "flip": self.training.flip if drawn else 0.0,
            "scales": self.training.scales if drawn else (1.0, 1.0),
            "seed": seed,
            "workers": self.workshop.workers,
        }
        views = self.views(rows, flip=drawn and self.training.flip > 0)
        scenes = Scenes(**options) if views is None else CachedScenes(**options, views=views)
        lacking = sum(len(one) - len(one.masks) for one in scenes.objects)
        if lacking:
            raise DatasetError(
                f"{rows.name} must have a mask of every object; found {lacking:,} objects with boxes alone: they can "
                "be detected (featurebank detect), not segmented"
            )
        return Pictures(scenes=scenes, numbers=self._numbers(rows, split))

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

    def _annotated(self, rows: SplitRows) -> Annotated:
        split: Any = self.workshop.images(rows)
        if not hasattr(split, "objects"):
            raise DatasetError(
                f"{rows.name}: segmentation needs a dataset with masks; found one without: give one such as "
                "coco:FILE.json, or a dataset of the kind instance segmentation (featurebank datasets)"
            )
        own: Annotated = split
        return own


def part_of(rows: SplitRows, fraction: float, seed: int) -> SplitRows:
    """A share of rows, at least one; of a seed, a smaller share is part of a larger one."""
    kept = max(1, round(fraction * len(rows.rows)))
    mask = np.zeros(len(rows.rows), bool)
    mask[np.random.default_rng(seed).permutation(len(mask))[:kept]] = True
    return rows.where(mask)
