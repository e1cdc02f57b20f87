"""From the names a person writes to questions: for each KEY the pairs of sets and the task that is run on them.

A KEY is ``DATASET/SPLIT``, each row a query among the others, or ``DATASET/QUERY:GALLERY``, each with ``@BACKBONE``
where only one is meant. In a pair, ``train`` is the queries and ``test`` the gallery, which may be of another dataset.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from featurebank.extract.errors import fault
from featurebank.pipelines.config import ConfigError
from featurebank.pipelines.probing.selection import Pair, Selection, further_sets, named_splits, parse_key, select
from featurebank.pipelines.retrieving.task import RetrieveTask
from featurebank.store import Entry, FeatureStore, NotFoundError
from featurebank.store.errors import unknown_name

__all__ = ["Lookup", "check_lookups", "look_up"]


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """What one KEY means: the pairs of sets, one for each backbone, and the task."""

    selection: Selection
    task: RetrieveTask


def look_up(
    store: FeatureStore,
    keys: Sequence[str],
    task: RetrieveTask,
    *,
    backbones: Sequence[str] = (),
    fingerprints: Sequence[str] = (),
    gallery: str | None = None,
) -> list[Lookup]:
    """What each KEY means; see `featurebank.pipelines.probing.selection.select`.

    Args:
        store: the store.
        keys: as a person writes them.
        task: with the options that hold for all of them.
        backbones: only these, where a KEY names none.
        fingerprints: beginnings of fingerprints that choose among several sets.
        gallery: DATASET/SPLIT that all rows are looked for in.

    Raises:
        UnknownNameError, NotFoundError: a dataset, split or backbone that does not exist, or no set at all.
        ConfigError: the task does not suit a KEY.
    """
    if gallery is not None and task.queries is not None:
        raise ConfigError("--queries and --gallery are two ways to name the other side; give one of them")
    datasets = {entry.dataset for entry in store.ls()}
    lookups = []
    for text in keys:
        key = parse_key(text, datasets)
        alone = key.train in (None, key.test)
        if not alone and (gallery is not None or task.queries is not None):
            option = "--queries" if gallery is None else "--gallery"
            raise ConfigError(f"{option} is the other side of a single set, DATASET/SPLIT; found {text}")
        one = text.replace(f"/{key.train}:{key.test}", f"/{key.test}", 1) if alone and key.train else text
        selection = select(store, [one], backbones=backbones, fingerprints=fingerprints, train=not alone)
        selection.pairs = [replace(pair, validation=None) for pair in selection.pairs]
        if gallery is not None:
            selection = _in_gallery(store.ls(), selection, gallery, fingerprints, named=bool(key.backbone or backbones))
        itself = alone and task.queries is None and all(pair.train == pair.test for pair in selection.pairs)
        if task.per_class is not None and not itself:
            raise ConfigError(
                f"--per-class is for a single set, which {task.protocol} splits; found {text} and another"
            )
        try:
            own = replace(task, itself=itself)
        except ValueError as error:
            raise ConfigError(f"{text}: {error}") from error
        lookups.append(Lookup(selection=selection, task=own))
    return lookups


def _in_gallery(
    entries: Sequence[Entry], selection: Selection, gallery: str, fingerprints: Sequence[str], *, named: bool
) -> Selection:
    """The same queries, each backbone's in its set of another dataset and split."""
    dataset, splits = named_splits(entries, gallery)
    if len(splits) != 1:
        raise ConfigError(f"--gallery must be one set, DATASET/SPLIT; found {gallery}, which is {', '.join(splits)}")
    found = Selection(failed=dict(selection.failed), passed_over=list(selection.passed_over))
    of = [entry for entry in entries if (entry.dataset, entry.split) == (dataset, splits[0])]
    chosen = [entry for entry in of if entry.fingerprint.startswith(tuple(fingerprints))]
    for pair in selection.pairs:
        own = [entry for entry in chosen if entry.name == pair.backbone]
        try:
            (entry,) = further_sets(own or of, gallery, pair)
        except NotFoundError as error:
            if named:
                raise
            found.passed_over.append(str(error))
        except Exception as error:
            found.failed[pair.backbone, f"{dataset}/{splits[0]}"] = fault(error)
        else:
            found.pairs.append(replace(pair, test=entry))
    if not found.pairs and not found.failed:
        raise NotFoundError("; ".join(found.passed_over))
    return found


def check_lookups(store: FeatureStore, lookups: Sequence[Lookup], *, k: int | None = None) -> None:
    """Refuses what cannot be answered before anything is computed.

    Args:
        store: the store.
        lookups: as `look_up` gives them.
        k: rows of each query that a page shows.

    Raises:
        UnknownNameError: no set has the column or joined output, or the set that whitening is learned on is not there.
        ConfigError: more rows asked for than a gallery has.
    """
    entries = store.ls()
    for lookup in lookups:
        for name in lookup.task.others:
            named_splits(entries, name)
        outputs = {output.name for pair in lookup.selection.pairs for output in pair.test.outputs}
        for name in lookup.task.joined:
            if outputs and name not in outputs:
                raise unknown_name("output", name, outputs)
        for pair in lookup.selection.pairs:
            for name, count, most in _counts(lookup.task, pair, k):
                if count > most:
                    raise ConfigError(
                        f"{name} must be at most {most:,}, the rows of {_place(pair.test)} that can be found; "
                        f"found {count:,}"
                    )
        if lookup.task.by is not None and lookup.selection.pairs:
            columns = {name for pair in lookup.selection.pairs for name in _columns(pair)}
            if lookup.task.by not in columns:
                raise unknown_name("column", lookup.task.by, columns)


def _counts(task: RetrieveTask, pair: Pair, k: int | None) -> Iterator[tuple[str, int, int]]:
    """Each number of rows that is asked for, and how many there are."""
    others = pair.test.n_rows - 1
    findable = others if task.itself else pair.test.n_rows
    yield from (
        (f"--{name}", count, others if name == "augment" else findable)
        for name, count in task.counts.items()
        if name not in ("components", "per_class")
    )
    if k is not None:
        yield "--k", k, findable


def _columns(pair: Pair) -> list[str]:
    names: list[str] = []
    for entry in (pair.train, pair.test):
        with entry.open() as feature_set:
            names += feature_set.columns
    return names


def _place(entry: Entry) -> str:
    return f"{entry.dataset}/{entry.split}"
