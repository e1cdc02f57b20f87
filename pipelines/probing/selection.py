"""Which feature sets a probe reads: from the names a person writes to one pair of sets for each backbone.

A KEY is ``DATASET``, ``DATASET/TEST`` or ``DATASET/TRAIN:TEST``, each with ``@BACKBONE`` where only one is meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from featurebank.extract.errors import fault
from featurebank.store import AmbiguousError, CorruptError, Entry, FeatureStore, NotFoundError
from featurebank.store.entries import described, newest_contents
from featurebank.store.errors import unknown_name
from featurebank.store.fingerprint import differences

__all__ = ["Key", "Pair", "Selection", "called", "further_sets", "named_splits", "parse_key", "same_recipe", "select"]

TRAIN, TEST = "train", "test"
VALIDATIONS = ("val", "valid", "validation")


@dataclass(frozen=True, kw_only=True)
class Key:
    """A KEY, taken apart; what it leaves open is ``None``."""

    dataset: str
    train: str | None = None
    test: str | None = None
    backbone: str | None = None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One backbone's feature sets of a dataset: fitted on one, settings chosen on one, scored on one.

    ``asked`` are the beginnings of fingerprints that were given, which choose among further sets too.
    """

    backbone: str
    train: Entry
    test: Entry
    validation: Entry | None = None
    asked: tuple[str, ...] = field(default=(), compare=False)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of the sets, in the order train, validation, test."""
        sets = (self.train, self.validation, self.test)
        return tuple(entry.fingerprint for entry in sets if entry is not None)


@dataclass(kw_only=True)
class Selection:
    """Pairs in the order of the keys; what was asked for and cannot be probed, and why; what was passed over."""

    pairs: list[Pair] = field(default_factory=list)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)


def parse_key(text: str, datasets: Iterable[str]) -> Key:
    """Takes a KEY apart; names may hold ``/``, ``:`` and ``@`` themselves, so the longest known dataset wins.

    >>> parse_key("pets/train:test@timm:vit@random:0", ["pets"])
    Key(dataset='pets', train='train', test='test', backbone='timm:vit@random:0')

    Raises:
        UnknownNameError: it begins with no dataset of the store.
    """
    known = sorted(set(datasets), key=len, reverse=True)
    for dataset in known:
        rest = text.removeprefix(dataset)
        if not text.startswith(dataset) or rest[:1] not in ("", "/", "@"):
            continue
        splits, _, backbone = rest.removeprefix("/").partition("@")
        train, colon, test = splits.partition(":")
        return Key(
            dataset=dataset,
            train=train if colon else None,
            test=(test if colon else train) or None,
            backbone=backbone or None,
        )
    raise unknown_name("dataset", text.partition("@")[0].rpartition("/")[0] or text.partition("@")[0], known)


def select(
    store: FeatureStore,
    keys: Sequence[str],
    *,
    backbones: Sequence[str] = (),
    fingerprints: Sequence[str] = (),
    train: bool = True,
) -> Selection:
    """The pairs that KEYs name.

    Args:
        store: the store.
        keys: as `parse_key` takes them.
        backbones: only these, where a key names none; all if empty.
        fingerprints: beginnings of fingerprints; where several sets match, the one that has one is taken. Without,
            the newest content of a dataset is, and a line of the log says so.
        train: whether something is fitted; if not, a pair's train set is its test set.

    Raises:
        UnknownNameError, NotFoundError: a dataset, split or backbone that does not exist, or no pair at all.
    """
    entries = store.ls()
    for beginning in fingerprints:
        if not any(entry.fingerprint.startswith(beginning) for entry in entries):
            raise NotFoundError(f"{store.root}: there is no feature set whose fingerprint begins with {beginning!r}")
    selection = Selection()
    for text in keys:
        key = parse_key(text, {entry.dataset for entry in entries})
        own = [entry for entry in entries if entry.dataset == key.dataset]
        splits = _splits(key, {entry.split for entry in own}, train=train)
        wanted = [key.backbone] if key.backbone else list(backbones)
        present = {entry.name for entry in own}
        for name in called(own, wanted, f"backbone of {key.dataset}") if wanted else sorted(present):
            of = [entry for entry in own if entry.name == name]
            lacking = [s for s in dict.fromkeys((splits[0], splits[2])) if not any(entry.split == s for entry in of)]
            if lacking:
                reason = f"{name} has no {key.dataset}/{' and no '.join(lacking)} in {store.root}"
                if wanted:
                    raise NotFoundError(f"{reason}; extract it: featurebank features CONFIG")
                selection.passed_over.append(reason)
                continue
            try:
                pair = _pair(of, splits, fingerprints)
            except Exception as error:
                selection.failed[name, f"{key.dataset}/{splits[2]}"] = fault(error)
                continue
            if pair not in selection.pairs:
                selection.pairs.append(pair)
    if not selection.pairs and not selection.failed:
        raise NotFoundError("; ".join(selection.passed_over) or f"{store.root}: there is no feature set to probe")
    return selection


def called(entries: Sequence[Entry], backbones: Iterable[str], what: str) -> list[str]:
    """What the backbones that a person names are called in a store: one, or all that share a name.

    Raises:
        UnknownNameError: there is none of that name.
    """
    found: dict[str, None] = {}
    names = {entry.name for entry in entries}
    for backbone in backbones:
        own = {backbone} & names or {entry.name for entry in entries if entry.backbone == backbone}
        if not own:
            raise unknown_name(what, backbone, names)
        found |= dict.fromkeys(sorted(own))
    return [*found]


def further_sets(entries: Sequence[Entry], text: str, like: Pair) -> list[Entry]:
    """The sets of a pair's backbone on DATASET/SPLIT, made the same way; on DATASET, its test split or else all splits.

    Raises:
        UnknownNameError: no such dataset or split.
        NotFoundError: the backbone has no such set.
        ValueError: there are only sets made another way, damaged or unfinished ones.
    """
    dataset, splits = named_splits(entries, text)
    recipe = _key_of(like.test)
    found = []
    for split in splits:
        of = [e for e in entries if (e.dataset, e.split, e.name) == (dataset, split, like.backbone)]
        if not of:
            raise NotFoundError(f"{like.backbone} has no {dataset}/{split} in the store; extract it first")
        candidates = _candidates(of, like.asked)
        alike = [entry for entry in candidates if not same_recipe(recipe, _key_of(entry))]
        if not alike:
            raise ValueError(_mismatch(like.test, candidates[0]))
        if len(alike) > 1:
            raise AmbiguousError(_several(alike))
        found += alike
    return found


def named_splits(entries: Iterable[Entry], text: str) -> tuple[str, list[str]]:
    """The dataset and the splits that DATASET or DATASET/SPLIT means; see `further_sets`."""
    places = {(entry.dataset, entry.split) for entry in entries}
    key = parse_key(text, {dataset for dataset, _ in places})
    splits = sorted(split for dataset, split in places if dataset == key.dataset)
    if key.test is not None and key.test not in splits:
        raise unknown_name(f"split of {key.dataset}", key.test, splits)
    return key.dataset, [key.test] if key.test else [TEST] if TEST in splits else splits


def same_recipe(left: Mapping[str, object], right: Mapping[str, object]) -> list[str]:
    """What differs between the keys of two feature sets besides the dataset and the list of outputs; empty if nothing.

    >>> same_recipe({"dtype": "float16", "dataset": {"split": "a"}}, {"dtype": "float32", "dataset": {"split": "b"}})
    ["dtype: 'float16' and 'float32'"]
    """
    ignored = ("dataset.", "backbone.outputs")
    found = differences(left, right)
    return [f"{name}: {a!r} and {b!r}" for name, a, b in found if not f"{name}.".startswith(ignored)]


def _splits(key: Key, splits: set[str], *, train: bool) -> tuple[str, str | None, str]:
    """The names of the train, validation and test splits."""
    validation = next((name for name in VALIDATIONS if name in splits), None)
    test = key.test or (TEST if TEST in splits or validation is None else validation)
    fitted = key.train or TRAIN if train else test
    for name in (fitted, test):
        if name not in splits:
            raise unknown_name(
                f"split of {key.dataset}", name, splits, f"(both can be named: {key.dataset}/TRAIN:TEST)"
            )
    if train and fitted == test:
        raise NotFoundError(
            f"{key.dataset}: expected two different splits to fit on and to score, found {test!r} twice; "
            f"the store has {', '.join(sorted(splits))}"
        )
    return fitted, None if validation in (fitted, test) else validation, test


def _pair(of: Sequence[Entry], names: tuple[str, str | None, str], fingerprints: Sequence[str]) -> Pair:
    sides = ([entry for entry in of if entry.split == name] for name in names)
    train, validation, test = (_candidates(side, fingerprints) for side in sides)
    keys = {entry.path: _key_of(entry) for entry in (*train, *validation, *test)}
    pairs = [(a, b) for a in train for b in test if not same_recipe(keys[a.path], keys[b.path])]
    if not pairs:
        raise ValueError(_mismatch(train[0], test[0]))
    if len(pairs) > 1:
        found = (list({pair[side].path: pair[side] for pair in pairs}.values()) for side in (0, 1))
        raise AmbiguousError("\n".join(_several(side) for side in found if len(side) > 1))
    a, b = pairs[0]
    held = [entry for entry in validation if not same_recipe(keys[a.path], keys[entry.path])]
    if len(held) > 1:
        raise AmbiguousError(_several(held))
    return Pair(backbone=a.name, train=a, validation=held[0] if held else None, test=b, asked=tuple(fingerprints))


def _candidates(entries: Sequence[Entry], fingerprints: Sequence[str]) -> list[Entry]:
    """Of the sets of one split: those that have one of the fingerprints, else the newest of each recipe."""
    named = [entry for entry in entries if entry.fingerprint.startswith(tuple(fingerprints))]
    _check_sealed(named or entries)
    return newest_contents(named or entries, fingerprints)


def _check_sealed(entries: Sequence[Entry]) -> None:
    """Raises where there are others only."""
    if entries and not any(entry.state == "sealed" for entry in entries):
        first = entries[0]
        what = first.message or f"{first.path} is unfinished; extract it to the end: featurebank features CONFIG"
        raise CorruptError(what)


def _key_of(entry: Entry) -> Mapping[str, object]:
    with entry.open() as feature_set:
        return feature_set.key


def _place(entry: Entry) -> str:
    return f"{entry.dataset}/{entry.split} {entry.fingerprint[:8]}"


def _mismatch(left: Entry, right: Entry) -> str:
    found = "; ".join(same_recipe(_key_of(left), _key_of(right)))
    return (
        f"the sets of a probe must be made the same way; {_place(left)} and {_place(right)} differ in {found}; "
        "extract one of them again"
    )


def _several(entries: Sequence[Entry]) -> str:
    first = entries[0]
    return (
        f"several sets match {first.dataset}/{first.split}, {first.name}; choose one with --fingerprint: "
        f"{described(entries)}"
    )
