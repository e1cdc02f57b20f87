"""From the names a person writes to questions: for each KEY the pairs of sets and the task that is run on them.

A KEY is ``DATASET/SPLIT``, each row a query among the others, or ``DATASET/QUERY:GALLERY``, each with ``@BACKBONE``
where only one is meant. In a pair, ``train`` is the queries and ``test`` the gallery.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from featurebank.extract.errors import nearest
from featurebank.pipelines.config import ConfigError
from featurebank.pipelines.probing.selection import Pair, Selection, named_splits, parse_key, select
from featurebank.pipelines.retrieving.task import RetrieveTask
from featurebank.store import Entry, FeatureSet, FeatureStore

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
) -> list[Lookup]:
    """What each KEY means; see `featurebank.pipelines.probing.selection.select`.

    Raises:
        UnknownNameError, NotFoundError: a dataset, split or backbone that does not exist, or no set at all.
        ConfigError: the task does not suit a KEY.
    """
    datasets = {entry.dataset for entry in store.ls()}
    lookups = []
    for text in keys:
        key = parse_key(text, datasets)
        itself = key.train in (None, key.test)
        one = text.replace(f"/{key.train}:{key.test}", f"/{key.test}", 1) if itself and key.train else text
        try:
            own = replace(task, itself=itself)
        except ValueError as error:
            raise ConfigError(f"{text}: {error}") from error
        selection = select(store, [one], backbones=backbones, fingerprints=fingerprints, train=not itself)
        selection.pairs = [replace(pair, validation=None) for pair in selection.pairs]
        lookups.append(Lookup(selection=selection, task=own))
    return lookups


def check_lookups(store: FeatureStore, lookups: Sequence[Lookup], *, k: int | None = None) -> None:
    """Refuses what cannot be answered before anything is computed.

    Args:
        store: the store.
        lookups: as `look_up` gives them.
        k: rows of each query that a page shows.

    Raises:
        UnknownNameError: no set has the column, or the set that whitening is learned on does not exist.
        ConfigError: more rows asked for than a gallery has.
    """
    entries = store.ls()
    for lookup in lookups:
        for name in lookup.task.others:
            named_splits(entries, name)
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
                raise nearest("column", lookup.task.by, columns)


def _counts(task: RetrieveTask, pair: Pair, k: int | None) -> Iterator[tuple[str, int, int]]:
    """Each number of rows that is asked for, and how many there are."""
    others = pair.test.n_rows - 1
    findable = others if task.itself else pair.test.n_rows
    yield from (
        (f"--{name}", count, others if name == "augment" else findable)
        for name, count in task.counts.items()
        if name != "components"
    )
    if k is not None:
        yield "--k", k, findable


def _columns(pair: Pair) -> list[str]:
    names: list[str] = []
    for entry in (pair.train, pair.test):
        with FeatureSet(entry.path) as feature_set:
            names += feature_set.columns
    return names


def _place(entry: Entry) -> str:
    return f"{entry.dataset}/{entry.split}"
