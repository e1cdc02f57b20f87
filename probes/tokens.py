"""Probes with a small network: an MLP on pooled features, attentive pooling on tokens; stopped early.

Shapes: N training rows, M test rows, T tokens, D features, K classes.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin  # type: ignore[import-untyped]

from featurebank.probes._labels import class_codes
from featurebank.probes._rows import query_data, row_slices, training_data
from featurebank.probes._training import (
    FORWARD_VALUES,
    check_device,
    check_number,
    checked_array,
    cosine_factor,
    count_batches,
    held_out,
    shuffled_batches,
    to_torch,
    validation_codes,
)

if TYPE_CHECKING:
    from torch import nn

    from featurebank.probes._attentive_pool import AttentivePool

__all__ = ["AttentivePoolProbe", "MLPProbe"]

EPS = 1e-6


class _NetworkProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """AdamW with a cosine schedule; the network of the epoch with the lowest validation loss is kept."""

    _axes: ClassVar[str]

    learning_rate: float
    weight_decay: float
    epochs: int
    patience: int
    batch_size: int
    validation_fraction: float
    device: str
    random_state: int

    @abstractmethod
    def _network(self, width: int, n_classes: int) -> nn.Module:
        """The network, with weights from torch's default generator."""

    def fit(self, X: ArrayLike, y: ArrayLike, validation: tuple[ArrayLike, ArrayLike] | None = None) -> Self:
        """Trains until the validation loss has not fallen for ``patience`` epochs, or for all epochs.

        Args:
            X: Training features, float of any width; a read-only memory map is read in batches.
            y: (N,) classes.
            validation: Features and classes that decide when to stop; a part of the training rows if None, which the
                network is then not trained on.

        Raises:
            ValueError: NaN or infinity, one class only, other shapes, classes or parameters than allowed, or a loss
                that is not finite.
        """
        import torch

        self._check_parameters()
        features, labels = _labelled(self, X, y, self._axes)
        self.classes_, codes = class_codes(labels)
        rows, held = np.arange(len(features)), features
        if validation is None:
            generator = np.random.default_rng((self.random_state, 1))
            rows, held_rows = held_out(codes, self.validation_fraction, generator)
            held_codes = codes[held_rows]
        else:
            held = _unlabelled(self, validation[0], self._axes)
            held_rows, held_codes = np.arange(len(held)), validation_codes(self.classes_, validation[1], len(held))
        if len(rows) < 2:
            raise ValueError(f"batch normalisation needs at least 2 rows to train on; found {len(rows)} sample")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.random_state)
            self.network_ = self._network(features.shape[-1], len(self.classes_)).to(self.device)
        self._train(features, codes, rows, (held, held_codes, held_rows))
        return self

    def logits(self, X: ArrayLike) -> NDArray[np.float32]:
        """(M, K), computed in blocks of rows."""
        features = _unlabelled(self, X, self._axes)
        blocks = row_slices(len(features), max(features[0].size, len(self.classes_)), values=FORWARD_VALUES)
        return np.concatenate([self._scores(features, rows) for rows in blocks])

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """The probability of each class (M, K)."""
        from scipy.special import softmax  # type: ignore[import-untyped]

        return softmax(self.logits(X).astype(np.float64), axis=1)  # type: ignore[no-any-return]

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class (M,)."""
        best = self.logits(X).argmax(1)
        return self.classes_[best]  # type: ignore[no-any-return]

    def _train(
        self,
        features: NDArray[Any],
        codes: NDArray[np.int64],
        rows: NDArray[np.int64],
        held: tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]],
    ) -> None:
        import torch

        generator = np.random.default_rng((self.random_state, 0))
        optimizer = torch.optim.AdamW(
            self.network_.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, foreach=False
        )
        steps, done = self.epochs * count_batches(len(rows), self.batch_size), 0
        labels = torch.from_numpy(codes)
        best, state = np.inf, {}
        self.validation_loss_: list[float] = []
        self.validation_accuracy_: list[float] = []
        for epoch in range(self.epochs):
            self.network_.train()
            for batch in shuffled_batches(rows, self.batch_size, generator):
                optimizer.param_groups[0]["lr"] = self.learning_rate * cosine_factor(done, steps)
                scores = self.network_(to_torch(features, batch, self.device))
                loss = torch.nn.functional.cross_entropy(scores, labels[batch].to(self.device))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                done += 1
            self._validate(*held)
            if self.validation_loss_[-1] < best:
                best, self.best_epoch_ = self.validation_loss_[-1], epoch
                state = copy.deepcopy(self.network_.state_dict())
            elif epoch - self.best_epoch_ >= self.patience:
                break
        self.network_.load_state_dict(state)
        self.network_.eval()

    def _validate(self, held: NDArray[Any], codes: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Adds the loss and the accuracy of one epoch."""
        from scipy.special import log_softmax

        loss = correct = 0.0
        for block in row_slices(len(rows), max(held[0].size, len(self.classes_)), values=FORWARD_VALUES):
            scores, truth = self._scores(held, rows[block]), codes[block]
            loss -= log_softmax(scores.astype(np.float64), axis=1)[np.arange(len(truth)), truth].sum()
            correct += (scores.argmax(1) == truth).sum()
        if not np.isfinite(loss):
            raise ValueError(
                f"the loss must stay finite; found {loss} with learning_rate={self.learning_rate}; lower it"
            )
        self.validation_loss_.append(float(loss / len(rows)))
        self.validation_accuracy_.append(float(correct / len(rows)))

    def _scores(self, features: NDArray[Any], rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        import torch

        self.network_.eval()
        with torch.inference_mode():
            return self.network_(to_torch(features, rows, self.device)).cpu().numpy()  # type: ignore[no-any-return]

    def _check_parameters(self) -> None:
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("weight_decay", self.weight_decay, least=0)
        check_number("epochs", self.epochs, least=1)
        check_number("patience", self.patience, least=1)
        check_number("batch_size", self.batch_size, least=2)
        check_device(self.device)


class MLPProbe(_NetworkProbe):
    """One hidden layer on pooled features (N, D): batch normalisation without scale and shift, linear, GELU, linear.

    Trained with AdamW on the cross-entropy, the learning rate falling to 0 in half a cosine, and stopped early.

    Args:
        hidden: Width of the hidden layer.
        learning_rate: At the beginning.
        weight_decay: Of AdamW.
        epochs: At most.
        patience: Epochs without a lower validation loss after which training stops.
        batch_size: At most; the batches of an epoch are of as equal a size as possible.
        validation_fraction: Of the rows of each class, where `fit` gets no validation rows.
        device: Of torch.
        random_state: Seed of the weights, the batches and the validation rows.

    Attributes:
        classes_: (K,) the labels found in fit, sorted.
        n_features_in_: D.
        network_: The torch module of the best epoch.
        best_epoch_: Counted from 0.
        validation_loss_: Mean cross-entropy after each epoch.
        validation_accuracy_: After each epoch.

    >>> X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(20, axis=0)
    >>> y = np.array([0, 1, 1, 0]).repeat(20)
    >>> MLPProbe(learning_rate=0.01).fit(X, y).score(X, y)
    1.0
    """

    _axes = "N, D"

    def __init__(
        self,
        hidden: int = 512,
        *,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        epochs: int = 100,
        patience: int = 10,
        batch_size: int = 256,
        validation_fraction: float = 0.2,
        device: str = "cpu",
        random_state: int = 0,
    ) -> None:
        self.hidden = hidden
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.patience = patience
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.device = device
        self.random_state = random_state

    def _network(self, width: int, n_classes: int) -> nn.Module:
        from torch import nn

        check_number("hidden", self.hidden, least=1)
        norm = nn.BatchNorm1d(width, affine=False, eps=EPS)
        return nn.Sequential(norm, nn.Linear(width, self.hidden), nn.GELU(), nn.Linear(self.hidden, n_classes))


class AttentivePoolProbe(_NetworkProbe):
    """A learned query attends to the tokens (N, T, D), and a linear layer reads what it gathers.

    The attentive probe of AIM (El-Nouby et al. 2024, arXiv:2401.08541; one query, no biases, no query projection):
    batch normalisation of each feature over images and tokens without scale and shift, multi-head cross-attention with
    softmax(q . k / sqrt(D / heads)), and a linear classifier. Trained like `MLPProbe`.

    Args:
        n_heads: Of the attention; D must be a multiple.
        learning_rate: At the beginning.
        weight_decay: Of AdamW.
        epochs: At most.
        patience: Epochs without a lower validation loss after which training stops.
        batch_size: At most; the batches of an epoch are of as equal a size as possible.
        validation_fraction: Of the rows of each class, where `fit` gets no validation rows.
        device: Of torch.
        random_state: Seed of the weights, the batches and the validation rows.

    Attributes:
        classes_: (K,) the labels found in fit, sorted.
        n_features_in_: D.
        network_: The torch module of the best epoch.
        best_epoch_: Counted from 0.
        validation_loss_: Mean cross-entropy after each epoch.
        validation_accuracy_: After each epoch.
    """

    _axes = "N, T, D"
    network_: AttentivePool

    def __init__(
        self,
        n_heads: int = 8,
        *,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        epochs: int = 100,
        patience: int = 10,
        batch_size: int = 128,
        validation_fraction: float = 0.2,
        device: str = "cpu",
        random_state: int = 0,
    ) -> None:
        self.n_heads = n_heads
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.patience = patience
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.device = device
        self.random_state = random_state

    def attention(self, X: ArrayLike) -> NDArray[np.float32]:
        """What each head looks at in each row (M, n_heads, T), adding up to 1 over the tokens."""
        import torch

        tokens = _unlabelled(self, X, self._axes)
        found = []
        with torch.inference_mode():
            for rows in row_slices(len(tokens), tokens[0].size, values=FORWARD_VALUES):
                x = to_torch(tokens, rows, self.device)
                x = self.network_.norm(x.flatten(0, 1)).view_as(x)
                found.append(self.network_.attention(x).transpose(1, 2).cpu().numpy())
        return np.concatenate(found)

    def _network(self, width: int, n_classes: int) -> nn.Module:
        from featurebank.probes._attentive_pool import AttentivePool

        check_number("n_heads", self.n_heads, least=1)
        if width % self.n_heads:
            raise ValueError(f"n_heads must divide D, {width}; found {self.n_heads}")
        return AttentivePool(width, n_classes, self.n_heads, EPS)


def _labelled(estimator: Any, X: ArrayLike, y: ArrayLike, axes: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Finite features of the axes named, and one label a row; sets the estimator's ``n_features_in_``."""
    if axes == "N, D":
        features, labels = training_data(estimator, X, y)
        return checked_array(features, axes, "features"), labels
    features, labels = checked_array(X, axes, "tokens"), np.asarray(y)
    if labels.shape != (len(features),):
        raise ValueError(f"labels must be one class per row, ({len(features)},); found shape {labels.shape}")
    estimator.n_features_in_ = features.shape[-1]
    return features, labels


def _unlabelled(estimator: Any, X: ArrayLike, axes: str) -> NDArray[Any]:
    """Finite features of the axes named, of the width that the fitted estimator was fitted on."""
    from sklearn.utils.validation import check_is_fitted  # type: ignore[import-untyped]

    check_is_fitted(estimator, "n_features_in_")
    if axes == "N, D":
        return checked_array(query_data(estimator, X), axes, "features")
    features = checked_array(X, axes, "tokens")
    if features.shape[-1] != estimator.n_features_in_:
        raise ValueError(
            f"tokens must have {estimator.n_features_in_} features, as in fit; found {features.shape[-1]}; "
            "use the same output of the same backbone"
        )
    return features
