"""Which sets are in and out of distribution, and which backbones have all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.probing.selection import Selection, named_splits, parse_key, select
from featurebank.store import Entry, FeatureStore, NotFoundError

__all__ = ["Keys", "OutSets", "out_sets", "select_backbones"]


@dataclass(frozen=True, kw_only=True)
class Keys:
    """What a person asks for.

    Attributes:
        inside: KEY of the in-distribution pair.
        ood: keys of out-of-distribution sets.
        near: keys of near ones.
        shifted: keys of covariate-shifted in-distribution sets.
        tuning: key of the set that parameters are chosen on.
        id_classes: the classes in distribution, if not all.
    """

    inside: str
    ood: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    shifted: tuple[str, ...] = ()
    tuning: str | None = None
    id_classes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OutSets:
    """Further sets, DATASET/SPLIT each.

    Attributes:
        names: the out-of-distribution sets, in the order given.
        near: those that are near.
        shifted: covariate-shifted in-distribution sets.
        tuning: the out-of-distribution set that parameters are chosen on, if any.
    """

    names: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    shifted: tuple[str, ...] = ()
    tuning: tuple[str, ...] = ()

    @property
    def every(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.names, *self.shifted, *self.tuning)


def out_sets(
    entries: Sequence[Entry],
    ood: Sequence[str],
    near: Sequence[str] = (),
    *,
    shifted: Sequence[str] = (),
    tuning: str | None = None,
    held_out: bool = False,
) -> OutSets:
    """The sets that keys name; a DATASET is its test split, or all its splits where it has none.

    Args:
        entries: of the store.
        ood: keys of out-of-distribution sets.
        near: keys of near ones.
        shifted: keys of covariate-shifted in-distribution sets.
        tuning: key of the set to choose parameters on.
        held_out: whether classes of the in-distribution set are held out, so that no other set is needed.

    Raises:
        UnknownNameError: no such dataset or split.
        ConfigError: no key, one with a train split or a backbone, a set in two roles, or several to choose on.
    """
    if not ood and not near and not held_out:
        raise ConfigError("ood needs --ood DATASET/SPLIT, a set to tell apart from --id; it can be repeated")
    keys = {"--ood": ood, "--near": near, "--shifted": shifted, "--validation": [tuning] if tuning else []}
    found = {option: tuple(dict.fromkeys(_named(entries, option, of))) for option, of in keys.items()}
    if len(found["--validation"]) > 1:
        raise ConfigError(f"--validation must be one set; found {', '.join(found['--validation'])}")
    names = tuple(dict.fromkeys([*found["--ood"], *found["--near"]]))
    for option, taken in (("--shifted", names), ("--validation", (*names, *found["--shifted"]))):
        if twice := [name for name in found[option] if name in taken]:
            raise ConfigError(f"{option} must be a set of its own; found {twice[0]} in another role too")
    return OutSets(names=names, near=found["--near"], shifted=found["--shifted"], tuning=found["--validation"])


def select_backbones(
    store: FeatureStore,
    key: str,
    sets: OutSets,
    *,
    backbones: Sequence[str] = (),
    fingerprints: Sequence[str] = (),
) -> Selection:
    """The in-distribution pairs of the backbones that have every further set; the others are passed over.

    Raises:
        UnknownNameError, NotFoundError: as `featurebank.pipelines.probing.selection.select`, or a backbone that was
            asked for lacks a set.
        ConfigError: a set is in and out of distribution.
    """
    selection = select(store, [key], backbones=backbones, fingerprints=fingerprints)
    entries = store.ls()
    asked = bool(backbones or parse_key(key, {entry.dataset for entry in entries}).backbone)
    places = {(f"{entry.dataset}/{entry.split}", entry.name) for entry in entries}
    having = []
    for pair in selection.pairs:
        for entry in (pair.train, pair.test):
            if (name := f"{entry.dataset}/{entry.split}") in sets.every:
                raise ConfigError(f"{name} must be in or out of distribution; found it under --id and under --ood")
        lacking = [name for name in sets.every if (name, pair.backbone) not in places]
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
