"""The jobs of a configuration: which are asked of what, and where they work."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from featurebank.extract import datasets
from featurebank.extract.backbones import stored_name
from featurebank.extract.key import backbone_key
from featurebank.pipelines.asking.roles import select
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.extracting.opening import dataset_specs, resolve_all
from featurebank.pipelines.jobs.workshop import Workshop, reading_workers
from featurebank.pipelines.training.progress import told

if TYPE_CHECKING:
    from featurebank.extract.backbones.contract import BackboneSpec
    from featurebank.extract.datasets.contract import Split
    from featurebank.pipelines.asking.cases import Selection
    from featurebank.pipelines.asking.question import Question
    from featurebank.pipelines.extracting.config import RunConfig
    from featurebank.pipelines.training.loop import Progress
    from featurebank.store import FeatureSet, FeatureStore

__all__ = ["jobs_of", "workshop_of"]

log = logging.getLogger("featurebank")


def jobs_of(run: RunConfig, store: FeatureStore, *sections: str) -> list[tuple[Question, Selection]]:
    """Each job of some sections of a configuration with its cases.

    Raises:
        NotFoundError: a set is not in the store.
    """
    pairs = []
    for one in (one for section in sections for one in getattr(run, section)):
        question = one.asked()
        names = one.backbones or tuple(
            f"{stored_name(of.name)}[{of.label}]" if of.label else stored_name(of.name) for of in run.backbones
        )
        pairs.append((question, select(store, question, one.of, backbones=names)))
    return pairs


def workshop_of(
    run: RunConfig, say: Callable[[str], None], observe: Callable[[str, Progress], None] | None = None
) -> Workshop:
    """Where the jobs of a configuration work; nothing is opened or built before it is asked for."""

    @cache
    def specs() -> list[BackboneSpec]:
        unavailable: dict[str, str] = {}
        resolved = resolve_all(run, unavailable)
        if unavailable:
            say("; ".join(f"{name}: {reason}" for name, reason in unavailable.items()))
        return resolved

    def spec_of(feature_set: FeatureSet) -> BackboneSpec:
        made_by = {**feature_set.key["backbone"], "preprocessing": feature_set.key["preprocessing"]}
        made_by.pop("outputs", None)
        for spec in specs():
            own = backbone_key(spec)
            own.pop("outputs", None)
            if own == made_by:
                return spec
        raise ConfigError(f"{feature_set.path} must be of a backbone of this configuration; found {made_by['name']}")

    @cache
    def images_of(place: str) -> Split:
        every = {f"{datasets.label_of(spec)}/{spec.split}": spec for one in run.datasets for spec in dataset_specs(one)}
        if place not in every:
            raise ConfigError(f"{place} must be a dataset of this configuration; found {', '.join(every)}")
        return datasets.open_split(every[place])

    return Workshop(
        root=run.store,
        spec_of=spec_of,
        images_of=images_of,
        wish=run.extraction.device.partition(",")[0],  # a job has one
        workers=reading_workers(),
        observe=observe or (lambda what, progress: log.debug("%s", told(what, progress))),
        say=say,
    )
