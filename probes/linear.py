"""A linear probe: multinomial logistic regression on frozen features, its regularisation chosen on validation rows.

Shapes: N training rows, M test rows, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featurebank.probes.bootstrap import bootstrap_interval

__all__ = ["LinearProbe", "linear_probe"]

CS = tuple(float(f"{C:.4g}") for C in np.logspace(-5, 0, 11))


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """What a probe found.

    Attributes:
        accuracy: on the test rows.
        low: lower end of the bootstrap 95 % interval.
        high: upper end.
        C: the regularisation chosen on the validation rows.
        validation: accuracy there, per candidate.
        predictions: (M,) class per test row.
    """

    accuracy: float
    low: float
    high: float
    C: float
    validation: dict[float, float]
    predictions: NDArray[np.int64]


def linear_probe(
    train: NDArray[np.floating],
    train_labels: NDArray[np.int64],
    test: NDArray[np.floating],
    test_labels: NDArray[np.int64],
    *,
    Cs: Sequence[float] = CS,
    seed: int = 0,
) -> LinearProbe:
    """Fits on training rows, chooses C on a stratified fifth of them, refits on all, reads the test rows once.

    Features are standardised with the training rows' mean and standard deviation.

    Args:
        train: (N, D).
        train_labels: (N,), 0..K-1.
        test: (M, D).
        test_labels: (M,).
        Cs: candidates, as scikit-learn's ``C`` (inverse strength of the L2 penalty).
        seed: of the validation split and the bootstrap.

    Raises:
        ValueError: fewer than two classes in the training rows, unlabelled rows, or features of another width.
    """
    from featurebank.probes.logistic import LogisticProbeCV

    _check(train, train_labels, test, test_labels)
    search = LogisticProbeCV(Cs, random_state=seed).fit(train, train_labels)
    predictions = search.predict(test).astype(np.int64)
    correct = predictions == test_labels
    low, high = bootstrap_interval(correct, seed=seed)
    return LinearProbe(
        accuracy=float(correct.mean()),
        low=low,
        high=high,
        C=search.C_,
        validation=search.validation_accuracy_,
        predictions=predictions,
    )


def _check(
    train: NDArray[np.floating],
    train_labels: NDArray[np.int64],
    test: NDArray[np.floating],
    test_labels: NDArray[np.int64],
) -> None:
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1]:
        raise ValueError(
            f"train and test features must be (N, D) with the same D, got {train.shape} and {test.shape}; "
            "use the same output of the same backbone"
        )
    for name, labels, rows in (("train", train_labels, len(train)), ("test", test_labels, len(test))):
        if labels.shape != (rows,):
            raise ValueError(f"{name} labels must be one class per row, ({rows},), got {labels.shape}")
        if rows == 0 or labels.min() < 0:
            raise ValueError(f"{name} rows must exist and be labelled, got {rows} rows with labels below 0 among them")
    if len(np.unique(train_labels)) < 2:
        raise ValueError(f"a probe needs at least two classes, got only class {train_labels[0]} in the train rows")
