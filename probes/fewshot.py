"""Few labels: stratified draws of training rows, accuracy over draws, and the label-efficiency curve.

Shapes: N training rows, M test rows, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.retrieval._features import as_features

__all__ = ["Classifier", "FewShot", "few_shot", "fraction_rows", "k_shot_rows", "label_efficiency_curve"]


class Classifier(Protocol):
    """What a draw is fitted with: any classifier of scikit-learn's kind."""

    def fit(self, X: Any, y: Any) -> Self:
        """Fits on rows (n, D) and their classes (n,)."""
        ...

    def predict(self, X: Any) -> NDArray[Any]:
        """The class of each row."""
        ...


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """Accuracy over the draws of one number of labels.

    Attributes:
        shots: training rows of each class; None where a fraction was drawn.
        fraction: of each class's training rows; None where shots were drawn.
        rows: training rows of a draw.
        short: classes that have fewer rows than shots, and give all of them.
        accuracies: on the test rows, one a draw.
        mean: of the accuracies.
        low: lower end of Student's 95 % interval of the mean over draws; may leave [0, 1].
        high: upper end.
    """

    shots: int | None
    fraction: float | None
    rows: int
    short: tuple[int, ...] = ()
    accuracies: tuple[float, ...]
    mean: float
    low: float
    high: float


def k_shot_rows(labels: ArrayLike, k: int, draw: int = 0, random_state: int = 0) -> NDArray[np.int64]:
    """Rows of a draw of k from each class, without replacement, ascending; a class of fewer rows gives all of them.

    The rows of fewer shots are among those of more shots of the same draw. The draw depends on nothing but the
    arguments: it sorts by raw Philox numbers, whose stream is the same on every platform and in every NumPy.

    >>> k_shot_rows([0, 0, 0, 1, 1, 1], 1).tolist()
    [0, 5]

    Args:
        labels: (N,) integer classes, 0 or more.
        k: rows of each class.
        draw: number of the draw, 0 or more.
        random_state: of all draws, 0 or more.

    Raises:
        ValueError: no class with k rows, unlabelled rows, or k below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; found {k}")
    order, sizes = _drawn(labels, draw, random_state)
    if sizes.max() < k:
        raise ValueError(f"some class must have at least k = {k} rows; found at most {sizes.max()}; lower k")
    return _first(order, sizes, np.full(len(sizes), k))


def fraction_rows(labels: ArrayLike, fraction: float, draw: int = 0, random_state: int = 0) -> NDArray[np.int64]:
    """Rows of a draw of a fraction of each class, rounded half up and at least one, ascending.

    The rows of a smaller fraction are among those of a larger one of the same draw; see `k_shot_rows`.

    >>> fraction_rows([0] * 10 + [1] * 2, 0.2).tolist()
    [0, 2, 11]

    Args:
        labels: (N,) integer classes, 0 or more.
        fraction: above 0, at most 1.
        draw: number of the draw, 0 or more.
        random_state: of all draws, 0 or more.

    Raises:
        ValueError: unlabelled rows, or a fraction out of range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1; found {fraction}")
    order, sizes = _drawn(labels, draw, random_state)
    return _first(order, sizes, np.maximum(1, np.floor(fraction * sizes + 0.5).astype(np.int64)))


def few_shot(
    features: ArrayLike,
    labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    shots: int,
    *,
    draws: int = 5,
    estimator_factory: Callable[[], Classifier] | None = None,
    random_state: int = 0,
) -> FewShot:
    """Test accuracy of a classifier fitted on k rows of each class, over several draws.

    Args:
        features: (N, D).
        labels: (N,) integer classes, 0 or more.
        test_features: (M, D).
        test_labels: (M,).
        shots: k.
        draws: at least 2.
        estimator_factory: gives a fresh classifier for each draw; `NearestClassMean` if None.
        random_state: of the draws.

    Raises:
        ValueError: as `k_shot_rows`, fewer than two draws, or features and labels that do not belong together.
    """
    (point,) = label_efficiency_curve(
        features, labels, test_features, test_labels,
        shots=(shots,), draws=draws, estimator_factory=estimator_factory, random_state=random_state,
    )  # fmt: skip
    return point


def label_efficiency_curve(
    features: ArrayLike,
    labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    shots: Sequence[int] = (),
    fractions: Sequence[float] = (),
    draws: int = 5,
    estimator_factory: Callable[[], Classifier] | None = None,
    random_state: int = 0,
) -> tuple[FewShot, ...]:
    """`few_shot` for each number of shots, then for each fraction of the training rows, in the order given.

    Draws are nested: within one draw, more labels always include the fewer.

    Raises:
        ValueError: as `few_shot` and `fraction_rows`, or neither shots nor fractions.
    """
    x, x_test = as_features(features), as_features(test_features, "test features")
    y, y_test = _matching(x, labels, "train"), _matching(x_test, test_labels, "test")
    if x.shape[1] != x_test.shape[1]:
        raise ValueError(f"train and test features must have the same D; found {x.shape} and {x_test.shape}")
    if draws < 2:
        raise ValueError(f"draws must be at least 2 for an interval; found {draws}")
    if not shots and not fractions:
        raise ValueError("shots or fractions must hold at least one number; found neither")
    factory = _nearest_class_mean if estimator_factory is None else estimator_factory
    classes, sizes = np.unique(y, return_counts=True)
    seeds = [(draw, random_state) for draw in range(draws)]
    plans = [
        *((k, None, [k_shot_rows(y, k, *seed) for seed in seeds]) for k in shots),
        *((None, fraction, [fraction_rows(y, fraction, *seed) for seed in seeds]) for fraction in fractions),
    ]
    return tuple(
        _point(
            [_accuracy(factory(), x[rows], y[rows], x_test, y_test) for rows in drawn],
            shots=k,
            fraction=fraction,
            rows=len(drawn[0]),
            short=tuple(classes[sizes < (k or 0)].tolist()),
        )
        for k, fraction, drawn in plans
    )


def _point(accuracies: list[float], **drawn: Any) -> FewShot:
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    n = len(accuracies)
    mean = float(np.mean(accuracies))
    half = float(stdtrit(n - 1, 0.975) * np.std(accuracies, ddof=1) / np.sqrt(n))
    return FewShot(accuracies=tuple(accuracies), mean=mean, low=mean - half, high=mean + half, **drawn)


def _accuracy(
    estimator: Classifier, x: NDArray[Any], y: NDArray[Any], x_test: NDArray[Any], y_test: NDArray[Any]
) -> float:
    return float((estimator.fit(x, y).predict(x_test) == y_test).mean())


def _nearest_class_mean() -> Classifier:
    from featurebank.probes.neighbours import NearestClassMean

    return NearestClassMean()


def _drawn(labels: ArrayLike, draw: int, random_state: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All rows, class by class, in the order in which a draw takes them; and the rows of each class."""
    classes = np.asarray(labels)
    if classes.ndim != 1 or len(classes) == 0 or classes.dtype.kind not in "iu":
        raise ValueError(f"labels must be (N,) integer classes; found {classes.dtype} of shape {classes.shape}")
    if classes.min() < 0:
        raise ValueError(f"classes must be 0 or more; found {classes.min()}; leave out unlabelled rows")
    if draw < 0 or random_state < 0:
        raise ValueError(f"draw and random_state must be 0 or more; found {draw} and {random_state}")
    keys = np.random.Philox(key=np.array([random_state, draw], np.uint64)).random_raw(len(classes))
    return np.lexsort((keys, classes)), np.unique_counts(classes).counts.astype(np.int64)


def _first(order: NDArray[np.int64], sizes: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    within = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[within < np.repeat(wanted, sizes)])


def _matching(features: NDArray[Any], labels: ArrayLike, name: str) -> NDArray[Any]:
    classes = np.asarray(labels)
    if classes.shape != (len(features),):
        raise ValueError(f"{name} labels must be one class per row, ({len(features)},); found {classes.shape}")
    return classes
