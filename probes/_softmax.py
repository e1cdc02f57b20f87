"""Multinomial logistic loss of several problems on the same rows: values, residuals, exact gradients.

Everything that is a small difference of large numbers is computed as the small number: the loss of a row that is right
is log1p of the other classes' odds, its residual is minus the others' probability. So float32 keeps its relative
precision where classes are nearly separated.

Shapes: N rows, D features, J problems, K classes, n rows of a block. Weights V are (J, K, D + 1), intercepts last.
Rows come last in logits and residuals, (J, K, n), so that a row's classes are added lane by lane.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from featurebank.probes._design import Design

PRODUCT_ROWS, PRODUCT_VALUES = 4096, 2**23
BLOCK_VALUES = {"cpu": 2**20, "cuda": 2**25}


@dataclass(frozen=True)
class Rows:
    """What every problem of a path is about.

    Attributes:
        design: (N, D).
        y: (N,) classes 0..K-1.
        s: (N,) weights in the design's dtype; ``None`` where they are all one.
        total: their sum.
    """

    design: Design
    y: torch.Tensor
    s: torch.Tensor | None
    total: float

    @classmethod
    def of(cls, design: Design, y: torch.Tensor, s: torch.Tensor) -> Rows:
        """Rows with weights s (N,)."""
        return cls(design, y, None if bool((s == 1).all()) else s, float(s.sum(dtype=torch.float64)))

    def thinned(self, step: int) -> Rows:
        """Every ``step``-th of them."""
        s = torch.ones_like(self.y[::step], dtype=self.design.dtype) if self.s is None else self.s[::step]
        return Rows.of(self.design.thinned(step), self.y[::step], s)

    def blocks(self, columns: int) -> Iterator[slice]:
        """Ranges of rows whose (columns, n) values stay in the cache."""
        n = self.design.n_rows
        size = max(256, BLOCK_VALUES.get(self.design.device.type, 2**25) // columns)
        return (slice(start, min(start + size, n)) for start in range(0, n, size))

    def residuals(self, Z: torch.Tensor, where: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """As `residuals`, of the mean loss."""
        loss, E = residuals(Z, self.y[where], None if self.s is None else self.s[where])
        return loss / self.total, E

    def gradient(self, V: torch.Tensor, Z: torch.Tensor | None = None, E: torch.Tensor | None = None) -> Pair:
        """Mean loss (J,) and its gradient (J, K, D + 1) at V, in the design's precision.

        Args:
            V: (J, K, D + 1).
            Z: (J, K, N), overwritten with the logits.
            E: (J, K, N), overwritten with the residuals.
        """
        j, k, d = V.shape[0], V.shape[1], V.shape[2] - 1
        weights, offsets = V[..., :d].reshape(j * k, d), V[..., d].reshape(j * k, 1)
        loss = torch.zeros(j, dtype=torch.float64, device=V.device)
        G = torch.zeros((j * k, d + 1), dtype=torch.float64, device=V.device)
        for where, x in self.design.blocks(min(PRODUCT_ROWS, max(256, PRODUCT_VALUES // (j * k)))):
            z = torch.addmm(offsets, weights, x.T).view(j, k, -1)
            if Z is not None:
                Z[..., where] = z
            part, e = self.residuals(z, where)
            loss += part
            flat = e.view(j * k, -1)
            G[:, :d] += flat @ x
            G[:, d] += flat.sum(1, dtype=torch.float64)
            if E is not None:
                E[..., where] = e
        return loss, (G / self.total).to(V.dtype).view(j, k, d + 1)


Pair = tuple[torch.Tensor, torch.Tensor]


def residuals(Z: torch.Tensor, y: torch.Tensor, s: torch.Tensor | None) -> Pair:
    """Losses (J,) float64, summed over rows, and residuals p - onehot(y) in the place of Z; both times the weights.

    Args:
        Z: (J, K, n) logits; overwritten.
        y: (n,).
        s: (n,) or ``None``.
    """
    own = y.expand(len(Z), 1, -1)
    top, zy = Z.amax(1, keepdim=True), Z.gather(1, own)
    E = Z.sub_(top).exp_()
    ey = E.gather(1, own)
    E.scatter_(1, own, 0.0)
    others = E.sum(1, keepdim=True)
    total = others + ey
    losses = torch.where(zy == top, torch.log1p(others), torch.log(total) + (top - zy))
    factor = total.reciprocal_() if s is None else s / total
    if s is not None:
        losses *= s
    E *= factor
    E.scatter_(1, own, -others * factor)
    return losses.sum((1, 2), dtype=torch.float64), E
