"""The retrieve task: the rows of one set are looked for in another, or each among the others of its own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.config import ConfigError
from featurebank.pipelines.probing.classification import check_choice
from featurebank.pipelines.probing.inputs import Inputs, SplitRows
from featurebank.pipelines.probing.scores import Answer, Score, mean_score
from featurebank.pipelines.probing.task import Task
from featurebank.pipelines.retrieving.question import TWO_LEVEL, Question, pose
from featurebank.pipelines.retrieving.rows import join_outputs, read_queries
from featurebank.retrieval.protocols import Protocol, find_protocol
from featurebank.store.errors import unknown_name

if TYPE_CHECKING:
    from featurebank.pipelines.retrieving.ranking import Descriptors, Lists
    from featurebank.retrieval.evaluation import Evaluation
    from featurebank.retrieval.index import FeatureIndex

__all__ = ["MAIN", "RERANKINGS", "RetrieveTask", "build_task", "main_metric"]

RERANKINGS = ("k-reciprocal", "diffusion")
MAIN = ("map", "map_trapezoidal", "map@100", "map@r")
CLASS = "class"
FEW_CLUSTERS = 20
CUT = re.compile(r"map@\d+")


@dataclass(frozen=True, kw_only=True)
class RetrieveTask(Task):
    """A ranking of a gallery for each query, scored by a protocol.

    The features are power-normalised, then whitened, the gallery is augmented, the queries are expanded; then comes the
    exact search, an index, or a re-ranking.

    Attributes:
        itself: the queries are the gallery, and none finds itself.
        joined: further outputs that are put beside ``output``, each of unit length.
        queries: a file of queries instead of a set: see `read_queries`.
        protocol: a name of `featurebank.retrieval.PROTOCOLS`.
        by: an extra column that says what is relevant, instead of the labels.
        ground_truth: JSON of the relevant rows by level, instead of both.
        per_class: rows of each class that a protocol keeps which splits a set.
        cluster: what intervals draw instead of queries: ``class``, what makes rows relevant, or an extra column.
        power: of power normalisation.
        whiten: the set that PCA-whitening is learned on, DATASET/SPLIT.
        components: that whitening keeps.
        augment: neighbours of database-side augmentation.
        expand: neighbours and alpha of query expansion.
        rerank: ``k-reciprocal`` or ``diffusion``.
        index: FAISS's name of an index that is searched instead of the gallery itself.
        nprobe: lists that an IVF index visits.
        ef_search: candidates that an HNSW index keeps.
        depth: rows that an index or a re-ranking lists; 1,000 or all.
        indexes: the folder that indexes are kept in.
    """

    name: ClassVar[str] = "retrieve"
    version: ClassVar[int] = 2
    unhashed: ClassVar[tuple[str, ...]] = ("indexes",)

    itself: bool = True
    joined: tuple[str, ...] = ()
    queries: Path | None = None
    protocol: str = "labels"
    by: str | None = None
    ground_truth: Path | None = None
    per_class: int | None = None
    cluster: str | None = None
    power: float | None = None
    whiten: str | None = None
    components: int | None = None
    augment: int | None = None
    expand: tuple[int, float] | None = None
    rerank: str | None = None
    index: str | None = None
    nprobe: int | None = None
    ef_search: int | None = None
    depth: int | None = None
    indexes: Path | None = None

    def __post_init__(self) -> None:
        self._check_relevance()
        if self.rerank is not None:
            check_choice("rerank", self.rerank, RERANKINGS)
        for given, other, together in (
            ("components", "whiten", self.whiten is not None),
            ("nprobe", "index", self.index is not None),
            ("ef_search", "index", self.index is not None),
            ("depth", "rerank or index", self.rerank is not None or self.index is not None),
        ):
            if getattr(self, given) is not None and not together:
                raise ValueError(f"{given} is for {other}; found it without")
        if self.power is not None and not 0 < self.power <= 1:
            raise ValueError(f"power must be above 0 and at most 1; found {self.power}")
        for name, count in self.counts.items():
            if count < 1:
                raise ValueError(f"{name} must be at least 1; found {count}")
        if self.expand is not None and not (math.isfinite(self.expand[1]) and self.expand[1] >= 0):
            raise ValueError(f"alpha of expand must be finite and at least 0; found {self.expand[1]}")
        if self.rerank and self.index:
            raise ValueError("rerank and index are two ways to rank; give one of them")
        if self.itself and self.rerank and (self.augment or self.expand):
            raise ValueError(
                "rerank in a single set takes queries and gallery as one; found augment or expand, which change one of "
                "them; leave them out, or name two sets: DATASET/QUERY:GALLERY"
            )

    def _check_relevance(self) -> None:
        levels = self.rules.positives
        if self.per_class is not None and self.protocol not in TWO_LEVEL:
            raise ValueError(
                f"per_class is for protocols that split a set, {', '.join(TWO_LEVEL)}; found {self.protocol}"
            )
        if self.ground_truth is None:
            if levels and not self.protocol.startswith("bob"):
                raise ValueError(
                    f"protocol {self.protocol} needs ground_truth, the {', '.join(levels)} rows of each query"
                )
            return
        if not levels:
            raise ValueError(
                f"ground_truth is for protocols with levels, such as roxford-medium; found {self.protocol}"
            )
        if self.by is not None:
            raise ValueError("by and ground_truth both say what is relevant; give one of them")
        if self.queries is not None:
            raise ValueError("queries of a file say themselves what is relevant; found ground_truth too; leave it out")
        if self.itself:
            raise ValueError("ground_truth needs two sets; found one; name them: DATASET/QUERY:GALLERY")

    @property
    def rules(self) -> Protocol:
        """The protocol."""
        return find_protocol(self.protocol)

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of rows that are asked for, by setting."""
        expand = None if self.expand is None else self.expand[0]
        counts = {
            "components": self.components,
            "augment": self.augment,
            "expand": expand,
            "depth": self.depth,
            "per_class": self.per_class,
        }
        return {name: count for name, count in counts.items() if count is not None}

    @property
    def recipe(self) -> str:
        """What is done besides the plain search, in words; may be empty.

        >>> RetrieveTask(power=0.5, expand=(10, 3.0)).recipe
        'power 0.5, queries + 10 (alpha 3)'
        """
        parts = {
            "+".join((self.output, *self.joined)): self.joined or None,
            f"queries of {self.queries and self.queries.name}": self.queries,
            f"power {self.power}": self.power,
            f"whitened on {self.whiten}": self.whiten,
            f"gallery + {self.augment}": self.augment,
            "queries + {} (alpha {:g})".format(*(self.expand or (0, 0.0))): self.expand,
            f"{self.rerank}": self.rerank,
            f"index {self.index}": self.index,
        }
        return ", ".join(text for text, given in parts.items() if given is not None)

    @property
    def reads_train(self) -> bool:
        """Whether the queries are another set than the gallery."""
        return not self.itself and self.queries is None

    @property
    def others(self) -> tuple[str, ...]:
        """The set that whitening is learned on."""
        return () if self.whiten is None else (self.whiten,)

    def run(self, inputs: Inputs) -> Answer:
        """The protocol's metrics with intervals over the queries, the main one first; the metrics of each query."""
        from featurebank.pipelines.retrieving.ranking import evaluate_index, evaluate_ranking

        rules = self.rules
        extra: list[Score] = []
        question = self.question(inputs)
        notes, queries = question.notes, question.queries
        dataset, _, split = inputs.test.name.rpartition("/")
        same = queries.name.rpartition("/")[0] == dataset
        about = "" if self.itself else f"{queries.name}:{split if same else inputs.test.name}"
        descriptors = self.descriptors(inputs, question)
        if self.index is None:
            found = evaluate_ranking(descriptors, question.relevance, rules, rerank=self.rerank, depth=self.depth)
        else:
            index, options = self.built(descriptors), self.search_options
            found, report, short = evaluate_index(
                index, descriptors, question.relevance, rules, depth=self.depth, **options
            )
            notes += short
            extra = [Score(metric=f"index_recall@{report.k}", value=report.recall, dataset=about)]
            speeds = (report.queries_per_second, report.exact_queries_per_second)
            notes.append("the index answers {:,.0f} queries a second, the exact search {:,.0f}".format(*speeds))
        clusters = None if self.cluster is None else self._clusters(queries)
        if clusters is not None and (n := len(np.unique(clusters))) < FEW_CLUSTERS:
            notes.append(f"--cluster {self.cluster}: intervals over {n} clusters only are narrower than they should be")
        if found.n_without:
            notes.append(
                f"{queries.name}: {found.n_without:,} of {found.n_queries:,} queries have nothing relevant to find"
            )
        return Answer(
            scores=[*self._scores(found, about, clusters), *extra],
            chosen={"queries": found.n_queries, "without": found.n_without, "gallery": found.n_gallery},
            arrays=_kept(queries.ids, queries.rows, found.per_query),
            notes=notes,
        )

    def question(self, inputs: Inputs) -> Question:
        """What is looked for in what; see `pose`."""
        test = join_outputs(inputs.test, self.joined)
        if self.queries is not None:
            train: SplitRows = read_queries(self.queries, test)
        else:
            train = test if inputs.train is inputs.test else join_outputs(inputs.train, self.joined)
        inputs = replace(inputs, train=train, test=test)
        return pose(inputs, self.rules, by=self.by, ground_truth=self.ground_truth, per_class=self.per_class)

    def descriptors(self, inputs: Inputs, question: Question) -> Descriptors:
        """The rows of a question as they are compared; see `describe`."""
        from featurebank.pipelines.retrieving.ranking import describe

        if self.whiten is not None and len(inputs.others) != 1:
            names = ", ".join(other.name for other in inputs.others)
            raise ValueError(f"whiten must be one set, DATASET/SPLIT; found {self.whiten}, which is {names}")
        return describe(
            question,
            power=self.power,
            whitening=join_outputs(inputs.others[0], self.joined) if self.whiten is not None else None,
            components=self.components,
            augment=self.augment,
            expand=self.expand,
        )

    @property
    def search_options(self) -> dict[str, int | None]:
        """Of an index."""
        return {"nprobe": self.nprobe, "ef_search": self.ef_search}

    def built(self, descriptors: Descriptors) -> FeatureIndex:
        """The index of a gallery; see `open_index`.

        Raises:
            ValueError: FAISS is not installed, or cannot make such an index of these rows.
        """
        from featurebank.pipelines.retrieving.ranking import open_index

        try:
            return open_index(descriptors.gallery, self.index or "Flat", self.indexes, seed=self.seed)
        except ImportError as error:
            raise ValueError(str(error)) from error

    def first(self, descriptors: Descriptors, k: int) -> Lists:
        """The first k gallery rows of each query, as they are ranked: scores and rows, (M, k) each."""
        from featurebank.pipelines.retrieving.ranking import ranked

        if self.index is None:
            return ranked(descriptors, k, self.rerank)
        return self.built(descriptors).search(descriptors.queries, k, own=descriptors.own, **self.search_options)

    def _clusters(self, queries: SplitRows) -> NDArray[Any]:
        """What is drawn together, (M,) for the queries."""
        name = self.by if self.cluster == CLASS else self.cluster
        if name is None and queries.labels.ndim == 1 and (queries.labels >= 0).any():
            return queries.labels
        columns = queries.columns
        if name is None:
            raise ValueError(
                f"--cluster class needs the classes of {queries.name}, found none; name a column: "
                f"{', '.join(columns) or 'it has none'}"
            )
        if name not in columns:
            raise unknown_name(f"column of {queries.name}", name, columns)
        return columns[name]

    def _scores(self, found: Evaluation, about: str, clusters: NDArray[Any] | None) -> list[Score]:
        drawn = "classes" if self.cluster == CLASS else f"values of {self.cluster}"
        main = main_metric([*found.values])
        scores = []
        for name in sorted(found.values, key=lambda name: name != main):
            if name in found.per_query:
                known = ~np.isnan(values := found.per_query[name])
                among = None if clusters is None else (drawn, clusters[known])
                scored = mean_score(name, values[known], seed=self.seed, unit="queries", clusters=among, dataset=about)
                scores.append(scored)
            else:
                scores.append(Score(metric=name, value=found.values[name], dataset=about))
        return scores


def main_metric(names: Sequence[str]) -> str:
    """The mean average precision among some metrics, or else the first of them.

    >>> main_metric(["hit_rate@1", "map@r", "map"]), main_metric(["hit_rate@1", "map@r", "map@1000"])
    ('map', 'map@1000')
    """
    cut = (name for name in names if CUT.fullmatch(name))
    return next((name for name in (*MAIN[:2], *cut, *MAIN[2:]) if name in names), names[0])


def build_task(options: Mapping[str, Any]) -> RetrieveTask:
    """The task with the options that are given, for two sets; ``None`` leaves an option at its default.

    An ``output`` may name several, ``pooled+cls``.

    Raises:
        ConfigError: a value that is not allowed, or two that do not go together.
    """
    given = {name: value for name, value in options.items() if value is not None}
    output, *joined = str(given.pop("output", RetrieveTask.output)).split("+")
    try:
        return RetrieveTask(itself=False, output=output, joined=tuple(joined), **given)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _kept(
    ids: NDArray[np.str_], rows: NDArray[np.intp], per_query: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[Any]]:
    """Of the queries that have something relevant: ids, row numbers, the main metric as score, and all metrics."""
    if not per_query:
        return {}
    score = per_query[main_metric([*per_query])]
    known = ~np.isnan(score)
    every = {name: values[known].astype(np.float32) for name, values in per_query.items()}
    return {"ids": ids[known], "rows": rows[known], "score": score[known], **every}
