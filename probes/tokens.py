"""Probes with a small network: an MLP on pooled features, attentive pooling on tokens; stopped early.

Shapes: N training rows, M test rows, T tokens, D features, K classes.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax  # type: ignore[import-untyped]
from sklearn.base import BaseEstimator, ClassifierMixin  # type: ignore[import-untyped]
from sklearn.utils.validation import check_is_fitted  # type: ignore[import-untyped]
from torch import Tensor, nn

from featurebank.probes._labels import class_codes
from featurebank.probes._parameters import Count, NotNegative, Pair, Positive, check_parameters
from featurebank.probes._prediction import SoftmaxClassifier
from featurebank.probes._rows import query_data, training_data
from featurebank.probes._training import (
    EPS,
    Held,
    adamw,
    check_loss,
    checked_array,
    in_blocks,
    reader,
    seeded,
    split_rows,
    to_torch,
    train,
)

__all__ = ["AttentivePoolProbe", "MLPProbe"]


@dataclass(eq=False, repr=False, kw_only=True)
class _NetworkProbe(SoftmaxClassifier, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """AdamW with a cosine schedule; the network of the epoch with the lowest validation loss is kept."""

    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.01
    epochs: Count = 100
    patience: Count = 10
    batch_size: Pair = 256
    validation_fraction: float = 0.2
    device: str = "cpu"
    random_state: int = 0

    @abstractmethod
    def _network(self, width: int, n_classes: int) -> nn.Module:
        """The network, with weights from torch's default generator."""

    def _labelled(self, X: ArrayLike, y: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """Finite features and one label a row; sets ``n_features_in_``."""
        features, labels = training_data(self, X, y)
        return checked_array(features, "N, D", "features"), labels

    def _unlabelled(self, X: ArrayLike) -> NDArray[Any]:
        """Finite features, of the width that the probe was fitted on."""
        return checked_array(query_data(self, X), "N, D", "features")

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
        check_parameters(self)
        features, labels = self._labelled(X, y)
        self.classes_, codes = class_codes(labels)
        width, n_classes = features.shape[-1], len(self.classes_)
        given = None if validation is None else (self._unlabelled(validation[0]), validation[1])
        rows, held = split_rows(self, features, codes, given)
        self.network_ = seeded(lambda: self._network(width, n_classes), self.random_state, self.device)
        targets, read = torch.from_numpy(codes), reader(features, self.device)

        def loss(batch: NDArray[np.int64]) -> Tensor:
            scores = self.network_.train()(read(batch))
            return nn.functional.cross_entropy(scores, targets[batch].to(self.device))

        best, state = np.inf, {}
        self.validation_loss_: list[float] = []
        self.validation_accuracy_: list[float] = []
        for epoch, _ in enumerate(train(self, adamw(self, loss), rows, seed=(self.random_state, 0))):
            self._validate(held)
            if self.validation_loss_[-1] < best:
                best, self.best_epoch_ = self.validation_loss_[-1], epoch
                state = copy.deepcopy(self.network_.state_dict())
            elif epoch - self.best_epoch_ >= self.patience:
                break
        self.network_.load_state_dict(state)
        self.network_.eval()
        return self

    def logits(self, X: ArrayLike) -> NDArray[np.float32]:
        """(M, K), computed in blocks of rows."""
        features = self._unlabelled(X)
        return in_blocks(features, len(self.classes_), lambda rows: self._scores(features, rows))

    def _validate(self, held: Held) -> None:
        """Adds the loss and the accuracy of one epoch."""
        loss = correct = 0.0
        for rows, truth in held.blocks(len(self.classes_)):
            scores = self._scores(held.features, rows)
            loss -= log_softmax(scores.astype(np.float64), axis=1)[np.arange(len(truth)), truth].sum()
            correct += (scores.argmax(1) == truth).sum()
        check_loss(loss, self.learning_rate)
        self.validation_loss_.append(float(loss / len(held.rows)))
        self.validation_accuracy_.append(float(correct / len(held.rows)))

    def _scores(self, features: NDArray[Any], rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        self.network_.eval()
        with torch.inference_mode():
            return self.network_(to_torch(features, rows, self.device)).cpu().numpy()  # type: ignore[no-any-return]


@dataclass(eq=False, repr=False)
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

    hidden: Count = 512

    def _network(self, width: int, n_classes: int) -> nn.Module:
        norm = nn.BatchNorm1d(width, affine=False, eps=EPS)
        return nn.Sequential(norm, nn.Linear(width, self.hidden), nn.GELU(), nn.Linear(self.hidden, n_classes))


@dataclass(eq=False, repr=False)
class AttentivePoolProbe(_NetworkProbe):
    """A learned query attends to the tokens (N, T, D), and a linear layer reads what it gathers.

    The attentive probe of AIM (El-Nouby et al. 2024, arXiv:2401.08541; one query, no biases, no query projection):
    batch normalisation of each feature over images and tokens without scale and shift, multi-head cross-attention with
    softmax(q . k / sqrt(D / heads)), and a linear classifier. Trained like `MLPProbe`.

    Args:
        n_heads: Of the attention; D must be a multiple.
        batch_size: As `MLPProbe`'s, by default half as large.

    All other arguments and the attributes are those of `MLPProbe`.
    """

    n_heads: Count = 8
    batch_size: Pair = field(default=128, kw_only=True)

    def attention(self, X: ArrayLike) -> NDArray[np.float32]:
        """What each head looks at in each row (M, n_heads, T), adding up to 1 over the tokens."""
        tokens, network = self._unlabelled(X), cast("AttentivePool", self.network_)

        def weights(rows: slice) -> NDArray[np.float32]:
            x = to_torch(tokens, rows, self.device)
            x = network.norm(x.flatten(0, 1)).view_as(x)
            return network.attention(x).transpose(1, 2).cpu().numpy()

        with torch.inference_mode():
            return in_blocks(tokens, 1, weights)

    def _network(self, width: int, n_classes: int) -> nn.Module:
        if width % self.n_heads:
            raise ValueError(f"n_heads must divide D, {width}; found {self.n_heads}")
        return AttentivePool(width, n_classes, self.n_heads, EPS)

    def _labelled(self, X: ArrayLike, y: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        tokens, labels = checked_array(X, "N, T, D", "tokens"), np.asarray(y)
        if labels.shape != (len(tokens),):
            raise ValueError(f"labels must be one class per row, ({len(tokens)},); found shape {labels.shape}")
        self.n_features_in_ = tokens.shape[-1]
        return tokens, labels

    def _unlabelled(self, X: ArrayLike) -> NDArray[Any]:
        check_is_fitted(self, "n_features_in_")
        tokens = checked_array(X, "N, T, D", "tokens")
        if tokens.shape[-1] != self.n_features_in_:
            raise ValueError(
                f"tokens must have {self.n_features_in_} features, as in fit; found {tokens.shape[-1]}; "
                "use the same output of the same backbone"
            )
        return tokens


class AttentivePool(nn.Module):
    """Tokens (B, T, D) to logits (B, K): one learned query attends to all tokens, then a linear layer.

    Keys are W_k x and values W_v x. As the query is the same for every image, q . W_k x is computed as (W_k^T q) . x
    and the attention is taken over the tokens before W_v, which leaves one product of D x heads a token, not of D x D.
    """

    def __init__(self, width: int, n_classes: int, n_heads: int, eps: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.BatchNorm1d(width, affine=False, eps=eps)
        self.query = nn.Parameter(torch.randn(n_heads, width // n_heads) * 0.02)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.head = nn.Linear(width, n_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, D) to (B, K)."""
        x = self.norm(tokens.flatten(0, 1)).view_as(tokens)
        pooled = self.attention(x).transpose(1, 2) @ x
        values = torch.einsum("bhc,hdc->bhd", pooled, self._per_head(self.value))
        return self.head(values.flatten(1))  # type: ignore[no-any-return]

    def attention(self, x: Tensor) -> Tensor:
        """What each head looks at (B, T, H), adding up to 1 over the tokens, given normalised tokens."""
        query = torch.einsum("hd,hdc->ch", self.query, self._per_head(self.key))
        return torch.softmax(x @ query * self.query.shape[1] ** -0.5, dim=1)

    def _per_head(self, layer: nn.Linear) -> Tensor:
        return layer.weight.view(self.n_heads, -1, layer.in_features)
