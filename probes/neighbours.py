"""Exact nearest neighbours of frozen features: the kNN probe, its sweep over k and T, and the nearest class mean.

Shapes: N gallery rows, M query rows, D features, K classes, k neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin  # type: ignore[import-untyped]

from featurebank.probes._holding import stratified_part
from featurebank.probes._labels import class_codes
from featurebank.probes._parameters import Positive, check_parameters
from featurebank.probes._rows import check_finite, query_data, row_blocks, row_slices, training_data
from featurebank.probes.choice import Choice
from featurebank.probes.intervals import wilson_interval
from featurebank.retrieval._features import as_features, check_k
from featurebank.retrieval.search import nearest

__all__ = ["KNNProbe", "KNNSweep", "NearestClassMean", "knn_sweep"]

Metric = Literal["cosine", "euclidean"]
Weights = Literal["dino", "uniform"]

KS = (10, 20, 100, 200)
TEMPERATURES = (0.07,)
VOTES = 2**22  # votes held at once: 32 MiB
NO_VOTE = np.iinfo(np.int64).max  # the rank of a class that no neighbour has


@dataclass(eq=False, repr=False)
class KNNProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The k-nearest-neighbour classifier of frozen features.

    Each of the k nearest training rows votes for its class, with weight exp(similarity / T) as in DINO (Caron et al.
    2021, arXiv:2104.14294) or with weight 1. Of equal votes the lower class wins, of equal similarities the lower row.
    The training features are kept by reference and read in blocks; see `nearest`.

    Args:
        k: Neighbours; at most the number of training rows.
        temperature: T of the ``dino`` vote.
        metric: ``cosine`` or ``euclidean`` (where the similarity is minus the distance).
        weights: ``dino`` or ``uniform``.
        device: Of torch.

    Attributes:
        classes_: (K,) the labels found in fit, sorted.
        n_features_in_: D.
    """

    k: int = 20
    _: KW_ONLY
    temperature: Positive = 0.07
    metric: Metric = "cosine"
    weights: Weights = "dino"
    device: str = "cpu"

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Keeps the training rows (N, D) and their classes (N,).

        Raises:
            ValueError: NaN or infinity, one class only, k above N, or a parameter that is not allowed.
        """
        check_parameters(self)
        self._gallery, labels = training_data(self, X, y)
        self.classes_, self._codes = class_codes(labels)
        check_k(self.k, len(self._gallery))
        check_finite(self._gallery)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Each class's share of the votes (M, K)."""
        similarity, codes = self._neighbours(X)
        votes = np.empty((len(codes), len(self.classes_)))
        for rows, some in _votes(similarity, codes, len(self.classes_), self._temperature):
            votes[rows] = some / some.sum(1, keepdims=True)
        return votes

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The class with most votes (M,)."""
        similarity, codes = self._neighbours(X)
        blocks = _votes(similarity, codes, len(self.classes_), self._temperature)
        return self.classes_[np.concatenate([votes.argmax(1) for _, votes in blocks])]  # type: ignore[no-any-return]

    def top_k_accuracy(self, X: ArrayLike, y: ArrayLike, top: int = 5) -> float:
        """The share of rows whose class is among the ``top`` classes with most votes; one without a vote never is."""
        similarity, codes = self._neighbours(X)
        truth = _codes_of(self.classes_, y, len(codes))
        return float((_ranks(similarity, codes, truth, len(self.classes_), self._temperature) < top).mean())

    @property
    def _temperature(self) -> float | None:
        return self.temperature if self.weights == "dino" else None

    def _neighbours(self, X: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        queries = query_data(self, X)
        similarity, rows = nearest(queries, self._gallery, self.k, metric=self.metric, device=self.device)
        return similarity, self._codes[rows]


@dataclass(frozen=True, kw_only=True)
class KNNSweep:
    """What a sweep found.

    Attributes:
        k: chosen on the validation rows.
        temperature: chosen there; None for uniform votes.
        accuracy: top-1 on the test rows.
        top5: share of test rows whose class is among the five with most votes.
        low: lower end of Wilson's 95 % interval of the accuracy.
        high: upper end.
        validation: top-1 on the validation rows for each (k, T).
        validation_top5: top-5 there.
        choices: k and T, for `featurebank.probes.choice.edge_notes`.
        predictions: (M,) class per test row.
    """

    k: int
    temperature: float | None
    accuracy: float
    top5: float
    low: float
    high: float
    validation: dict[tuple[int, float | None], float]
    validation_top5: dict[tuple[int, float | None], float]
    choices: tuple[Choice, ...]
    predictions: NDArray[np.int64]


def knn_sweep(
    train: ArrayLike,
    train_labels: ArrayLike,
    test: ArrayLike,
    test_labels: ArrayLike,
    *,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    ks: Sequence[int] = KS,
    temperatures: Sequence[float] = TEMPERATURES,
    metric: Metric = "cosine",
    weights: Weights = "dino",
    random_state: int = 0,
    device: str = "cpu",
) -> KNNSweep:
    """Chooses (k, T) on validation rows, all pairs from one search at the largest k, then reads the test rows once.

    Of equal accuracies the smaller k wins, then the lower T. Without validation rows a stratified fifth of the training
    rows takes their place and goes back into the gallery for the test.

    Args:
        train: (N, D) the gallery.
        train_labels: (N,).
        test: (M, D), any number of rows.
        test_labels: (M,); a class that the gallery lacks counts as wrong.
        validation: features (V, D) and labels (V,).
        ks: candidates, each at most the number of rows that are searched.
        temperatures: candidates of the ``dino`` vote; unused with uniform weights.
        metric: as in `KNNProbe`.
        weights: as in `KNNProbe`.
        random_state: of the validation split.
        device: of torch.

    Raises:
        ValueError: as `KNNProbe`, or no candidate, or a class with too few rows to be split.
    """
    x, x_test = as_features(train, "train"), as_features(test, "test")
    y = _labels_of(train_labels, len(x), "train")
    candidates = temperatures if weights == "dino" else (None,)
    if not ks or not candidates:
        raise ValueError(f"ks and temperatures must not be empty; found {tuple(ks)} and {tuple(candidates)}")
    for candidate in (*temperatures, *TEMPERATURES):
        check_parameters(KNNProbe(temperature=candidate, metric=metric, weights=weights, device=device))
    if validation is None:
        fitting, validating = map(np.sort, stratified_part(y, 0.2, random_state))
        gallery, codes_from, queries, truth = x[fitting], y[fitting], x[validating], y[validating]
    else:
        gallery, codes_from, queries = x, y, as_features(validation[0], "validation")
        truth = _labels_of(validation[1], len(queries), "validation")
    for k in ks:
        check_k(k, len(gallery))
    classes, _ = class_codes(y)
    y_test = _codes_of(classes, test_labels, len(x_test))
    truth, codes = _codes_of(classes, truth, len(queries)), np.searchsorted(classes, codes_from)

    similarity, rows = nearest(queries, gallery, max(ks), metric=metric, device=device)
    pairs = sorted(itertools.product(set(ks), set(candidates)), key=lambda pair: (pair[0], pair[1] or 0.0))
    ranks = {(k, T): _ranks(similarity[:, :k], codes[rows[:, :k]], truth, len(classes), T) for k, T in pairs}
    accuracies = {pair: float((rank == 0).mean()) for pair, rank in ranks.items()}
    k, temperature = max(accuracies, key=lambda pair: accuracies[pair])  # the first of equals

    similarity, rows = nearest(x_test, x, k, metric=metric, device=device)
    codes = np.searchsorted(classes, y)[rows]
    predictions = np.concatenate([v.argmax(1) for _, v in _votes(similarity, codes, len(classes), temperature)])
    correct = predictions == y_test
    low, high = map(float, wilson_interval(correct.sum(), len(correct)))
    return KNNSweep(
        k=k,
        temperature=temperature,
        accuracy=float(correct.mean()),
        top5=float((_ranks(similarity, codes, y_test, len(classes), temperature) < 5).mean()),
        low=low,
        high=high,
        validation=accuracies,
        validation_top5={pair: float((rank < 5).mean()) for pair, rank in ranks.items()},
        choices=_choices(accuracies, k, temperature),
        predictions=classes[predictions],
    )


def _choices(
    accuracies: dict[tuple[int, float | None], float], k: int, temperature: float | None
) -> tuple[Choice, ...]:
    """Each of the two, the other one as chosen."""
    of_k = {float(one): accuracy for (one, T), accuracy in accuracies.items() if temperature == T}
    choices = [Choice(name="k", value=float(k), scores=of_k)]
    if temperature is not None:
        of_t = {T: accuracy for (one, T), accuracy in accuracies.items() if one == k and T is not None}
        choices.append(Choice(name="T", value=temperature, scores=of_t))
    return tuple(choices)


@dataclass(eq=False, repr=False)
class NearestClassMean(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The classifier of the nearest class mean; of equally near ones the lower class.

    With ``cosine`` a class mean is the mean of the rows scaled to unit length, itself scaled to unit length; with
    ``euclidean`` it is the plain mean (scikit-learn's ``NearestCentroid``). Means are summed over blocks in float64.

    Args:
        metric: ``cosine`` or ``euclidean``.

    Attributes:
        classes_: (K,) the labels found in fit, sorted.
        means_: (K, D) float64.
        n_features_in_: D.
    """

    metric: Metric = "cosine"

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Averages the training rows (N, D) of each class (N,).

        Raises:
            ValueError: NaN or infinity, one class only, or another metric.
        """
        check_parameters(self)
        features, labels = training_data(self, X, y)
        self.classes_, codes = class_codes(labels)
        sums = np.zeros((len(self.classes_), features.shape[1]))
        for rows, block in row_blocks(features, np.float64):
            order = np.argsort(codes[rows], kind="stable")
            present, first = np.unique(codes[rows][order], return_index=True)
            sums[present] += np.add.reduceat(self._scaled(block)[order], first, axis=0)
        self.means_ = self._scaled(sums / np.bincount(codes)[:, None])
        return self

    def similarity(self, X: ArrayLike) -> NDArray[np.float64]:
        """Cosine, or minus the squared distance, of each row to each class mean (M, K)."""
        features = query_data(self, X)
        similarity = np.empty((len(features), len(self.classes_)))
        for rows, block in row_blocks(features, np.float64):
            similarity[rows] = self._scaled(block) @ self.means_.T
            if self.metric == "euclidean":
                squares = np.square(block).sum(1)[:, None] + np.square(self.means_).sum(1)
                similarity[rows] = 2 * similarity[rows] - squares
        return similarity

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The class of the nearest mean (M,)."""
        best = self.similarity(X).argmax(1)
        return self.classes_[best]  # type: ignore[no-any-return]

    def _scaled(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.metric == "euclidean":
            return rows
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(norms == 0, 1.0, norms)


def _votes(
    similarity: NDArray[np.floating], codes: NDArray[np.int64], n_classes: int, temperature: float | None
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Blocks of rows and their votes (m, K), from the similarity and class of the neighbours (M, k); no T: uniform.

    The nearest neighbour's vote is 1: exp(similarity / T) itself would overflow at a low T.
    """
    for rows in row_slices(len(codes), n_classes, values=VOTES):
        offsets = np.arange(rows.stop - rows.start)[:, None] * n_classes
        weights = None
        if temperature is not None:
            some = similarity[rows].astype(np.float64)
            weights = np.exp((some - some[:, :1]) / temperature).ravel()
        counts = np.bincount((codes[rows] + offsets).ravel(), weights, minlength=len(offsets) * n_classes)
        yield rows, counts.reshape(-1, n_classes).astype(np.float64)


def _ranks(
    similarity: NDArray[np.floating],
    codes: NDArray[np.int64],
    truth: NDArray[np.int64],
    n_classes: int,
    temperature: float | None,
) -> NDArray[np.int64]:
    """How many classes come before the true one (M,); `NO_VOTE` where that one has no vote."""
    ranks = np.empty(len(truth), np.int64)
    for rows, votes in _votes(similarity, codes, n_classes, temperature):
        true = truth[rows, None]
        own = np.where(true >= 0, np.take_along_axis(votes, np.maximum(true, 0), 1), 0.0)
        before = (votes > own) | (votes == own) & (np.arange(n_classes) < true)
        ranks[rows] = np.where(own[:, 0] > 0, before.sum(1), NO_VOTE)
    return ranks


def _codes_of(classes: NDArray[Any], labels: ArrayLike, rows: int) -> NDArray[np.int64]:
    """The position of each label among the classes, -1 where it is none of them."""
    given = np.asarray(labels)
    if given.shape != (rows,):
        raise ValueError(f"labels must be one class per row, ({rows},); found {given.shape}")
    at = np.minimum(np.searchsorted(classes, given), len(classes) - 1)
    return np.where(classes[at] == given, at, -1)


def _labels_of(labels: ArrayLike, rows: int, name: str) -> NDArray[Any]:
    given = np.asarray(labels)
    if given.shape != (rows,):
        raise ValueError(f"{name} labels must be one class per row, ({rows},); found {given.shape}")
    return given
