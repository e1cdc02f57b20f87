"""Which sets are in and out of distribution, and which backbones have all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featurebank.pipelines.config import ConfigError
from featurebank.pipelines.probing.selection import Selection, named_splits, parse_key, select
from featurebank.store import Entry, FeatureStore, NotFoundError

__all__ = ["OutSets", "out_sets", "select_backbones"]


@dataclass(frozen=True, kw_only=True)
class OutSets:
    """Out-of-distribution sets, DATASET/SPLIT each.

    Attributes:
        names: all of them, in the order given.
        near: those that are near.
    """

    names: tuple[str, ...]
    near: tuple[str, ...]


def out_sets(entries: Sequence[Entry], ood: Sequence[str], near: Sequence[str]) -> OutSets:
    """The sets that keys name; a DATASET is its test split, or all its splits where it has none.

    Raises:
        UnknownNameError: no such dataset or split.
        ConfigError: no key, or one with a train split or a backbone.
    """
    if not ood and not near:
        raise ConfigError("ood needs --ood DATASET/SPLIT, a set to tell apart from --id; it can be repeated")
    found = {option: _named(entries, option, keys) for option, keys in (("--ood", ood), ("--near", near))}
    near_names = tuple(dict.fromkeys(found["--near"]))
    return OutSets(names=tuple(dict.fromkeys([*found["--ood"], *near_names])), near=near_names)


def select_backbones(
    store: FeatureStore,
    key: str,
    sets: OutSets,
    *,
    backbones: Sequence[str] = (),
    fingerprints: Sequence[str] = (),
) -> Selection:
    """The in-distribution pairs of the backbones that have every out-of-distribution set; the others are passed over.

    Raises:
        UnknownNameError, NotFoundError: as `featurebank.pipelines.probing.selection.select`, or a backbone that was
            asked for lacks a set.
        ConfigError: a set is in and out of distribution.
    """
    selection = select(store, [key], backbones=backbones, fingerprints=fingerprints)
    entries = store.ls()
    asked = bool(backbones or parse_key(key, {entry.dataset for entry in entries}).backbone)
    places = {(f"{entry.dataset}/{entry.split}", entry.backbone) for entry in entries}
    having = []
    for pair in selection.pairs:
        for entry in (pair.train, pair.test):
            if (name := f"{entry.dataset}/{entry.split}") in sets.names:
                raise ConfigError(f"{name} must be in or out of distribution; found it under --id and under --ood")
        lacking = [name for name in sets.names if (name, pair.backbone) not in places]
        if not lacking:
            having.append(pair)
            continue
        reason = f"{pair.backbone} has no {' and no '.join(lacking)} in {store.root}"
        if asked:
            raise NotFoundError(f"{reason}; extract it: featurebank features CONFIG")
        selection.passed_over.append(reason)
    if not having and not selection.failed:
        raise NotFoundError("; ".join(selection.passed_over))
    selection.pairs = having
    return selection


def _named(entries: Sequence[Entry], option: str, keys: Sequence[str]) -> list[str]:
    datasets = {entry.dataset for entry in entries}
    names = []
    for text in keys:
        key = parse_key(text, datasets)
        if key.backbone or key.train:
            raise ConfigError(f"{option} must be DATASET or DATASET/SPLIT; found {text!r}; choose with --backbone")
        dataset, splits = named_splits(entries, text)
        names += [f"{dataset}/{split}" for split in splits]
    return names
