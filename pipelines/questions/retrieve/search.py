"""How rows are looked for: the options, which of them go together, and the answer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from featurebank.pipelines.asking.answer import Answer, Score
from featurebank.pipelines.asking.inputs import Rows, SplitRows
from featurebank.pipelines.asking.layout import Layout
from featurebank.pipelines.asking.option import PAGE, option
from featurebank.pipelines.asking.question import Question
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.questions.retrieve.lookup import TWO_LEVEL, Lookup, pose
from featurebank.pipelines.questions.retrieve.queries import join_outputs, read_queries
from featurebank.pipelines.questions.retrieve.scores import drawn_together, kept_arrays, protocol_scores
from featurebank.retrieval.protocols import Protocol, find_protocol
from featurebank.store.errors import unknown_name

if TYPE_CHECKING:
    from featurebank.pipelines.asking.cases import Case
    from featurebank.pipelines.questions.retrieve.ranking import Descriptors, Lists
    from featurebank.retrieval.index import FeatureIndex

__all__ = ["ALPHA", "RERANKINGS", "Search"]

DESCRIPTORS, RANKING = "Descriptors", "Ranking"
RERANKINGS = ("k-reciprocal", "diffusion")
ALPHA = 3.0
FEW_CLUSTERS = 20
EXPANSION = re.compile(r"(\d+)(?::(\d+(?:\.\d+)?))?")


@dataclass(frozen=True, kw_only=True)
class Search(Question):
    """A ranking of a gallery for each query, scored by a protocol.

    The features are power-normalised, then whitened, the gallery is augmented, the queries are expanded; then comes the
    exact search, an index, or a re-ranking.
    """

    version: ClassVar[int] = 2
    layout: ClassVar[Layout] = Layout(fitted="queries", scored="gallery", alone=True)

    output: str = option("pooled", "The output that is read. Several are joined: pooled+cls.", metavar="NAME")
    gallery: str | None = option(
        None,
        "The set that KEY's rows are looked for in instead.",
        metavar="DATASET/SPLIT",
        role=True,
        hashed=False,
    )
    queries: Path | None = option(
        None,
        "Features that are looked for in KEY instead, such as those of texts: .npy, a row a class, or .npz of features "
        "and labels, or ids of KEY's rows.",
        metavar="FILE",
    )
    protocol: str = option(
        "labels", "The protocol: cub, sop, gldv2, roxford-medium, bob …; labels has every metric.", metavar="NAME"
    )
    by: str | None = option(None, "An extra column of the records: rows with the same value are relevant.")
    ground_truth: Path | None = option(
        None, "JSON: the easy, hard and junk ids of each query's id; instead of both.", metavar="FILE"
    )
    per_class: int | None = option(None, "Rows of each class that bob keeps, the first ones; without it all.")
    cluster: str | None = option(
        None, "What intervals draw instead of queries, where these are not independent: class, or a column."
    )
    power: float | None = option(None, "Power normalisation, such as 0.5.", panel=DESCRIPTORS)
    whiten: str | None = option(
        None, "The set that PCA-whitening is learned on.", metavar="DATASET/SPLIT", role=True, panel=DESCRIPTORS
    )
    components: int | None = option(None, "Directions that whitening keeps.", panel=DESCRIPTORS)
    augment: int | None = option(None, "Neighbours that each gallery row is moved towards.", panel=DESCRIPTORS)
    expand: str | None = option(
        None,
        "Gallery rows that each query is moved towards, and the exponent of their cosines, 3; 0 is the mean.",
        metavar="N[:ALPHA]",
        panel=DESCRIPTORS,
    )
    rerank: Literal["k-reciprocal", "diffusion"] | None = option(None, "The first rows ranked anew.", panel=RANKING)
    index: str | None = option(
        None, "Search a FAISS index instead: HNSW32, IVF256,PQ16 …", metavar="FACTORY", panel=RANKING
    )
    nprobe: int | None = option(None, "Lists that an IVF index visits.", panel=RANKING)
    ef_search: int | None = option(None, "Candidates that an HNSW index keeps.", panel=RANKING)
    depth: int | None = option(
        None,
        "Rows that an index or re-ranking lists: 1,000 or all. An index's are in the names: map@1000.",
        panel=RANKING,
    )
    shown: int | None = option(None, "Rows of each query on the page: 10.", hashed=False, least=1, panel=PAGE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if found := next((message for wrong, message in self._refusals() if wrong), None):
            raise ValueError(found)

    def _refusals(self) -> Iterator[tuple[Any, str]]:
        """What is not allowed, and why."""
        protocol, levels, truth = self.protocol, ", ".join(self.rules.positives), self.ground_truth is not None
        few = self.per_class is not None and protocol not in TWO_LEVEL
        yield few, f"per_class is for protocols that split a set, {', '.join(TWO_LEVEL)}; found {protocol}"
        bare = levels and not truth and not protocol.startswith("bob")
        yield bare, f"protocol {protocol} needs ground_truth, the {levels} rows of each query"
        yield (
            truth and not levels,
            f"ground_truth is for protocols with levels, such as roxford-medium; found {protocol}",
        )
        yield truth and self.by is not None, "by and ground_truth both say what is relevant; give one of them"
        yield (
            truth and self.queries is not None,
            "queries of a file say themselves what is relevant; found ground_truth too; leave it out",
        )
        for given, other, together in (
            ("components", "whiten", self.whiten),
            ("nprobe", "index", self.index),
            ("ef_search", "index", self.index),
            ("depth", "rerank or index", self.rerank or self.index),
        ):
            yield getattr(self, given) is not None and not together, f"{given} is for {other}; found it without"
        if self.power is not None:
            yield not 0 < self.power <= 1, f"power must be above 0 and at most 1; found {self.power}"
        for name, count in self.counts.items():
            yield count < 1, f"{name} must be at least 1; found {count}"
        yield self.rerank and self.index, "rerank and index are two ways to rank; give one of them"
        yield (
            self.queries is not None and self.gallery is not None,
            "--queries and --gallery are two ways to name the other side; give one of them",
        )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """The question; neighbours without an alpha have the usual one, so that both are one result."""
        if isinstance(text := given.get("expand"), str) and text.isdigit():
            given = {**given, "expand": f"{text}:{ALPHA:g}"}
        return super().of(given)

    @property
    def rules(self) -> Protocol:
        """The protocol."""
        return find_protocol(self.protocol)

    @property
    def outputs(self) -> tuple[str, ...]:
        """What is read of each row; further ones are put beside the first, each of unit length."""
        return tuple(self.output.split("+"))

    @property
    def fitted_name(self) -> str:
        """The file of queries."""
        return self.queries.name if self.queries else ""

    @property
    def expansion(self) -> tuple[int, float] | None:
        """Neighbours and alpha of query expansion.

        >>> Search(expand="10").expansion, Search(expand="5:0").expansion
        ((10, 3.0), (5, 0.0))
        """
        if self.expand is None:
            return None
        found = EXPANSION.fullmatch(self.expand)
        if found is None or not math.isfinite(alpha := float(found[2] or ALPHA)):
            raise ValueError(f"--expand must be N or N:ALPHA, such as 10 or 10:3; found {self.expand!r}")
        return int(found[1]), alpha

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of rows that are asked for, by option."""
        expand, _ = self.expansion or (None, 0)
        own = ("components", "augment", "depth", "per_class", "shown")
        counts = {"expand": expand, **{name: getattr(self, name) for name in own}}
        return {name: count for name, count in counts.items() if count is not None}

    @property
    def recipe(self) -> str:
        """What is done besides the plain search, in words; may be empty.

        >>> Search(power=0.5, expand="10").recipe
        'power 0.5, queries + 10 (alpha 3)'
        """
        parts = {
            self.output: "+" in self.output or None,
            f"queries of {self.fitted_name}": self.queries,
            f"power {self.power}": self.power,
            f"whitened on {self.whiten}": self.whiten,
            f"gallery + {self.augment}": self.augment,
            "queries + {} (alpha {:g})".format(*(self.expansion or (0, 0.0))): self.expand,
            f"{self.rerank}": self.rerank,
            f"index {self.index}": self.index,
        }
        return ", ".join(text for text, given in parts.items() if given is not None)

    def itself(self, case: Case) -> bool:
        """Whether each row is looked for among the others."""
        return self.queries is None and self.layout.fitted not in case.sets

    def check(self, cases: Sequence[Case]) -> None:
        """Raises where options do not suit one set, or two, or where more rows or another column are asked for."""
        columns: set[str] = set()
        for case in cases:
            sets = " in ".join(case.place(role) for role in ("queries", "gallery") if role in case.sets)
            if self.queries is not None and "queries" in case.sets:
                raise ConfigError(f"--queries is the other side of a single set, DATASET/SPLIT; found {sets}")
            if self.itself(case):
                self._check_single()
            elif self.per_class is not None:
                raise ConfigError(f"--per-class is for a single set, which {self.protocol} splits; found {sets}")
            for flag, count, most in self._most(case):
                if count > most:
                    raise ConfigError(
                        f"{flag} must be at most {most:,}, the rows of {case.place('gallery')} that can be found; "
                        f"found {count:,}"
                    )
            for entry in case.every:
                with entry.open() as feature_set:
                    columns |= feature_set.columns.keys()
        if self.by is not None and cases and self.by not in columns:
            raise unknown_name("column", self.by, columns)

    def _check_single(self) -> None:
        if self.ground_truth is not None:
            raise ConfigError("ground_truth needs two sets; found one; name them: DATASET/QUERY:GALLERY")
        if self.rerank and (self.augment or self.expand):
            raise ConfigError(
                "rerank in a single set takes queries and gallery as one; found augment or expand, which change one of "
                "them; leave them out, or name two sets: DATASET/QUERY:GALLERY"
            )

    def _most(self, case: Case) -> Iterator[tuple[str, int, int]]:
        """Each number of gallery rows that is asked for, and how many there are."""
        n_rows = case.one("gallery").n_rows
        for name, count in self.counts.items():
            if name not in ("components", "per_class"):
                yield f"--{name}", count, n_rows - (name == "augment" or self.itself(case))

    def run(self, rows: Rows) -> Answer:
        """The protocol's metrics with intervals over the queries, the main one first; the metrics of each query."""
        from featurebank.pipelines.questions.retrieve.ranking import evaluate_index, evaluate_ranking

        lookup, extra = self.lookup(rows), []
        notes, queries = lookup.notes, lookup.queries
        descriptors = self.descriptors(rows, lookup)
        if self.index is None:
            found = evaluate_ranking(descriptors, lookup.relevance, self.rules, rerank=self.rerank, depth=self.depth)
        else:
            index = self.built(descriptors)
            found, report, short = evaluate_index(
                index, descriptors, lookup.relevance, self.rules, depth=self.depth, **self.search_options
            )
            notes += short
            extra = [Score(metric=f"index_recall@{report.k}", value=report.recall)]
            speeds = (report.queries_per_second, report.exact_queries_per_second)
            notes.append("the index answers {:,.0f} queries a second, the exact search {:,.0f}".format(*speeds))
        clusters = None if self.cluster is None else drawn_together(queries, self.cluster, self.by)
        if clusters is not None and (n := len(np.unique(clusters[1]))) < FEW_CLUSTERS:
            notes.append(f"--cluster {self.cluster}: intervals over {n} clusters only are narrower than they should be")
        if found.n_without:
            notes.append(
                f"{queries.name}: {found.n_without:,} of {found.n_queries:,} queries have nothing relevant to find"
            )
        return Answer(
            scores=[*protocol_scores(found, clusters, seed=self.seed), *extra],
            chosen={"queries": found.n_queries, "without": found.n_without, "gallery": found.n_gallery},
            arrays=kept_arrays(queries.ids, queries.rows, found.per_query),
            notes=notes,
        )

    def lookup(self, rows: Rows) -> Lookup:
        """What is looked for in what; see `pose`."""
        gallery = join_outputs(rows.one("gallery"), self.outputs[1:])
        queries: SplitRows = gallery
        if self.queries is not None:
            queries = read_queries(self.queries, gallery)
        elif rows["queries"]:
            queries = join_outputs(rows.one("queries"), self.outputs[1:])
        return pose(queries, gallery, self.rules, by=self.by, ground_truth=self.ground_truth, per_class=self.per_class)

    def descriptors(self, rows: Rows, lookup: Lookup) -> Descriptors:
        """The rows as they are compared; see `describe`."""
        from featurebank.pipelines.questions.retrieve.ranking import describe

        return describe(
            lookup,
            power=self.power,
            whitening=join_outputs(rows.one("whiten"), self.outputs[1:]) if self.whiten is not None else None,
            components=self.components,
            augment=self.augment,
            expand=self.expansion,
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
        from featurebank.extract.assets import cache_dir
        from featurebank.pipelines.questions.retrieve.ranking import open_index

        try:
            # Not in the store: FAISS reads whatever bytes it finds, and a store may be a stranger's.
            return open_index(descriptors.gallery, self.index or "Flat", cache_dir() / "indexes", seed=self.seed)
        except ImportError as error:
            raise ValueError(str(error)) from error

    def first(self, descriptors: Descriptors, k: int) -> Lists:
        """The first k gallery rows of each query, as they are ranked: scores and rows, (M, k) each."""
        from featurebank.pipelines.questions.retrieve.ranking import ranked

        if self.index is None:
            return ranked(descriptors, k, self.rerank)
        return self.built(descriptors).search(descriptors.queries, k, own=descriptors.own, **self.search_options)
