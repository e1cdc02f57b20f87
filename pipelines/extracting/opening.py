"""What a configuration names, as it is on this machine; what cannot be had stops no other."""

from __future__ import annotations

import logging
from dataclasses import replace

from featurebank.extract import backbones, datasets
from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.datasets.contract import DatasetSpec, Split, Stamped, Subset
from featurebank.extract.errors import fault
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.extracting.config import DatasetConfig, ExtractionConfig, RunConfig
from featurebank.store.addresses import without_secrets

__all__ = ["dataset_specs", "open_all", "resolve_all"]

log = logging.getLogger("featurebank")


def resolve_all(config: RunConfig, unavailable: dict[str, str]) -> list[BackboneSpec]:
    """The backbones of a run; why one cannot be had goes into ``unavailable``."""
    specs = []
    for entry in config.backbones:
        try:
            spec = backbones.resolve(
                entry.name, checkpoint=entry.checkpoint, outputs=entry.outputs, checkpoint_key=entry.checkpoint_key
            )
            specs.append(replace(_decoded_by(spec, config.extraction), label=entry.label))
        except Exception as error:
            unavailable[without_secrets(entry.title)] = fault(error)
            log.error("backbone %s cannot be had; why stands at the end", without_secrets(entry.title))
    return specs


def _decoded_by(spec: BackboneSpec, wish: ExtractionConfig) -> BackboneSpec:
    preprocessing = spec.preprocessing
    limit = preprocessing.decode.max_pixels if wish.max_pixels is None else wish.max_pixels
    decode = replace(preprocessing.decode, library=wish.decoder, max_pixels=limit)
    return replace(spec, preprocessing=replace(preprocessing, decode=decode))


def open_all(config: RunConfig, unavailable: dict[str, str], *, read_once: bool) -> tuple[list[Split], dict[int, str]]:
    """The splits, and the digest of each, for which every record is read.

    Args:
        config: of the run.
        unavailable: takes why a split cannot be had.
        read_once: whether a split whose records may be read once, by the run itself, has no digest yet.
    """
    splits: list[Split] = []
    digests: dict[int, str] = {}
    seen: dict[tuple[str, str], str] = {}
    for dataset in config.datasets:
        for spec in dataset_specs(dataset):
            place = (datasets.label_of(spec), spec.split)
            if place in seen:
                raise ConfigError(
                    f"{dataset.name} and {seen[place]} would both be {place[0]}/{place[1]} in the store; "
                    "give one of them a label, or one of the subsets another configuration"
                )
            seen[place] = dataset.name
            try:
                split = datasets.open_split(spec)
                digest = "" if read_once and isinstance(split, Stamped) else datasets.dataset_digest(split)
            except Exception as error:
                unavailable[f"{spec.name}/{spec.split}"] = fault(error)
                log.error("dataset %s/%s cannot be had; why stands at the end", spec.name, spec.split)
                continue
            if digest:
                digests[len(splits)] = digest
            splits.append(split)
    return splits, digests


def dataset_specs(dataset: DatasetConfig) -> list[DatasetSpec]:
    """Its splits."""
    return [
        DatasetSpec(
            name=dataset.name,
            split=entry.split,
            subset=None if entry.subset is None else Subset(**vars(entry.subset)),
            label=dataset.label,
            root=dataset.root,
        )
        for entry in dataset.splits
    ]
