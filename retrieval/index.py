"""Approximate search with FAISS: built from a stream of rows, saved with the fingerprints of what it indexes.

An index is two files: what FAISS wrote, and a JSON beside it that says of which features, and has the other's hash.
FAISS's reader trusts its input, so it never sees a file whose hash is not the recorded one.

Shapes: N indexed rows, M query rows, D features, k found for each query.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.retrieval._features import METRICS, Metric, as_features, check_choice, check_k, row_blocks, rows_of
from featurebank.retrieval._index_files import FORMAT, content_fingerprint, file_hash, read_record, record_path
from featurebank.retrieval.search import nearest
from featurebank.store.requirements import advice

__all__ = ["FeatureIndex", "IndexReport", "Part", "StaleIndexError", "content_fingerprint"]

TRAIN_ROWS = 65_536
RESCORED_VALUES = 2**24  # 64 MiB of float32


class StaleIndexError(ValueError):
    """The index is of other features than those asked for."""


@dataclass(frozen=True)
class Part:
    """Rows that were added together: the fingerprint of the features they are, and how many."""

    fingerprint: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class IndexReport:
    """How well and how fast an index finds.

    Attributes:
        k: Rows found for each query.
        recall: The share of the exact k nearest that it finds, over all queries.
        queries_per_second: Of the index.
        exact_queries_per_second: Of the exact search.
    """

    k: int
    recall: float
    queries_per_second: float
    exact_queries_per_second: float


class FeatureIndex:
    """A FAISS index over the rows of features, made by `build` or `load`.

    Attributes:
        factory: FAISS's name of its kind: ``Flat``, ``HNSW32``, ``IVF1024,PQ32``, ``OPQ32,IVF1024,PQ32`` …
        metric: ``cosine`` (rows are scaled to unit length), ``inner_product`` or ``euclidean``.
        parts: What it holds, in the order of its rows.
        seed: Of the training sample.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, index: Any, *, factory: str, metric: Metric, parts: Sequence[Part], seed: int) -> None:
        self._index = index
        self.factory = factory
        self.metric: Metric = metric
        self.parts = tuple(parts)
        self.seed = seed
        self.device = "cpu"

    @classmethod
    def build(
        cls,
        features: ArrayLike,
        factory: str = "Flat",
        *,
        fingerprint: str,
        metric: Metric = "cosine",
        train_rows: int = TRAIN_ROWS,
        seed: int = 0,
        threads: int | None = None,
        device: str = "cpu",
    ) -> Self:
        """Trains on a sample of the rows and adds all of them, block by block.

        Args:
            features: (N, D) float16, float32 or float64, a read-only memory map if need be.
            factory: what FAISS's ``index_factory`` takes.
            fingerprint: of the features: a feature set's with the output's name, or `content_fingerprint`.
            metric: as the class says.
            train_rows: rows drawn for training, at most.
            seed: of that draw.
            threads: of FAISS; by default its own number, but one to link HNSW, whose links else depend on timing.
            device: ``cpu``, or ``cuda`` with a GPU build of FAISS.

        Raises:
            ImportError: FAISS is not installed.
            ValueError: NaN or infinity, an unknown factory, metric or device, or too few rows to train on.
        """
        faiss = _faiss()
        rows = as_features(features)
        check_choice("metric", metric, METRICS)
        kind = faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
        try:
            index = faiss.index_factory(rows.shape[1], factory, kind)
        except RuntimeError as error:
            raise ValueError(
                f"factory must be a string of FAISS's index_factory that fits D = {rows.shape[1]}, such as Flat, "
                f"HNSW32, 'IVF256,PQ16' or 'OPQ16,IVF256,PQ16'; found {factory!r}: {_reason(error)}"
            ) from error
        built = cls(index, factory=factory, metric=metric, parts=(), seed=seed)
        built._move(device)
        with _threads(threads):
            built._train(rows, train_rows)
        built.add(rows, fingerprint=fingerprint, threads=threads)
        return built

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def dimensions(self) -> int:
        """D."""
        return int(self._index.d)

    def add(self, features: ArrayLike, *, fingerprint: str, threads: int | None = None) -> None:
        """Adds the rows (N, D) of further features after those it has; their numbers go on from ``len(index)``.

        Raises:
            ValueError: NaN or infinity, another D, or features that it holds already.
        """
        rows = self._same_width(features, "features")
        if fingerprint in {part.fingerprint for part in self.parts}:
            raise ValueError(f"features must be added once; {fingerprint} is indexed already")
        for _ in row_blocks(rows, "inner_product"):  # a bad row is found before any is added
            pass
        with _threads(threads or (1 if "HNSW" in self.factory else None)):
            for _, block in row_blocks(rows, _prepared(self.metric)):
                self._index.add(block)
        self.parts = (*self.parts, Part(fingerprint, len(rows)))

    def search(
        self,
        queries: ArrayLike,
        k: int,
        *,
        own: ArrayLike | None = None,
        nprobe: int | None = None,
        ef_search: int | None = None,
        rescore: ArrayLike | None = None,
        candidates: int | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k rows that it finds for each query, best first.

        Args:
            queries: (M, D).
            k: rows to find, at most N, or N - 1 with ``own``.
            own: (M,) a row that each query must not find, -1 for none.
            nprobe: lists that an IVF index visits; kept for later searches.
            ef_search: candidates that an HNSW index keeps; likewise.
            rescore: (N, D) the indexed features, a memory map if need be: candidates are ordered by exact similarity.
            candidates: rows that are rescored for each query, 10 k by default.

        Returns:
            Similarities (M, k), for euclidean minus the distances, and rows (M, k), -1 where it found nothing.

        Raises:
            ValueError: NaN or infinity, another D, k out of range, or an option that this kind of index lacks.
        """
        some = self._same_width(queries, "queries")
        left_out = np.full(len(some), -1) if own is None else np.asarray(own)
        if left_out.shape != (len(some),) or left_out.dtype.kind not in "iu":
            raise ValueError(f"own must be one row for each of {len(some)} queries; found shape {left_out.shape}")
        extra = int((left_out >= 0).any())
        check_k(k, len(self) - extra)
        self._set("nprobe", nprobe)
        self._set("efSearch", ef_search)
        gallery = None if rescore is None else self._same_width(rescore, "rescore")
        if gallery is not None and len(gallery) != len(self):
            raise ValueError(f"rescore must be the {len(self)} indexed rows; found {len(gallery)}")
        width = k + extra if gallery is None else min(len(self), max(candidates or 10 * k, k) + extra)
        scores, rows = np.empty((len(some), k), np.float32), np.empty((len(some), k), np.int64)
        for at, block in row_blocks(some, _prepared(self.metric), "queries"):
            near_scores, near = self._index.search(block, width)
            if gallery is not None:
                near_scores = self._rescored(block, gallery, near)
            elif self.metric == "euclidean":
                near_scores = -np.sqrt(np.maximum(near_scores, 0))
            lost = (near < 0) | (near == left_out[at, None])
            near_scores = np.where(lost, -np.inf, near_scores)
            order = np.lexsort((near, -near_scores))[:, :k]
            scores[at] = np.take_along_axis(near_scores, order, 1)
            rows[at] = np.where(np.isneginf(scores[at]), -1, np.take_along_axis(near, order, 1))
        return scores, rows

    def measure(self, queries: ArrayLike, features: ArrayLike, k: int = 10, **options: Any) -> IndexReport:
        """Recall against the exact search in the indexed features (N, D), and the speed of both.

        Args:
            queries: (M, D).
            features: (N, D).
            k: rows to find.
            options: of `search`.
        """
        start = time.perf_counter()
        _, rows = self.search(queries, k, **options)
        middle = time.perf_counter()
        _, exact = nearest(queries, features, k, metric=self.metric, own=options.get("own"))
        end = time.perf_counter()
        return IndexReport(
            k=k,
            recall=sum(len(np.intersect1d(*pair)) for pair in zip(rows, exact, strict=True)) / exact.size,
            queries_per_second=len(rows) / (middle - start),
            exact_queries_per_second=len(rows) / (end - middle),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the index to ``path`` and its record to ``path`` + ``.json``, each at once or not at all."""
        faiss = _faiss()
        target = Path(path)
        index = faiss.index_gpu_to_cpu(self._index) if self.device == "cuda" else self._index
        partial = target.with_name(f"{target.name}.partial")
        faiss.write_index(index, str(partial))
        record = {
            "format": FORMAT,
            "factory": self.factory,
            "metric": self.metric,
            "seed": self.seed,
            "dimensions": self.dimensions,
            "parts": [asdict(part) for part in self.parts],
            "xxh3_128": file_hash(partial),
            "faiss": faiss.__version__,
        }
        record_partial = target.with_name(f"{target.name}.json.partial")
        record_partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        partial.replace(target)
        record_partial.replace(record_path(target))

    @classmethod
    def load(cls, path: str | os.PathLike[str], fingerprints: Sequence[str], *, device: str = "cpu") -> Self:
        """Reads an index of the features with these fingerprints, in this order.

        Raises:
            FileNotFoundError: the index or its record is missing.
            StaleIndexError: it is of other features; build it again, or add what is new.
            ValueError: the record or the index is damaged, or of another format.
            ImportError: FAISS is not installed.
        """
        faiss = _faiss()
        target = Path(path)
        record = read_record(record_path(target))
        parts = [Part(**part) for part in record["parts"]]
        held = [part.fingerprint for part in parts]
        if held != list(fingerprints):
            raise StaleIndexError(
                f"{target} must index {', '.join(fingerprints)}; it indexes {', '.join(held)}; "
                "build it again, or add what is new"
            )
        if (digest := file_hash(target)) != record["xxh3_128"]:
            raise ValueError(f"{target} must have the hash {record['xxh3_128']}; found {digest}; build it again")
        index = faiss.read_index(str(target))
        rows = sum(part.rows for part in parts)
        if (index.ntotal, index.d) != (rows, record["dimensions"]):
            raise ValueError(
                f"{target} must hold {rows} rows of {record['dimensions']}; found {index.ntotal} of {index.d}; "
                "build it again"
            )
        loaded = cls(index, factory=record["factory"], metric=record["metric"], parts=parts, seed=record["seed"])
        loaded._move(device)
        return loaded

    def _train(self, rows: NDArray[Any], train_rows: int) -> None:
        if self._index.is_trained:
            return
        if train_rows < 1:
            raise ValueError(f"train_rows must be at least 1; found {train_rows}")
        chosen: NDArray[np.int64] | slice = slice(0, len(rows))
        if train_rows < len(rows):
            chosen = np.sort(np.random.default_rng(self.seed).choice(len(rows), train_rows, replace=False))
        try:
            self._index.train(rows_of(rows, chosen, _prepared(self.metric)).astype(np.float32, copy=False))
        except RuntimeError as error:
            raise ValueError(
                f"{min(train_rows, len(rows))} rows must suffice to train {self.factory}; {_reason(error)}"
            ) from error

    def _rescored(self, queries: NDArray[Any], gallery: NDArray[Any], near: NDArray[np.int64]) -> NDArray[Any]:
        scores = np.empty(near.shape, np.float32)
        step = max(1, RESCORED_VALUES // (near.shape[1] * gallery.shape[1]))
        for start in range(0, len(near), step):
            at = slice(start, start + step)
            flat = np.maximum(near[at], 0).reshape(-1)
            some = rows_of(gallery, flat, _prepared(self.metric), "rescore").reshape(*near[at].shape, -1)
            if self.metric == "euclidean":
                scores[at] = -np.linalg.norm(some - queries[at, None], axis=2)
            else:
                scores[at] = np.matmul(some, queries[at, :, None])[..., 0]
        return scores

    def _same_width(self, features: ArrayLike, name: str) -> NDArray[Any]:
        rows = as_features(features, name)
        if rows.shape[1] != self.dimensions:
            raise ValueError(f"{name} must have the index's D = {self.dimensions}; found {rows.shape[1]}")
        return rows

    def _set(self, name: str, value: int | None) -> None:
        if value is None:
            return
        faiss = _faiss()
        space = faiss.GpuParameterSpace() if self.device == "cuda" else faiss.ParameterSpace()
        try:
            space.set_index_parameter(self._index, name, value)
        except RuntimeError as error:
            raise ValueError(f"{self.factory} must be a kind of index that has {name}; found none") from error

    def _move(self, device: str) -> None:
        check_choice("device", device, ("cpu", "cuda"))
        if device == "cuda":
            faiss = _faiss()
            if not hasattr(faiss, "StandardGpuResources"):
                raise ValueError("device cuda needs a GPU build of FAISS: install featurebank[gpu]; or use device cpu")
            self._resources = faiss.StandardGpuResources()
            self._index = faiss.index_cpu_to_gpu(self._resources, 0, self._index)
        self.device = device


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(f"an index {advice('faiss')}, or [gpu] for CUDA") from error
    return faiss


def _prepared(metric: Metric) -> Metric:
    """FAISS takes float32 whatever the metric; rows are scaled for cosine alone."""
    return "cosine" if metric == "cosine" else "inner_product"


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    faiss = _faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count or before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _reason(error: RuntimeError) -> str:
    """What FAISS says, without where in its sources."""
    return str(error).rpartition(": ")[2].strip() or str(error)
