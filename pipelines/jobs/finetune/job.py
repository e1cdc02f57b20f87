"""One run: from a backbone and rows to tuned weights, the head from the cached probe, exactly resumable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from featurebank.extract import backbones
from featurebank.extract.key import LEAST_AGREEMENT
from featurebank.pipelines.jobs.finetune.images import ImageRows
from featurebank.pipelines.jobs.finetune.maps import FromCut, maps_of
from featurebank.pipelines.jobs.finetune.network import TunedNetwork, folded_head, random_head
from featurebank.pipelines.jobs.finetune.objective import targets
from featurebank.pipelines.jobs.finetune.task import Classification, Inputs, MapRows, Pictures, logits_of
from featurebank.pipelines.jobs.record import WEIGHTS, Record
from featurebank.pipelines.training import ranks
from featurebank.pipelines.training.draws import seeded_everywhere
from featurebank.pipelines.training.loop import Progress, train
from featurebank.pipelines.training.phase import Plan
from featurebank.pipelines.training.state import State, claimed, remove, weights_of
from featurebank.pipelines.training.task import TrainingError
from featurebank.pipelines.training.trial import Numerics, Precision, put, tried
from featurebank.store import FeatureSet
from featurebank.store.fingerprint import fingerprint

if TYPE_CHECKING:
    from featurebank.extract.backbones.contract import BackboneSpec, Head
    from featurebank.pipelines.asking.inputs import SplitRows
    from featurebank.pipelines.jobs.finetune.recipe import Recipe
    from featurebank.pipelines.jobs.finetune.sets import Sets
    from featurebank.pipelines.jobs.workshop import Workshop
    from featurebank.probes.linear import LinearFit

__all__ = ["Job", "Tuned"]

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
CHECKED_ROWS = 64
LEAST_OF_A_ROW = 0.99  # what bfloat16 costs single images: .9986 of EfficientNet-Lite0 at 96 px


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What a run gave.

    Attributes:
        name: ``tuned:NAME`` is the backbone.
        network: with the best weights, on the device.
        start: the weights at step 0, of what was trained.
        history: of each epoch.
        rate: that was chosen.
        numerics: that were used.
        notes: for people.
    """

    name: str
    network: TunedNetwork
    start: Mapping[str, torch.Tensor]
    history: Sequence[Mapping[str, Any]]
    rate: float
    numerics: Numerics
    notes: tuple[str, ...]


@dataclass(kw_only=True)
class Job:
    """All runs of one backbone on one set of rows.

    Attributes:
        spec: the backbone.
        recipe: how it is tuned.
        sets: on what.
        probe: fitted on the cached features.
        workshop: where.
        precision: ``auto``, or what is to be used.
        cached: whether what enters the first block that is tuned is extracted, and what is behind it run alone.
        flips: whether mirrored images are, too.
        score: metrics of logits of the validation rows.
    """

    spec: BackboneSpec
    recipe: Recipe
    sets: Sets
    probe: LinearFit | None
    workshop: Workshop
    precision: str
    cached: bool
    flips: bool
    score: Callable[[NDArray[np.float32]], Mapping[str, float]]

    def tune(self, seed: int) -> Tuned:
        """The network of one seed, trained where it is not there yet.

        Raises:
            TrainingError: it does not give the cached features, or training cannot go on.
        """
        identity = self.identity(seed)
        run = Record(self.workshop.root, self.name(identity), identity)
        network = self.network(seed)
        start = weights_of(network)
        record = ranks.shared(run.read())
        if record is None:
            self.workshop.check_training(run.name)
            self._check_features(network)
            with claimed(run.folder) if ranks.is_first() else nullcontext():
                # Whoever was waited for has trained it.
                record = ranks.shared(run.read()) or self._train(run, network, start, seed)
        network.load_state_dict(load_file(run.folder / WEIGHTS))
        if ranks.is_first():
            for checkpoints in run.folder.glob("rate-*"):
                remove(checkpoints)
        numerics = Numerics(device=self.workshop.device, **record["numerics"])
        put(network, numerics)
        return Tuned(
            name=run.name,
            network=network,
            start=start,
            history=record["history"],
            rate=record["rate"],
            numerics=numerics,
            notes=tuple(record["notes"]),
        )

    def _train(
        self, run: Record, network: TunedNetwork, start: Mapping[str, torch.Tensor], seed: int
    ) -> dict[str, Any]:
        """Each rate of the grid, and of the network the weights of the best."""
        begun = ranks.shared(run.begun())
        if begun is None:
            begun = ranks.shared(self._numerics(network, seed))
            run.begin(begun)
        numerics = Numerics(device=self.workshop.device, **begun["numerics"])
        states: dict[float, State] = {}
        for rate in self.recipe.rates or (self.recipe.phases[0].rate,):
            put(network, numerics).load_state_dict(start, strict=False)
            recipe = self.recipe.at_rate(rate)
            states[rate] = train(
                self._task(network, recipe, numerics, seed),
                plan_of(recipe, seed),
                numerics,
                folder=run.folder / f"rate-{rate:g}",
                identity={**run.identity, "rate": rate},
                seconds_between=self.workshop.seconds_between,
                observe=self._observer(seed, rate),
            )
        chosen = max(states, key=lambda rate: (states[rate].best_score, -rate))
        self._take_up(network, states[chosen].best)
        record = {**begun, "history": states[chosen].history, "rate": chosen, "notes": list(network.notes)}
        record["scores"] = {f"{rate:g}": state.best_score for rate, state in states.items()}
        if ranks.is_first():
            network.save(run.folder, self.spec, self.sets.names)
            run.end(record)
        ranks.wait()
        return record

    def network(self, seed: int) -> TunedNetwork:
        """The network that is to be tuned, at step 0."""
        network = TunedNetwork(
            backbones.trainable(replace(self.spec, outputs=("pooled",))),
            self._head(seed),
            batch_norm=self.recipe.batch_norm,
            drop_path=self.recipe.drop_path,
        )
        network.freeze(self.recipe.frozen_blocks)
        return network

    def _head(self, seed: int) -> Head:
        width = self.sets.train.features.shape[1]
        if self.probe is None or self.recipe.head == "random":
            return random_head(width, self.sets.outputs, seed)
        return folded_head(self.probe, self.sets.outputs)

    def inputs(self, split: SplitRows, numerics: Numerics) -> Pictures:
        """The images of rows, as extraction sees them."""
        del numerics
        images = ImageRows(self.workshop.images(split), split.rows, self.spec.preprocessing)
        return Pictures(rows=images, workers=self.workshop.workers)

    def logits(self, network: TunedNetwork, split: SplitRows, numerics: Numerics) -> NDArray[np.float32]:
        """(N, K) of the whole network on the images of rows."""
        return logits_of(network, self.inputs(split, numerics), numerics)

    def _task(self, network: TunedNetwork, recipe: Recipe, numerics: Numerics, seed: int) -> Classification:
        train, validation, model = self._inputs(network, recipe, seed)
        return Classification(
            model=model,
            network=network,
            train=train,
            validation=validation,
            targets=targets(self.sets.train.labels, recipe, self.sets.names),
            classes=self.sets.classes,
            score=self.score,
            recipe=recipe,
            numerics=numerics,
            seed=seed,
        )

    def _inputs(self, network: TunedNetwork, recipe: Recipe, seed: int) -> tuple[Inputs, Inputs, torch.nn.Module]:
        sets, workshop = self.sets, self.workshop
        if self.cached:
            model = FromCut(network, recipe.frozen_blocks)
            views = [maps_of(self.spec, sets.train, model.cut, workshop)]
            if self.flips:
                views.append(maps_of(self.spec, sets.train, model.cut, workshop, flip=True))
            held = [maps_of(self.spec, sets.validation, model.cut, workshop)]
            return (
                MapRows(views=views, rows=sets.train.rows, seed=seed),
                MapRows(views=held, rows=sets.validation.rows, seed=seed),
                model,
            )
        images = ImageRows(
            workshop.images(sets.train),
            sets.train.rows,
            self.spec.preprocessing,
            augmentation=recipe.augmentation,
            seed=seed,
        )
        held_images = ImageRows(workshop.images(sets.validation), sets.validation.rows, self.spec.preprocessing)
        return (
            Pictures(rows=images, workers=workshop.workers),
            Pictures(rows=held_images, workers=workshop.workers),
            network,
        )

    def _take_up(self, network: TunedNetwork, weights: Mapping[str, torch.Tensor]) -> None:
        prefix = FromCut.PREFIX if self.cached else ""
        network.load_state_dict({name.removeprefix(prefix): value for name, value in weights.items()}, strict=False)

    def _check_features(self, network: TunedNetwork) -> None:
        """The network must give the cached features, or the probe's head has no meaning on it."""
        rows = self.sets.train
        some = np.unique(np.linspace(0, len(rows.rows) - 1, CHECKED_ROWS).astype(int))
        images = ImageRows(self.workshop.images(rows), rows.rows, self.spec.preprocessing)
        network.eval()
        with torch.no_grad():
            pooled = network.pooled(torch.stack([images[-1, int(row)] for row in some]))
        cached = torch.from_numpy(rows.features[some].astype(np.float32))
        cosines = torch.nn.functional.cosine_similarity(cached.double(), pooled.double())
        mean, least = float(cosines.mean()), float(cosines.min())
        if not (mean >= LEAST_AGREEMENT and least >= LEAST_OF_A_ROW):
            raise TrainingError(
                f"{self.spec.name} must give the features that are cached of {rows.name}, at a mean cosine of "
                f"{LEAST_AGREEMENT} and one of {LEAST_OF_A_ROW} for each row; found {mean:.5f} and {least:.5f}: the "
                "images, or the library that builds the network, have changed; extract them again"
            )

    def _numerics(self, network: TunedNetwork, seed: int) -> dict[str, Any]:
        """What is asked for, or what a few steps find fastest; the network is left as it was."""
        device = self.workshop.device
        if self.precision != "auto":
            return {"numerics": {"precision": self.precision, "channels_last": True}}
        candidates = [
            Numerics(device=device, precision=precision, channels_last=last)
            for precision in PRECISIONS
            for last in (False, True)
        ]
        before, task = weights_of(network), self._task(network, self.recipe, candidates[0], seed)
        window = np.arange(min(self.recipe.batch_size, task.n_rows))
        batch = next(iter(task.batches(0, [window], 0)))

        def step(one: Numerics) -> None:
            put(task.model, one).train()
            own = replace(batch, inputs=one.laid_out(batch.inputs), targets=batch.targets.to(device))
            with seeded_everywhere(seed, "trial"), one.autocast():
                losses = task.losses(task.model, own)
            torch.autograd.backward(losses.sum())
            task.model.zero_grad(set_to_none=True)

        fastest, seconds = tried(step, candidates)
        network.load_state_dict(before, strict=False)
        return {
            "numerics": {"precision": fastest.precision, "channels_last": fastest.channels_last},
            "seconds of a step": seconds,
        }

    def _observer(self, seed: int, rate: float) -> Callable[[Progress], None]:
        what = f"{self.spec.name} on {self.sets.train.name}"
        what += f", seed {seed}" if seed else ""
        what += f", rate {rate:g}" if len(self.recipe.rates) > 1 else ""
        return lambda progress: self.workshop.observe(what, progress)

    def identity(self, seed: int) -> dict[str, Any]:
        """What determines the weights, as plain JSON."""
        from featurebank.pipelines.jobs.finetune.recipe import plain_recipe

        with FeatureSet(self.sets.train.path) as feature_set:
            key = {name: feature_set.key[name] for name in ("backbone", "preprocessing")}
        return {
            "backbone": fingerprint(key),
            "recipe": plain_recipe(self.recipe),
            "seed": seed,
            "cached": self.cached,
            "flips": self.flips,
            "train": _digest_of(self.sets.train),
            "validation": _digest_of(self.sets.validation),
        }

    def name(self, identity: Mapping[str, Any]) -> str:
        """What the tuned network is called: readable, and different for every run."""
        words = (self.sets.train.dataset, self.spec.name, self.recipe.name, fingerprint(identity)[:8])
        return "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in word) for word in words)


def plan_of(recipe: Recipe, seed: int) -> Plan:
    """How the trainer goes about a recipe."""
    return Plan(
        phases=recipe.phases,
        batch_size=recipe.batch_size,
        even=recipe.mixes,
        seed=seed,
        clip=recipe.clip,
        ema=recipe.ema,
    )


def _digest_of(split: SplitRows) -> str:
    """Of the set, its rows and their classes as they are used."""
    with FeatureSet(split.path) as feature_set:
        own = feature_set.fingerprint
    numbers = [split.rows.tolist(), split.labels.tolist()]
    return fingerprint({"set": own, "rows": numbers})
