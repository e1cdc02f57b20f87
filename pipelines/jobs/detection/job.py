"""One detector: from a backbone and annotated images to trained weights, exactly resumable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load, save

from featurebank.extract import backbones
from featurebank.extract.datasets.objects import objects_digest
from featurebank.pipelines.jobs.cached import outputs_of
from featurebank.pipelines.jobs.detection.detector import Detector
from featurebank.pipelines.jobs.detection.heads import Shape
from featurebank.pipelines.jobs.detection.levels import Level, fitted, levels_of, with_levels
from featurebank.pipelines.jobs.detection.scenes import CachedScenes, Scenes, annotated
from featurebank.pipelines.jobs.detection.task import Detection
from featurebank.pipelines.jobs.record import WEIGHTS, Record
from featurebank.pipelines.training import ranks
from featurebank.pipelines.training.loop import Progress, train
from featurebank.pipelines.training.phase import Phase, Plan
from featurebank.pipelines.training.state import claimed, remove, weights_of
from featurebank.pipelines.training.trial import Numerics, Precision, put
from featurebank.store import FeatureSet
from featurebank.store.filing import Filing
from featurebank.store.fingerprint import fingerprint

if TYPE_CHECKING:
    from featurebank.extract.backbones.contract import BackboneSpec
    from featurebank.extract.datasets.objects import Annotated
    from featurebank.pipelines.asking.inputs import SplitRows
    from featurebank.pipelines.jobs.workshop import Workshop

__all__ = ["DETECTORS", "Job", "Trained", "Training"]

DETECTORS = "detectors"
"""The store's folder where they lie."""
BYTES = 2  # of a number of a map in the cache
LARGEST = 16 << 30  # bytes of weights


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a detector is trained; all of it decides the weights.

    Attributes:
        shape: of what stands behind the backbone.
        side: of the canvas, in pixels.
        frozen: whether the backbone stays as it is.
        cached: whether its maps are extracted once; it is frozen then.
        flip: the probability that an image is mirrored.
        phase: the optimiser and its schedule.
        batch_size: images of an update.
        layer_decay: of the backbone's rates.
        clip: the largest norm of all gradients together.
    """

    shape: Shape
    side: int
    frozen: bool
    cached: bool
    flip: float
    phase: Phase
    batch_size: int
    layer_decay: float
    clip: float


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run gave.

    Attributes:
        name: of its folder.
        model: with its weights, on the device.
        history: of each epoch.
        numerics: that were used.
        notes: for people.
    """

    name: str
    model: Detector
    history: Sequence[Mapping[str, Any]]
    numerics: Numerics
    notes: tuple[str, ...]


@dataclass(kw_only=True)
class Job:
    """All runs of one backbone on one set of images.

    Attributes:
        own: the backbone, on no canvas yet.
        training: how.
        train: rows to train on.
        validation: rows to choose by, where there are some.
        workshop: where.
        precision: of passes.
        cache_gb: the most that cached maps may take.
    """

    own: BackboneSpec
    training: Training
    train: SplitRows
    validation: SplitRows | None
    workshop: Workshop
    precision: Precision
    cache_gb: float

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The backbone's maps that are used."""
        return levels_of(fitted(self.own, self.training.side), self.training.shape.strides)

    @cached_property
    def spec(self) -> BackboneSpec:
        """The backbone on its canvas, with its maps as outputs."""
        return with_levels(fitted(self.own, self.training.side), self.levels)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """K of the train images."""
        return tuple(self._annotated(self.train).class_names)

    @cached_property
    def cached(self) -> bool:
        """Whether maps come from the cache: where that is asked for, and they fit."""
        if not self.training.cached:
            return False
        place = self.training.side**2 * sum(level.channels / level.stride**2 for level in self.levels) * BYTES
        rows = len(self.train.rows) + (0 if self.validation is None else len(self.validation.rows))
        gigabytes = place * (rows + (len(self.train.rows) if self.training.flip else 0)) / 1e9
        fits = gigabytes <= self.cache_gb
        less = "" if fits else f", more than cache_gb ({self.cache_gb:g}): they are computed at every step"
        self.workshop.say(
            f"{self.spec.name} on {self.train.name}: cached maps take {gigabytes:.2f} GB, {place / 1e6:.2f} MB an "
            f"image and view{less}"
        )
        return fits

    def run(self, seed: int) -> Trained:
        """The detector of one seed, trained where it is not there yet.

        Raises:
            TrainingError: training cannot go on.
            ValueError, DatasetError: the images or the maps cannot be had.
        """
        identity = self._identity(seed)
        record = Record(self.workshop.root, self._name(identity), identity, DETECTORS)
        numerics = Numerics(device=self.workshop.device, precision=self.precision, channels_last=True)
        model = self._model(seed)
        done = record.read()
        if done is None:
            with claimed(record.folder) if ranks.is_first() else nullcontext():
                done = self._train(record, model, numerics, seed)
        else:
            weights = load(Filing(self.workshop.root, DETECTORS).read(record.name, WEIGHTS, limit=LARGEST))
            put(model, numerics).load_state_dict(weights, strict=False)
        return Trained(
            name=record.name, model=model, history=done["history"], numerics=numerics, notes=tuple(done["notes"])
        )

    def _train(self, record: Record, model: Detector, numerics: Numerics, seed: int) -> dict[str, Any]:
        task = Detection(
            model=model,
            train=self.scenes(self.train, seed=seed, flip=self.training.flip),
            validation=None if self.validation is None else self.scenes(self.validation, seed=seed),
            class_names=self.class_names,
            layer_decay=self.training.layer_decay,
            numerics=numerics,
        )
        plan = Plan(
            phases=(self.training.phase,), batch_size=self.training.batch_size, seed=seed, clip=self.training.clip
        )
        state = train(
            task,
            plan,
            numerics,
            folder=record.folder,
            identity=record.identity,
            seconds_between=self.workshop.seconds_between,
            observe=lambda progress: self._observe(progress, seed),
        )
        notes = [*model.notes, *getattr(self._annotated(self.train), "object_notes", ())]
        done = {"history": state.history, "notes": notes}
        if ranks.is_first():
            filing = Filing(self.workshop.root, DETECTORS)
            weights = {name: value.contiguous().cpu() for name, value in weights_of(model).items()}
            filing.write(record.name, WEIGHTS, data=save(weights))
            record.end(done)
            remove(record.folder)
        ranks.wait()
        return done

    def scenes(self, rows: SplitRows, *, seed: int = 0, flip: float = 0.0) -> Scenes:
        """Rows with their objects: of the train and validation images from the cache, where that is used."""
        options: dict[str, Any] = {
            "split": self._annotated(rows),
            "rows": rows.rows,
            "preprocessing": self.spec.preprocessing,
            "masks": self.training.shape.masks,
            "flip": flip,
            "seed": seed,
            "workers": self.workshop.workers,
        }
        if self.training.shape.masks and not all(len(one.masks) == len(one) for one in Scenes(**options).objects):
            raise ValueError(f"{rows.name} must have a mask of every object for {self.training.shape.head}; found none")
        if not (self.cached and any(rows is one for one in (self.train, self.validation))):
            return Scenes(**options)
        return CachedScenes(
            **options, views=[self._maps(rows, flip=view) for view in ([False, True] if flip else [False])]
        )

    def _maps(self, rows: SplitRows, *, flip: bool) -> list[NDArray[np.floating]]:
        spec = self.spec
        if flip:
            spec = replace(spec, name=f"{spec.name}@flip", preprocessing=replace(spec.preprocessing, flip=True))
        outputs = outputs_of(spec, rows, self.workshop)
        return [outputs[level.output] for level in self.levels]

    def _model(self, seed: int) -> Detector:
        model = Detector(
            backbones.trainable(self.spec),
            self.levels,
            shape=self.training.shape,
            classes=len(self.class_names),
            side=self.training.side,
            seed=seed,
        )
        model.freeze(-1 if self.training.frozen else 0)
        return model

    def _annotated(self, rows: SplitRows) -> Annotated:
        return annotated(self.workshop.images(rows))

    def _observe(self, progress: Progress, seed: int) -> None:
        what = f"{self.own.name} on {self.train.name}, {self.training.shape.head}"
        self.workshop.observe(f"{what}, seed {seed}" if seed else what, progress)

    def _identity(self, seed: int) -> dict[str, Any]:
        """What determines the weights, as plain JSON."""
        with FeatureSet(self.train.path) as feature_set:
            key = {name: feature_set.key[name] for name in ("backbone", "preprocessing")}
        chosen = () if self.validation is None else (self.validation,)
        return {
            "backbone": fingerprint(key),
            "training": {**asdict(self.training), "cached": self.cached},
            "precision": self.precision,
            "seed": seed,
            "images": [self._digest(rows) for rows in (self.train, *chosen)],
        }

    def _digest(self, rows: SplitRows) -> str:
        with FeatureSet(rows.path) as feature_set:
            own = feature_set.fingerprint
        return fingerprint(
            {
                "set": own,
                "rows": rows.rows.tolist(),
                "objects": objects_digest(self._annotated(rows)),
            }
        )

    def _name(self, identity: Mapping[str, Any]) -> str:
        words = (self.train.dataset, self.own.name, self.training.shape.head, fingerprint(identity)[:8])
        return "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in word) for word in words)
