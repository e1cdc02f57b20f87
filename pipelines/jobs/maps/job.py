"""What stands behind the maps of a backbone: from rows of images to trained weights, exactly resumable.

Detectors and segmenters are such jobs; each says what its network is, what it learns from and where its weights lie.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load, save

from featurebank.extract import backbones
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.jobs.cached import outputs_of
from featurebank.pipelines.jobs.maps.levels import Level, fitted, levels_of, mirrored, with_levels
from featurebank.pipelines.jobs.maps.network import Built, MapNetwork
from featurebank.pipelines.jobs.record import WEIGHTS, Record
from featurebank.pipelines.jobs.trunk import BatchNorm
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
    from featurebank.pipelines.asking.inputs import Rows, SplitRows
    from featurebank.pipelines.jobs.workshop import Workshop
    from featurebank.pipelines.training.task import Task

__all__ = ["MapJob", "Trained", "Training"]

BYTES = 2  # of a number of a map in the cache
LARGEST = 16 << 30  # bytes of weights


Model = TypeVar("Model", bound=MapNetwork[Any])


@dataclass(frozen=True, kw_only=True)
class Training(Generic[Built]):
    """How a network is trained; all of it decides the weights.

    Attributes:
        shape: of what stands behind the backbone.
        side: of the canvas, in pixels.
        frozen: whether the backbone stays as it is.
        cached: whether its maps are extracted once; it is frozen then.
        flip: the probability that an image is mirrored.
        scales: the least and the largest size of an image, in shares of what fits; drawn, where not both are 1.
        phase: the optimiser and its schedule.
        batch_size: images of an update.
        layer_decay: of the backbone's rates.
        clip: the largest norm of all gradients together.
        drop_path: of the backbone, see `Trunk`.
        batch_norm: of a backbone that is trained, see `Trunk`.
        windowed: whether blocks of a plain transformer attend within windows.
    """

    shape: Built
    side: int
    frozen: bool
    cached: bool
    flip: float
    phase: Phase
    batch_size: int
    layer_decay: float
    clip: float
    scales: tuple[float, float] = (1.0, 1.0)
    drop_path: float = 0.0
    batch_norm: BatchNorm = "fixed"
    windowed: bool = False


@dataclass(frozen=True, kw_only=True)
class Trained(Generic[Model]):
    """What a run gave.

    Attributes:
        name: of its folder.
        model: with its weights, on the device.
        history: of each epoch.
        numerics: that were used.
        notes: for people.
    """

    name: str
    model: Model
    history: Sequence[Mapping[str, Any]]
    numerics: Numerics
    notes: tuple[str, ...]


@dataclass(kw_only=True)
class MapJob(ABC, Generic[Built, Model]):
    """All runs of one backbone on one set of images.

    Attributes:
        verb: that asks for it.
        kind: the store's folder where weights lie.
        network: what is built.
        chosen_by: what validation images choose the epoch by, for people.
        own: the backbone, on no canvas yet.
        training: how.
        train: rows to train on.
        validation: rows to choose by, where there are some.
        workshop: where.
        precision: of passes.
        cache_gb: the most that cached maps may take.
    """

    verb: ClassVar[str]
    kind: ClassVar[str]
    network: ClassVar[type[Any]]
    chosen_by: ClassVar[str]

    own: BackboneSpec
    training: Training[Built]
    train: SplitRows
    validation: SplitRows | None
    workshop: Workshop
    precision: Precision
    cache_gb: float

    @classmethod
    def of(cls, rows: Rows, *, training: Training[Built], precision: Precision, cache_gb: float, **more: Any) -> Self:
        """The job of what a question is handed, with more fields of its own.

        Raises:
            ConfigError: there is nowhere to work: images can be had of a configuration alone.
        """
        if rows.workshop is None:
            raise ConfigError(f"{cls.verb} reads images; ask it of a configuration: featurebank {cls.verb} CONFIG")
        with FeatureSet(rows.train.path) as feature_set:
            own = rows.workshop.spec_of(feature_set)
        return cls(
            own=own,
            training=training,
            train=rows.train,
            validation=rows.validation,
            workshop=rows.workshop,
            precision=precision,
            cache_gb=cache_gb,
            **more,
        )

    @property
    @abstractmethod
    def class_names(self) -> Sequence[str]:
        """Of the train images."""

    def model(self, seed: int) -> Model:
        """The network before its first step, frozen or not as the training says."""
        model: Model = self.network(
            backbones.trainable(self.spec),
            self.levels,
            shape=self.training.shape,
            classes=len(self.class_names),
            side=self.training.side,
            seed=seed,
            batch_norm="eval" if self.training.frozen else self.training.batch_norm,
            drop_path=self.training.drop_path,
        )
        model.freeze(-1 if self.training.frozen else 0)
        return model

    @abstractmethod
    def task(self, model: Model, numerics: Numerics, seed: int) -> Task:
        """What it is trained on."""

    @abstractmethod
    def truth_digest(self, rows: SplitRows) -> dict[str, Any]:
        """What rows show, by name, as plain JSON: part of what determines the weights."""

    @abstractmethod
    def notes(self) -> list[str]:
        """What people should know of what is trained on."""

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The backbone's maps that are used."""
        return levels_of(self._fitted, self.training.shape.strides)

    @cached_property
    def spec(self) -> BackboneSpec:
        """The backbone on its canvas, with its maps as outputs."""
        return with_levels(self._fitted, self.levels)

    @property
    def _fitted(self) -> BackboneSpec:
        return fitted(self.own, self.training.side, windowed=self.training.windowed)

    @cached_property
    def cached(self) -> bool:
        """Whether maps come from the cache: where that is asked for, they fit, and no scales are drawn."""
        if not self.training.cached or self.training.scales != (1.0, 1.0):
            return False
        place = self.training.side**2 * sum(level.channels / level.stride**2 for level in self.levels) * BYTES
        held = 0 if self.validation is None else self.validation.total
        gigabytes = place * (self.train.total * (2 if self.training.flip else 1) + held) / 1e9
        fits = gigabytes <= self.cache_gb
        passes = self.train.total * self.training.phase.epochs
        spared = f" and spare {passes - self.train.total * (2 if self.training.flip else 1):,} of {passes:,} passes"
        less = spared if fits else f", more than cache_gb ({self.cache_gb:g}): they are computed at every step"
        self.workshop.say(
            f"{self.spec.name} on {self.train.name}: cached maps take {gigabytes:.2f} GB, {place / 1e6:.2f} MB an "
            f"image and view{less}"
        )
        return fits

    def views(self, rows: SplitRows, *, flip: bool) -> list[list[NDArray[np.floating]]] | None:
        """Maps (M, …) of each level, of all images of a split and of mirrored ones, where they come from the cache.

        They do for the train and validation rows of a job that is `cached`.
        """
        if not (self.cached and any(rows is one for one in (self.train, self.validation))):
            return None
        every = []
        for spec in [self.spec, mirrored(self.spec)] if flip else [self.spec]:
            outputs = outputs_of(spec, rows, self.workshop)
            every.append([outputs[level.output] for level in self.levels])
        return every

    def run(self, seed: int) -> Trained[Model]:
        """The network of one seed, trained where it is not there yet.

        Raises:
            TrainingError: training cannot go on.
            ValueError, DatasetError: the images or the maps cannot be had.
        """
        identity = self._identity(seed)
        record = Record(self.workshop.root, self._name(identity), identity, self.kind)
        numerics = Numerics(device=self.workshop.device, precision=self.precision, channels_last=True)
        model = self.model(seed)
        done = ranks.shared(record.read())
        if done is None:
            self.workshop.check_training(record.name)
            with claimed(record.folder) if ranks.is_first() else nullcontext():
                # Whoever was waited for has trained it.
                done = ranks.shared(record.read()) or self._train(record, model, numerics, seed)
        weights = load(Filing(self.workshop.root, self.kind).read(record.name, WEIGHTS, limit=LARGEST))
        put(model, numerics).load_state_dict(weights, strict=False)
        return Trained(
            name=record.name, model=model, history=done["history"], numerics=numerics, notes=tuple(done["notes"])
        )

    def told(self, runs: Mapping[int, Trained[Model]]) -> list[str]:
        """How the runs of all seeds were trained, and what is to be known of them."""
        first = next(iter(runs.values()))
        how = "frozen" if self.training.frozen else "tuned"
        how += ", maps from the cache" if self.cached else ""
        if self.training.cached and self.training.scales != (1.0, 1.0):
            how += ", maps computed at every step, as scales are drawn"
        chosen = (
            "the last epoch's weights"
            if self.validation is None
            else f"the weights of the epoch of the best {self.chosen_by} on validation images"
        )
        return [
            f"backbone {how}, {len(first.history)} epochs, {first.numerics.precision}; weights are {chosen}",
            *dict.fromkeys(note for run in runs.values() for note in run.notes),
        ]

    def _train(self, record: Record, model: Model, numerics: Numerics, seed: int) -> dict[str, Any]:
        training = self.training
        state = train(
            self.task(model, numerics, seed),
            Plan(phases=(training.phase,), batch_size=training.batch_size, seed=seed, clip=training.clip),
            numerics,
            folder=record.folder,
            identity=record.identity,
            seconds_between=self.workshop.seconds_between,
            observe=lambda progress: self._observe(progress, seed),
        )
        done = {"history": state.history, "notes": [*model.notes, *self.notes()]}
        if ranks.is_first():
            filing = Filing(self.workshop.root, self.kind)
            weights = {name: value.contiguous().cpu() for name, value in weights_of(model).items()}
            filing.write(record.name, WEIGHTS, data=save(weights))
            record.end(done)
            remove(record.folder)
        ranks.wait()
        return done

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
        return fingerprint({"set": own, "rows": rows.rows.tolist(), **self.truth_digest(rows)})

    def _name(self, identity: Mapping[str, Any]) -> str:
        words = (self.train.dataset, self.own.name, self.training.shape.head, fingerprint(identity)[:8])
        return "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in word) for word in words)
