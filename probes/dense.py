"""A linear classifier of every patch token: semantic segmentation from frozen features.

Shapes: N training images, M test images, (h, w) the grid of patches, D features, K classes, (H, W) the size of a mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator  # type: ignore[import-untyped]
from sklearn.utils.validation import check_is_fitted  # type: ignore[import-untyped]
from torch import Tensor, nn

from featurebank.probes._parameters import Bound, Count, NotNegative, Positive, check_parameters
from featurebank.probes._rows import row_slices
from featurebank.probes._training import (
    EPS,
    adamw,
    check_loss,
    checked_array,
    reader,
    seeded,
    to_torch,
    train,
)

__all__ = ["DenseLinearProbe"]


@dataclass(eq=False, repr=False)
class DenseLinearProbe(BaseEstimator):  # type: ignore[misc]
    """Logits (K, h, w) of each image, one linear layer on every token, enlarged bilinearly to the size of the mask.

    The linear segmentation head of DINOv2 (Oquab et al. 2023, arXiv:2304.07193): batch normalisation over images and
    patches (here without scale and shift, eps 1e-6), a linear layer, bilinear interpolation (corners not aligned) and
    the cross-entropy of every pixel whose class is not ``ignore_index``, averaged over the batch. AdamW, the learning
    rate falling to 0 in half a cosine.

    Args:
        n_classes: K; one more than the highest class of the training masks if None.
        ignore_index: The value of pixels that are left out.
        learning_rate: At the beginning.
        weight_decay: Of AdamW.
        epochs: Passes over the training images.
        batch_size: Images at most; the batches of an epoch are of as equal a size as possible.
        device: Of torch.
        random_state: Seed of the weights and the batches.

    Attributes:
        n_classes_: K.
        n_features_in_: D.
        grid_: (h, w).
        mask_size_: (H, W) of the training masks.
        loss_: Mean loss of the batches of each epoch.
        network_: The torch module, tokens (P, D) to logits (P, K).

    >>> tokens = np.zeros((4, 4, 2), np.float16)
    >>> tokens[:, :2, 0] = tokens[:, 2:, 1] = 1  # the upper half of each image, and the lower
    >>> masks = np.repeat([[0], [1]], 4, axis=0).repeat(8, axis=1)[None].repeat(4, axis=0)
    >>> probe = DenseLinearProbe(learning_rate=0.1).fit(tokens, masks, grid=(2, 2))
    >>> probe.predict(tokens).shape, probe.score(tokens, masks)
    ((4, 8, 8), 1.0)
    """

    n_classes: Annotated[int | None, Bound("at least 2", lambda value: value is None or value >= 2)] = None
    _: KW_ONLY
    ignore_index: int = 255
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 1e-4
    epochs: Count = 30
    batch_size: Count = 16
    device: str = "cpu"
    random_state: int = 0

    def fit(
        self, tokens: ArrayLike, masks: ArrayLike, *, grid: tuple[int, int], rows: NDArray[np.int64] | None = None
    ) -> Self:
        """Trains on the patch tokens (N, h * w, D), row by row from the upper left, and integer masks (N, H, W).

        Of some ``rows`` (n,) it reads only these, a batch at a time: what ``tokens[rows]`` and ``masks[rows]`` would
        give, without the copies.

        Raises:
            ValueError: NaN or infinity, tokens that are not h * w, masks of another number, type or class, no pixel
                that counts, fewer than two classes, parameters that are not allowed, or a loss that is not finite.
        """
        check_parameters(self)
        features = checked_array(tokens, "N, h * w, D", "tokens", rows)
        chosen = np.arange(len(features)) if rows is None else rows
        self.grid_ = _checked_grid(grid, features.shape[1])
        truth = self._checked_masks(masks, len(features))
        self.n_classes_ = self._count_classes(truth[row] for row in chosen)
        self.n_features_in_, self.mask_size_ = features.shape[2], (truth.shape[1], truth.shape[2])
        self.network_ = seeded(self._network, self.random_state, self.device)
        self._train(features, truth, chosen)
        return self

    def decision_function(self, tokens: ArrayLike) -> NDArray[np.float32]:
        """(M, K, h, w), before they are enlarged."""
        return np.concatenate([some.cpu().numpy() for _, some in self._logits(tokens, None)])

    def predict(self, tokens: ArrayLike, *, size: tuple[int, int] | None = None) -> NDArray[np.int64]:
        """The most probable class of each pixel (M, H, W), at the size of the training masks or another."""
        return np.concatenate([masks for _, masks in self.predict_batches(tokens, size=size)])

    def predict_batches(
        self, tokens: ArrayLike, *, size: tuple[int, int] | None = None, rows: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[slice, NDArray[np.int64]]]:
        """Which images, or which of some ``rows``, and their predicted masks (B, H, W), a batch at a time."""
        for part, logits in self._logits(tokens, rows):
            yield part, _enlarged(logits, size or self.mask_size_).argmax(1).cpu().numpy()

    def score(self, tokens: ArrayLike, masks: ArrayLike) -> float:
        """The share of pixels with the right class, among those that are not ignored, at the size of the masks."""
        features = checked_array(tokens, "M, h * w, D", "tokens")
        truth = self._checked_masks(masks, len(features))
        right = counted = 0
        for rows, predicted in self.predict_batches(features, size=(truth.shape[1], truth.shape[2])):
            counts = truth[rows] != self.ignore_index
            right, counted = right + int((predicted == truth[rows])[counts].sum()), counted + int(counts.sum())
        if not counted:
            raise ValueError(f"masks must have pixels other than ignore_index, {self.ignore_index}; found none")
        return right / counted

    def _network(self) -> nn.Module:
        norm = nn.BatchNorm1d(self.n_features_in_, affine=False, eps=EPS)
        return nn.Sequential(norm, nn.Linear(self.n_features_in_, self.n_classes_))

    def _train(self, features: NDArray[Any], truth: NDArray[np.integer], rows: NDArray[np.int64]) -> None:
        read = reader(features, self.device)

        def loss(batch: NDArray[np.int64]) -> Tensor:
            logits = _enlarged(self._forward(read(batch)), self.mask_size_)
            pixels = torch.from_numpy(truth[batch].astype(np.int64)).to(self.device)
            return _cross_entropy(logits, pixels, self.ignore_index)

        self.network_.train()
        self.loss_: list[float] = []
        for losses in train(self, adamw(self, loss), rows, seed=self.random_state):
            self.loss_.append(torch.stack(losses).mean().item())
            check_loss(self.loss_[-1], self.learning_rate)
        self.network_.eval()

    def _logits(self, tokens: ArrayLike, rows: NDArray[np.int64] | None) -> Iterator[tuple[slice, Tensor]]:
        check_is_fitted(self, "network_")
        features = checked_array(tokens, "M, h * w, D", "tokens", rows)
        expected = (self.grid_[0] * self.grid_[1], self.n_features_in_)
        if features.shape[1:] != expected:
            raise ValueError(
                f"tokens must be (M, {expected[0]}, {expected[1]}), as in fit; found shape {features.shape}; "
                "use the same output of the same backbone"
            )
        for part in row_slices(len(features) if rows is None else len(rows), 1, rows=self.batch_size):
            with torch.inference_mode():
                logits = self._forward(to_torch(features, part if rows is None else rows[part], self.device))
            yield part, logits

    def _forward(self, tokens: Tensor) -> Tensor:
        """(B, h * w, D) to (B, K, h, w)."""
        logits = self.network_(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        return logits.transpose(1, 2).unflatten(2, self.grid_)  # type: ignore[no-any-return]

    def _checked_masks(self, masks: ArrayLike, n_images: int) -> NDArray[np.integer]:
        truth = np.asarray(masks)
        if truth.ndim != 3 or len(truth) != n_images or 0 in truth.shape:
            raise ValueError(f"masks must be (N, H, W) for {n_images} images; found shape {truth.shape}")
        if truth.dtype.kind not in "iu":
            raise ValueError(f"masks must be integers; found {truth.dtype}")
        return truth

    def _count_classes(self, truth: Iterable[NDArray[np.integer]]) -> int:
        present: set[int] = set()
        for mask in truth:
            present |= set(np.unique(mask).tolist())
        present.discard(self.ignore_index)
        if not present:
            raise ValueError(f"masks must have pixels other than ignore_index, {self.ignore_index}; found none")
        n_classes = max(present) + 1 if self.n_classes is None else self.n_classes
        if min(present) < 0 or max(present) >= n_classes:
            raise ValueError(
                f"masks must hold classes 0 to {n_classes - 1} or ignore_index, {self.ignore_index}; "
                f"found classes from {min(present)} to {max(present)}; set n_classes or ignore_index"
            )
        if n_classes < 2:
            raise ValueError(f"a probe needs at least two classes; found one class, {max(present)}; set n_classes")
        return n_classes


def _checked_grid(grid: tuple[int, int], n_tokens: int) -> tuple[int, int]:
    h, w = grid
    if h < 1 or w < 1 or h * w != n_tokens:
        raise ValueError(
            f"grid must be (h, w) with h * w = {n_tokens}, the number of tokens; found {tuple(grid)}; "
            "leave out class and register tokens"
        )
    return int(h), int(w)


def _enlarged(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """``interpolate(mode="bilinear", align_corners=False)`` as two matrix products, which repeat exactly on a GPU."""
    rows, columns = (_bilinear(old, new, logits) for old, new in zip(logits.shape[2:], size, strict=True))
    return rows @ logits @ columns.T


def _bilinear(old: int, new: int, like: Tensor) -> Tensor:
    """The weights (new, old) of linear interpolation along one axis."""
    eye = torch.eye(old, dtype=like.dtype, device=like.device)[None]
    return torch.nn.functional.interpolate(eye, new, mode="linear", align_corners=False)[0].T


def _cross_entropy(logits: Tensor, pixels: Tensor, ignore_index: int) -> Tensor:
    """The mean over the pixels that count, 0 where none does; logits (B, K, H, W), pixels (B, H, W)."""
    flat = logits.movedim(1, -1).flatten(0, 2)
    total = torch.nn.functional.cross_entropy(flat, pixels.flatten(), ignore_index=ignore_index, reduction="sum")
    return total / (pixels != ignore_index).sum().clamp(min=1)
