"""A linear classifier of a few labelled rows, its penalty chosen among those rows alone.

Shapes: N training rows, M test rows, D features, K classes.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin  # type: ignore[import-untyped]
from sklearn.model_selection import StratifiedKFold  # type: ignore[import-untyped]

from featurebank.probes._labels import class_codes
from featurebank.probes._parameters import Count, Positive, Positives, check_parameters
from featurebank.probes._prediction import LinearPredictor, both_logits
from featurebank.probes._rows import row_blocks, training_data
from featurebank.probes.choice import CS, Choice
from featurebank.probes.logistic import logistic_path

__all__ = ["FewLabelsProbe"]

ONE_ROW_C = 0.01


@dataclass(eq=False, repr=False)
class FewLabelsProbe(LinearPredictor, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Logistic regression on few rows, its C chosen by stratified folds among them.

    Features are standardised with the mean and deviation of the rows that are fitted. The penalty does not change under
    rotation, so that up to D rows are standardised once and fitted, exactly, by their coordinates along their principal
    axes, at most N of them. A class of one row is always fitted; with one row in each class there is nothing to choose
    on, and C is ``one_row_C``.

    Args:
        Cs: Candidates; of equal accuracies the smallest wins.
        folds: At most; no more than the rows of the smallest class that has several.
        one_row_C: The C of one row a class.
        random_state: Of the folds.
        device: Of torch.

    Attributes:
        C_: The chosen candidate.
        choices_: It among the candidates, for `featurebank.probes.choice.edge_notes`; empty with nothing to choose on.
        classes_: (K,) the labels found in fit, sorted.
        coef_: (K, D) float64, (1, D) for two classes.
        intercept_: (K,) float64, (1,) for two classes.

    >>> X = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [0.9, 0.0]])
    >>> FewLabelsProbe(folds=2).fit(X, np.array([0, 0, 1, 1])).predict(X).tolist()
    [0, 0, 1, 1]
    """

    Cs: Positives = CS
    _: KW_ONLY
    folds: Count = 3
    one_row_C: Positive = ONE_ROW_C  # noqa: N815 - C is the penalty's name
    random_state: int = 0
    device: str = "cpu"

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fits (N, D) features, copied as float64 where N is at most D, and (N,) classes.

        Raises:
            ValueError: fewer than two classes, or features that are not finite.
        """
        check_parameters(self)
        features, labels = training_data(self, X, y)
        self.classes_, codes = class_codes(labels)
        if len(features) > features.shape[1]:
            self.C_ = self._chosen(features, codes, standardize=True)
            ((self.coef_, self.intercept_, _),) = logistic_path(features, labels, [self.C_], device=self.device)
            return self
        rows = np.concatenate([block for _, block in row_blocks(features, np.float64)])
        mean, scale = rows.mean(0), rows.std(0)
        scale = np.where(scale > 0, scale, 1.0)
        rows = (rows - mean) / scale
        coordinates, axes = _rotated(rows, self.device)
        self.C_ = self._chosen(coordinates, codes, standardize=False)
        ((coef, intercept, _),) = logistic_path(coordinates, labels, [self.C_], standardize=False, device=self.device)
        self.coef_ = coef @ axes / scale
        self.intercept_ = intercept - self.coef_ @ mean
        return self

    def _chosen(self, rows: NDArray[Any], codes: NDArray[np.int64], *, standardize: bool) -> float:
        counts = np.bincount(codes)
        self.choices_: tuple[Choice, ...] = ()
        if counts.max() < 2 or self.folds < 2:
            return self.one_row_C
        several, alone = np.flatnonzero(counts[codes] > 1), np.flatnonzero(counts[codes] == 1)
        folds = min(self.folds, int(counts[counts > 1].min()))
        right = np.zeros(len(self.Cs))
        splitter = StratifiedKFold(folds, shuffle=True, random_state=self.random_state)
        for fitted, left in splitter.split(several, codes[several]):
            fitting, held = np.concatenate([several[fitted], alone]), several[left]
            path = logistic_path(rows[fitting], codes[fitting], self.Cs, standardize=standardize, device=self.device)
            for where, block in row_blocks(rows[held], np.float64):
                for index, (coef, intercept, _) in enumerate(path):
                    predicted = both_logits(block @ coef.T + intercept).argmax(1)
                    right[index] += (predicted == codes[held][where]).sum()
        best = min(range(len(right)), key=lambda index: (-right[index], self.Cs[index]))
        scores = dict(zip(self.Cs, right.tolist(), strict=True))
        self.choices_ = (Choice(name="C", value=self.Cs[best], scores=scores),)
        return self.Cs[best]


def _rotated(rows: NDArray[np.float64], device: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates (N, A) of rows (N, D) along their principal axes (A, D), A of which are not noise; at least one."""
    x = torch.from_numpy(rows).to(device)
    values, vectors = torch.linalg.eigh(x @ x.T)
    kept = values > values[-1].clamp(min=1) * len(rows) * np.finfo(np.float64).eps
    axes = (vectors[:, kept] / values[kept].sqrt()).T @ x
    # Rows that are all alike span no axis at all.
    axes = axes if len(axes) else torch.zeros_like(x[:1])
    return (x @ axes.T).cpu().numpy(), axes.cpu().numpy()
