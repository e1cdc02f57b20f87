"""The page of a ranking: thumbnails of the images that the features were made from, opened once more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.pictures import open_images, row_names, shown, write_page
from featurebank.pipelines.probing.inputs import Inputs, read_rows
from featurebank.pipelines.probing.run import ProbeReport
from featurebank.pipelines.probing.selection import further_sets
from featurebank.pipelines.results import Results
from featurebank.pipelines.retrieving.selection import Lookup
from featurebank.pipelines.retrieving.task import MAIN, main_metric
from featurebank.store import FeatureStore

__all__ = ["Page", "plan_page"]


class Page:
    """One ranking of one backbone as a page.

    Args:
        store: the store.
        lookups: what was asked for; exactly one pair of sets.
        path: of the page.
        images: the dataset that the images are read from, ``folder:PATH`` or ``manifest:FILE``; without it, the one of
            the name that the feature sets know.
        k: gallery rows that are shown for each query; 10, or as many as there are.

    Raises:
        ConfigError: several pairs, a metric without average precision, no folder for the page, or images that cannot be
            opened or are others.
    """

    def __init__(
        self,
        store: FeatureStore,
        lookups: Sequence[Lookup],
        path: Path,
        *,
        images: str | None = None,
        k: int | None = None,
    ) -> None:
        pairs = [(pair, lookup.task) for lookup in lookups for pair in lookup.selection.pairs]
        if len(pairs) != 1:
            found = ", ".join(f"{pair.test.dataset}/{pair.test.split}@{pair.backbone}" for pair, _ in pairs) or "none"
            raise ConfigError(f"--html shows one ranking; found {found}; name one: DATASET/SPLIT@BACKBONE")
        if not path.parent.is_dir():
            raise ConfigError(f"--html: expected a folder at {path.parent}, found none")
        if pairs[0][1].queries is not None:
            raise ConfigError("--html shows the images of queries; those of --queries have none")
        (self.pair, self.task), self.store, self.path, self.k = pairs[0], store, path, k
        self.metric = next((name for name in MAIN if name in self.task.rules.metrics), "")
        if not self.metric:
            raise ConfigError(
                f"--html needs a protocol with an average precision of each query; found {self.task.protocol}"
            )
        self._queries = open_images(self.pair.train.path, images)
        self._gallery = self._queries if self.task.itself else open_images(self.pair.test.path, images)

    def write(self, report: ProbeReport) -> bool:
        """Ranks the first k rows of each query again and writes the page, unless the question has no answer.

        Args:
            report: of the lookups.

        Raises:
            ValueError: an image is not the one that the features were made from.
            OSError: an image cannot be read, or the page not be written.
        """
        from featurebank.retrieval.page import render_page

        result = next((one.result for one in report.probed), None)
        if result is None:
            return False
        inputs = self._inputs()
        question = self.task.question(inputs)
        descriptors = self.task.descriptors(inputs, question)
        k = min(self.k or 10, descriptors.findable)
        scores, rows = self.task.first(descriptors, k)
        kept = Results(self.store.root).arrays(result)
        precision = np.full(len(question.queries.rows), np.nan)
        precision[np.isin(question.queries.rows, kept["rows"])] = kept["score"]
        queries, gallery = question.queries, question.gallery
        text = render_page(
            rows,
            question.relevance,
            precision,
            query_image=shown(self._queries, queries),
            gallery_image=shown(self._gallery, gallery),
            query_names=row_names(queries),
            gallery_names=row_names(gallery),
            similarity=None if self.task.rerank else scores,
            title=self.title,
            summary={row.metric: row.value for row in result.rows},
            metric=_called(main_metric([row.metric for row in result.rows if row.metric in kept])),
        )
        return write_page(self.path, text, report)

    @property
    def title(self) -> str:
        """Backbone, sets and what was done to the ranking."""
        sets = [f"{entry.dataset}/{entry.split}" for entry in (self.pair.train, self.pair.test)]
        parts = (self.pair.backbone, " in ".join(dict.fromkeys(sets)), self.task.protocol, self.task.recipe)
        return " · ".join(part for part in parts if part)

    def _inputs(self) -> Inputs:
        output, entries = self.task.output, self.store.ls()
        gallery = read_rows(self.pair.test, output)
        return Inputs(
            backbone=self.pair.backbone,
            train=gallery if self.task.itself else read_rows(self.pair.train, output),
            test=gallery,
            others=tuple(
                read_rows(entry, output)
                for name in self.task.others
                for entry in further_sets(entries, name, self.pair)
            ),
        )


def _called(metric: str) -> str:
    """What one query's part of a mean is called.

    >>> [_called(name) for name in ("map", "map@1000", "map_trapezoidal", "hit_rate@1")]
    ['AP', 'AP@1000', 'AP_trapezoidal', 'hit_rate@1']
    """
    return "AP" + metric.removeprefix("map") if metric.startswith("map") else metric


def plan_page(
    store: FeatureStore,
    lookups: Sequence[Lookup],
    path: Path | None,
    *,
    images: str | None = None,
    k: int | None = None,
) -> Page | None:
    """The page that is asked for, if one is; see `Page`.

    Raises:
        ConfigError: it cannot be made, or only its details are given.
    """
    if path is not None:
        return Page(store, lookups, path, images=images, k=k)
    if given := [name for name, value in (("--images", images), ("--k", k)) if value is not None]:
        raise ConfigError(f"--html FILE must come with {' and '.join(given)}; found none")
    return None
