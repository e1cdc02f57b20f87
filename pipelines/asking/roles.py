"""Which feature sets a question reads: from the names a person writes to the sets of each backbone by their role.

A KEY is ``DATASET``, ``DATASET/TEST`` or ``DATASET/TRAIN:TEST``, each with ``@BACKBONE`` where only one is meant.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from featurebank.extract.errors import fault
from featurebank.extract.text_sets import TEXTS, is_texts
from featurebank.pipelines.asking.cases import Case, Selection
from featurebank.pipelines.asking.option import flag_of
from featurebank.pipelines.asking.question import Question
from featurebank.pipelines.errors import ConfigError
from featurebank.store import AmbiguousError, CorruptError, Entry, FeatureStore, NotFoundError
from featurebank.store.entries import described, newest_contents
from featurebank.store.errors import unknown_name
from featurebank.store.fingerprint import differences

__all__ = ["Key", "called", "named_splits", "parse_key", "same_recipe", "select"]

TRAIN, TEST = "train", "test"
VALIDATIONS = ("val", "valid", "validation")


@dataclass(frozen=True, kw_only=True)
class Key:
    """A KEY, taken apart; what it leaves open is ``None``."""

    dataset: str
    train: str | None = None
    test: str | None = None
    backbone: str | None = None


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
    question: Question,
    keys: Sequence[str],
    *,
    backbones: Sequence[str] = (),
    fingerprints: Sequence[str] = (),
) -> Selection:
    """The cases that KEYs name, with the further sets of the question; backbones that lack one are passed over.

    Args:
        store: the store.
        question: what is asked.
        keys: as `parse_key` takes them.
        backbones: only these, where a key names none; all if empty.
        fingerprints: beginnings of fingerprints; where several sets match, the one that has one is taken. Without,
            the newest content of a dataset is, and a line of the log says so.

    Raises:
        UnknownNameError, NotFoundError: a dataset, split or backbone that does not exist, or no case at all.
        ConfigError: a set in two roles.
    """
    entries = store.ls()
    for beginning in fingerprints:
        if not any(entry.fingerprint.startswith(beginning) for entry in entries):
            raise NotFoundError(f"{store.root}: there is no feature set whose fingerprint begins with {beginning!r}")
    further = _further(entries, question)
    selection = Selection()
    for text in keys:
        key = parse_key(text, {entry.dataset for entry in entries})
        own = [entry for entry in entries if entry.dataset == key.dataset]
        if question.layout.scored in further and key.train not in (None, key.test):
            flag = flag_of(question, question.layout.scored)
            raise ConfigError(f"{flag} is the other side of a single set, DATASET/SPLIT; found {text}")
        names = _splits(key, {entry.split for entry in own}, question)
        needed = dict.fromkeys((f"{key.dataset}/{names[0]}", f"{key.dataset}/{names[2]}"))
        needed |= dict.fromkeys(place for places in further.values() for place in places)
        _check_roles(question, names, key.dataset, further)
        wanted = [key.backbone] if key.backbone else list(backbones)
        present = sorted({entry.name for entry in own})
        for name in called(own, wanted, f"backbone of {key.dataset}") if wanted else present:
            of = [entry for entry in entries if entry.name == name]
            lacking = [place for place in needed if not any(entry.place == place for entry in of)]
            if lacking:
                reason = f"{name} has no {' and no '.join(lacking)} in {store.root}"
                if wanted:
                    raise NotFoundError(f"{reason}; extract it: featurebank features CONFIG")
                selection.passed_over.append(reason)
                continue
            try:
                case = _case(of, key.dataset, names, question=question, further=further, fingerprints=fingerprints)
            except NotFoundError as error:
                if wanted:
                    raise
                selection.passed_over.append(str(error))
                continue
            except Exception as error:
                scored, *_ = further.get(question.layout.scored, (f"{key.dataset}/{names[2]}",))
                selection.failed[name, scored] = fault(error)
                continue
            if case not in selection.cases:
                selection.cases.append(case)
    if not selection.cases and not selection.failed:
        raise NotFoundError("; ".join(selection.passed_over) or f"{store.root}: there is no feature set to ask")
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


def named_splits(entries: Iterable[Entry], text: str) -> tuple[str, list[str]]:
    """The dataset and the splits that DATASET or DATASET/SPLIT means: its test split or else all splits."""
    places = {(entry.dataset, entry.split) for entry in entries}
    key = parse_key(text, {dataset for dataset, _ in places})
    splits = sorted(split for dataset, split in places if dataset == key.dataset)
    if key.test is not None and key.test not in splits:
        raise unknown_name(f"split of {key.dataset}", key.test, splits)
    images = [split for split in splits if not split.startswith(TEXTS)]
    return key.dataset, [key.test] if key.test else [TEST] if TEST in splits else images


def same_recipe(left: Mapping[str, object], right: Mapping[str, object]) -> list[str]:
    """What differs between the keys of two feature sets besides the dataset and the list of outputs; empty if nothing.

    Text features are made the same way as image features where both are of one backbone.

    >>> same_recipe({"dtype": "float16", "dataset": {"split": "a"}}, {"dtype": "float32", "dataset": {"split": "b"}})
    ["dtype: 'float16' and 'float32'"]
    """
    ignored = ("dataset.", "backbone.outputs")
    if is_texts(left) or is_texts(right):  # the two towers of one network
        left, right = ({"backbone": key.get("backbone")} for key in (left, right))
    found = differences(left, right)
    return [f"{name}: {a!r} and {b!r}" for name, a, b in found if not f"{name}.".startswith(ignored)]


def _further(entries: Sequence[Entry], question: Question) -> dict[str, tuple[str, ...]]:
    """The places of the further sets by their role; one alone where the option takes one."""
    datasets, found = {entry.dataset for entry in entries}, {}
    for role, texts in question.further.items():
        places: list[str] = []
        for text in texts:
            key = parse_key(text, datasets)
            if key.backbone or key.train:
                flag = flag_of(question, role)
                raise ConfigError(f"{flag} must be DATASET or DATASET/SPLIT; found {text!r}; choose with --backbone")
            dataset, splits = named_splits(entries, text)
            if len(splits) > 1 and isinstance(getattr(question, role), str):
                many = ", ".join(f"{dataset}/{split}" for split in splits)
                raise ConfigError(
                    f"{flag_of(question, role)} must be one set, DATASET/SPLIT; found {text}, which is {many}"
                )
            places += [f"{dataset}/{split}" for split in splits]
        found[role] = tuple(dict.fromkeys(places))
    if len(roles := question.layout.within) == 2:
        taken, whole = (found.get(role, ()) for role in roles)
        found[roles[1]] = tuple(place for place in whole if place not in taken)
    return {role: places for role, places in found.items() if places}


def _check_roles(
    question: Question, names: tuple[str, str | None, str], dataset: str, further: Mapping[str, Sequence[str]]
) -> None:
    """Raises ConfigError where a set plays two parts that exclude each other."""
    taken = {f"{dataset}/{name}": "KEY" for name in names if name}
    for role in question.layout.apart:
        for place in further.get(role, ()):
            if place in taken:
                raise ConfigError(
                    f"{flag_of(question, role)} must be a set of its own; found {place}, which is in {taken[place]} too"
                )
            taken[place] = flag_of(question, role)


def _splits(key: Key, splits: set[str], question: Question) -> tuple[str, str | None, str]:
    """The names of the fitted, validation and scored splits."""
    validation = next((name for name in VALIDATIONS if name in splits), None)
    test = key.test or (TEST if TEST in splits or validation is None else validation)
    fits = question.fits and not (question.layout.alone and key.train in (None, key.test))
    fitted = key.train or TRAIN if fits else test
    for name in (fitted, test):
        if name not in splits:
            raise unknown_name(
                f"split of {key.dataset}", name, splits, f"(both can be named: {key.dataset}/TRAIN:TEST)"
            )
    if fits and fitted == test:
        raise NotFoundError(
            f"{key.dataset}: expected two different splits to fit on and to score, found {test!r} twice; "
            f"the store has {', '.join(sorted(splits))}"
        )
    return fitted, None if validation in (fitted, test) or question.layout.alone else validation, test


def _case(
    of: Sequence[Entry],
    dataset: str,
    names: tuple[str, str | None, str],
    *,
    question: Question,
    further: Mapping[str, Sequence[str]],
    fingerprints: Sequence[str],
) -> Case:
    """The sets of one backbone, all made the same way; where one may be several, the one that is.

    A further set in the scored role replaces the KEY's, which then is the fitted one, unless both are the same.
    """
    layout = question.layout
    sides = ([entry for entry in of if (entry.dataset, entry.split) == (dataset, name)] for name in names)
    fitted, validation, scored = (_candidates(side, fingerprints) for side in sides)
    keys = {entry.path: _key_of(entry) for entry in (*fitted, *validation, *scored)}
    pairs = [(a, b) for a in fitted for b in scored if not same_recipe(keys[a.path], keys[b.path])]
    if names[0] == names[2]:
        pairs = [(a, b) for a, b in pairs if a is b]
    if not pairs:
        raise ValueError(_mismatch(fitted[0], scored[0]))
    if len(pairs) > 1:
        several = (list({pair[side].path: pair[side] for pair in pairs}.values()) for side in (0, 1))
        raise AmbiguousError("\n".join(_several(side) for side in several if len(side) > 1))
    a, b = pairs[0]
    held = [entry for entry in validation if not same_recipe(keys[a.path], keys[entry.path])]
    if len(held) > 1:
        raise AmbiguousError(_several(held))
    fits = question.fits and a is not b
    sets: dict[str, tuple[Entry, ...]] = {layout.fitted: (a,)} if fits else {}
    sets |= {"validation": tuple(held)} if fits and held else {}
    sets |= {layout.scored: (b,)}
    if question.own_texts:
        further = {**further, question.own_texts: [_own_texts(of, dataset, fingerprints)]}
    for role, places in further.items():
        sets[role] = tuple(_alike(of, place, b, fingerprints) for place in places)
    if sets[layout.scored] != (b,):
        sets = {layout.fitted: (b,), **sets}
    return Case(backbone=b.name, sets=sets, asked=tuple(fingerprints))


def _own_texts(of: Sequence[Entry], dataset: str, fingerprints: Sequence[str]) -> str:
    """Where a backbone's text features of a dataset lie.

    Raises:
        NotFoundError: it has none.
        AmbiguousError: it has several, and no fingerprint chooses.
    """
    texts = [e for e in of if e.dataset == dataset and e.split.startswith(TEXTS) and e.state == "sealed"]
    texts = [e for e in texts if e.fingerprint.startswith(tuple(fingerprints))] or texts
    places = sorted({entry.place for entry in texts})
    if not places:
        make = shlex.join(["featurebank", "texts", dataset, of[0].name])
        raise NotFoundError(f"{of[0].name} has no text features of {dataset}; make them: {make}")
    if len(places) > 1:
        several = " or ".join(places)
        raise AmbiguousError(f"several text features of {dataset} are there; choose one: --text {several}")
    return places[0]


def _alike(of: Sequence[Entry], place: str, like: Entry, fingerprints: Sequence[str]) -> Entry:
    """The set at DATASET/SPLIT that was made as another one of the backbone was."""
    candidates = _candidates([entry for entry in of if entry.place == place], fingerprints)
    recipe = _key_of(like)
    alike = [entry for entry in candidates if not same_recipe(recipe, _key_of(entry))]
    if not alike:
        raise ValueError(_mismatch(like, candidates[0]))
    if len(alike) > 1:
        raise AmbiguousError(_several(alike))
    return alike[0]


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
    return f"{entry.place} {entry.fingerprint[:8]}"


def _mismatch(left: Entry, right: Entry) -> str:
    found = "; ".join(same_recipe(_key_of(left), _key_of(right)))
    return (
        f"the sets of a question must be made the same way; {_place(left)} and {_place(right)} differ in {found}; "
        "extract one of them again"
    )


def _several(entries: Sequence[Entry]) -> str:
    first = entries[0]
    return (
        f"several sets match {first.dataset}/{first.split}, {first.name}; choose one with --fingerprint: "
        f"{described(entries)}"
    )
