"""One detector: from a backbone and annotated images to trained weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from featurebank.extract.datasets.objects import annotated
from featurebank.pipelines.jobs.detection.detector import Detector
from featurebank.pipelines.jobs.detection.heads import Shape
from featurebank.pipelines.jobs.detection.scenes import CachedScenes, Scenes
from featurebank.pipelines.jobs.detection.task import Detection
from featurebank.pipelines.jobs.maps.job import MapJob, Training

if TYPE_CHECKING:
    from featurebank.extract.datasets.objects import Annotated
    from featurebank.pipelines.asking.inputs import SplitRows
    from featurebank.pipelines.training.trial import Numerics

__all__ = ["DetectorTraining", "Job"]


@dataclass(frozen=True, kw_only=True)
class DetectorTraining(Training[Shape]):
    """How a detector is trained.

    Attributes:
        repeat: see `Scenes`.
    """

    repeat: float = 0.0


@dataclass(kw_only=True)
class Job(MapJob[Shape, Detector]):
    """All detectors of one backbone on one set of images; see `MapJob`."""

    verb: ClassVar[str] = "detect"
    kind: ClassVar[str] = "detectors"
    network: ClassVar[type[Detector]] = Detector
    chosen_by: ClassVar[str] = "AP"

    training: DetectorTraining

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """K of the train images."""
        return tuple(self._annotated(self.train).class_names)

    def model(self, seed: int) -> Detector:
        """See `MapJob`."""
        model = super().model(seed)
        if self.training.shape.federated:
            shown = np.asarray(self._annotated(self.train).labels)[self.train.rows]
            model.heads.federated.frequency.copy_(torch.from_numpy(shown.sum(0)))
        return model

    def task(self, model: Detector, numerics: Numerics, seed: int) -> Detection:
        """See `MapJob`."""
        return Detection(
            model=model,
            train=self.scenes(self.train, seed=seed, drawn=True),
            validation=None if self.validation is None else self.scenes(self.validation, seed=seed),
            class_names=self.class_names,
            layer_decay=self.training.layer_decay,
            numerics=numerics,
        )

    def truth_digest(self, rows: SplitRows) -> dict[str, Any]:
        """See `MapJob`."""
        return {"objects": self.workshop.objects_digest(rows.name)}

    def notes(self) -> list[str]:
        """See `MapJob`."""
        return list(getattr(self._annotated(self.train), "object_notes", ()))

    def scenes(self, rows: SplitRows, *, seed: int = 0, drawn: bool = False) -> Scenes:
        """Rows with their objects: of the train and validation images from the cache, where that is used.

        Args:
            rows: which.
            seed: of what is drawn.
            drawn: whether images are changed and repeated as training does.
        """
        training = self.training
        flip = training.flip if drawn else 0.0
        options: dict[str, Any] = {
            "split": self._annotated(rows),
            "rows": rows.rows,
            "preprocessing": self.spec.preprocessing,
            "masks": self.training.shape.masks,
            "flip": flip,
            "seed": seed,
            "workers": self.workshop.workers,
        }
        if drawn:
            options |= {"scales": training.scales, "repeat": training.repeat}
        if self.training.shape.masks and not all(len(one.masks) == len(one) for one in Scenes(**options).objects):
            raise ValueError(f"{rows.name} must have a mask of every object for {self.training.shape.head}; found none")
        views = self.views(rows, flip=flip > 0)
        return Scenes(**options) if views is None else CachedScenes(**options, views=views)

    def _annotated(self, rows: SplitRows) -> Annotated:
        return annotated(self.workshop.images(rows))
