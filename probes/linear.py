"""A linear probe: a linear classifier of frozen features, its settings chosen on validation rows, calibrated there.

Shapes: N training rows, V validation rows, M test rows, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from featurebank.probes._prediction import log_probabilities
from featurebank.probes.choice import CS, Choice
from featurebank.probes.intervals import wilson_interval

if TYPE_CHECKING:
    from featurebank.probes.heads import LinearHeads

__all__ = ["LinearFit", "LinearResult", "Protocol", "fit_linear", "linear_probe", "protocol_heads"]

Protocol = Literal["logistic", "bob", "dinov2"]
"""``logistic``: logistic regression on standardised features, exact. ``bob`` and ``dinov2``: `LinearHeads`."""

LARS_RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
HELD_OUT = 0.2


@dataclass(frozen=True, kw_only=True)
class LinearFit:
    """A fitted linear classifier.

    Attributes:
        classes: (K,) the classes of the training rows, sorted.
        chosen: what the validation rows chose, ``C`` or ``learning_rate`` and ``weight_decay``.
        validation: accuracy there, per candidate.
        choices: what was chosen among which, for `featurebank.probes.choice.edge_notes`.
        temperature: what logits are divided by, fitted on the validation rows; 1 where they have no minimum.
        uncalibrated: why the temperature was not fitted; empty if it was.
        model: the estimator.
    """

    classes: NDArray[np.int64]
    chosen: dict[str, float]
    validation: dict[float, float]
    choices: tuple[Choice, ...]
    temperature: float
    uncalibrated: str
    model: Any

    def logits(self, X: NDArray[np.floating]) -> NDArray[np.floating]:
        """(M, K), not yet divided by the temperature; 0 for the first of two classes under ``logistic``."""
        return self.model.logits(X)  # type: ignore[no-any-return]

    def log_probabilities(self, X: NDArray[np.floating]) -> NDArray[np.floating]:
        """(M, K), calibrated."""
        return log_probabilities(self.logits(X), self.temperature)


@dataclass(frozen=True, kw_only=True)
class LinearResult:
    """What a probe found.

    Attributes:
        accuracy: on the test rows.
        low: lower end of Wilson's 95 % interval.
        high: upper end.
        C: the regularisation chosen on the validation rows.
        validation: accuracy there, per candidate.
        predictions: (M,) class per test row.
        log_probabilities: (M, K) of the classes, calibrated on the validation rows.
        classes: (K,) the classes of the training rows, sorted.
        temperature: what the logits were divided by.
    """

    accuracy: float
    low: float
    high: float
    C: float
    validation: dict[float, float]
    predictions: NDArray[np.int64]
    log_probabilities: NDArray[np.floating]
    classes: NDArray[np.int64]
    temperature: float


def linear_probe(
    train: NDArray[np.floating],
    train_labels: NDArray[np.int64],
    test: NDArray[np.floating],
    test_labels: NDArray[np.int64],
    *,
    validation: tuple[NDArray[np.floating], NDArray[np.int64]] | None = None,
    Cs: Sequence[float] = CS,
    random_state: int = 0,
    device: str = "cpu",
) -> LinearResult:
    """Fits a logistic probe, chooses C on validation rows, reads the test rows once.

    Without validation rows a stratified fifth of the training rows takes their place, and all training rows are fitted
    again at the chosen C. Features are standardised with the training rows' mean and standard deviation.

    Args:
        train: (N, D).
        train_labels: (N,), 0..K-1.
        test: (M, D).
        test_labels: (M,); a class that the training rows lack counts as wrong.
        validation: features (V, D) and labels (V,).
        Cs: candidates, as scikit-learn's ``C`` (inverse strength of the L2 penalty).
        random_state: of the validation split.
        device: of torch.

    Raises:
        ValueError: fewer than two classes in the training rows, unlabelled rows, or features of another width.
    """
    _check("test", test, test_labels)
    fit = fit_linear(train, train_labels, validation=validation, Cs=Cs, random_state=random_state, device=device)
    _check("test", test, test_labels, width=train.shape[1])
    log_probabilities = fit.log_probabilities(test)
    predictions = fit.classes[log_probabilities.argmax(1)]
    correct = predictions == test_labels
    low, high = map(float, wilson_interval(correct.sum(), len(correct)))
    return LinearResult(
        accuracy=float(correct.mean()),
        low=low,
        high=high,
        C=fit.chosen["C"],
        validation=fit.validation,
        predictions=predictions,
        log_probabilities=log_probabilities,
        classes=fit.classes,
        temperature=fit.temperature,
    )


def fit_linear(
    train: NDArray[np.floating],
    train_labels: NDArray[np.int64],
    *,
    validation: tuple[NDArray[np.floating], NDArray[np.int64]] | None = None,
    protocol: Protocol = "logistic",
    Cs: Sequence[float] = CS,
    random_state: int = 0,
    device: str = "cpu",
) -> LinearFit:
    """Fits a linear classifier, its settings and its temperature from validation rows; never sees a test row.

    Args:
        train: (N, D).
        train_labels: (N,).
        validation: features (V, D) and labels (V,); a stratified fifth of the training rows if None.
        protocol: ``logistic``, or the gradient descent of ``bob`` (LARS, Goldblum et al. 2023, arXiv:2310.19909) or
            ``dinov2`` (SGD, Oquab et al. 2023, arXiv:2304.07193), both a grid of learning rates; see `LinearHeads`.
        Cs: candidates of ``logistic``.
        random_state: of the validation split.
        device: of torch.

    Raises:
        ValueError: as `linear_probe`, or another protocol.
    """
    from sklearn.base import clone  # type: ignore[import-untyped]

    from featurebank.probes._holding import stratified_part
    from featurebank.probes.logistic import LogisticProbe, LogisticProbeCV

    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol must be one of {', '.join(get_args(Protocol))}; found {protocol!r}")
    _check("train", train, train_labels)
    if len(np.unique(train_labels)) < 2:
        raise ValueError(f"a probe needs at least two classes, got only class {train_labels[0]} in the train rows")
    first, whole = (train, train_labels), None
    if validation is None:
        fitting, held = map(np.sort, stratified_part(train_labels, HELD_OUT, random_state))
        first, whole = (train[fitting], train_labels[fitting]), first
        validation = train[held], train_labels[held]
    _check("validation", *validation, width=train.shape[1])
    search: Any
    if protocol == "logistic":
        search = LogisticProbeCV(Cs, random_state=random_state, device=device).fit(*first, validation=validation)
        chosen, accuracies = {"C": float(search.C_)}, search.validation_accuracy_
        model = search if whole is None else LogisticProbe(search.C_, device=device).fit(*whole)
    else:
        heads = protocol_heads(protocol, random_state=random_state, device=device)
        search = clone(heads).fit(*first, validation)
        chosen, pairs = search.best_, zip(search.learning_rates, search.validation_accuracy_[:, 0], strict=True)
        accuracies = {float(rate): float(accuracy) for rate, accuracy in pairs if np.isfinite(accuracy)}
        best = {f"{name}s": (value,) for name, value in chosen.items()}
        model = search if whole is None else heads.set_params(**best).fit(*whole, validation)
    temperature, uncalibrated = _temperature(search.logits(validation[0]), validation[1], search.classes_)
    return LinearFit(
        classes=model.classes_,
        chosen=chosen,
        validation=accuracies,
        choices=tuple(
            Choice(name=name.replace("_", " "), value=chosen[name], scores=accuracies)
            for name in ("C", "learning_rate")
            if name in chosen
        ),
        temperature=temperature,
        uncalibrated=uncalibrated,
        model=model,
    )


def protocol_heads(protocol: Literal["bob", "dinov2"], *, random_state: int = 0, device: str = "cpu") -> LinearHeads:
    """The heads of a protocol: ``bob`` LARS at 7 learning rates, 10 of 90 epochs of warm-up; ``dinov2`` SGD at 13."""
    from featurebank.probes.heads import LinearHeads

    if protocol == "bob":
        return LinearHeads(LARS_RATES, optimizer="lars", warmup_epochs=10, random_state=random_state, device=device)
    return LinearHeads(random_state=random_state, device=device)


def _temperature(
    logits: NDArray[np.floating], labels: NDArray[np.int64], classes: NDArray[np.int64]
) -> tuple[float, str]:
    """The temperature, and why it is 1 where the rows have none."""
    from featurebank.probes.calibration import TemperatureScaling

    known = np.isin(labels, classes)
    try:
        scaling = TemperatureScaling().fit(logits[known], np.searchsorted(classes, labels[known]))
    except ValueError as error:
        return 1.0, str(error)
    return scaling.temperature_, ""


def _check(name: str, features: NDArray[np.floating], labels: NDArray[np.int64], *, width: int | None = None) -> None:
    if features.ndim != 2:
        raise ValueError(f"{name} features must be (N, D), got {features.shape}; use an output of one vector a row")
    if width not in (None, features.shape[1]):
        raise ValueError(
            f"all features must have the same D as the train rows', {width}, got {features.shape}; "
            "use the same output of the same backbone"
        )
    if labels.shape != (len(features),):
        raise ValueError(f"{name} labels must be one class per row, ({len(features)},), got {labels.shape}")
    if len(labels) == 0 or labels.min() < 0:
        raise ValueError(
            f"{name} rows must exist and be labelled, got {len(labels)} rows with labels below 0 among them"
        )
