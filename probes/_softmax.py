"""Multinomial logistic loss of several problems on the same rows: value, gradient, curvature.

Everything that is a small difference of large numbers is computed as the small number: the loss of a row that is right
is log1p of the other classes' odds, its residual is minus the others' probability, and curvature is taken relative to
the row's own class. So float32 keeps its relative precision where classes are nearly separated.

Shapes: N rows, D features, J problems, K classes, n rows of a block. W is (J, K, D), b is (J, K).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from featurebank.probes._design import Design

__all__ = ["Curvature", "Points", "curvature_at", "evaluate"]

BLOCK_VALUES = 2**21


@dataclass
class Points:
    """Weights of J problems and what the data say about them, without penalty and without C.

    Attributes:
        W: (J, K, D).
        b: (J, K).
        loss: (J,) float64, sum over rows of weight times negative log likelihood.
        G: (J, K, D), its gradient.
        g: (J, K).
        P: (N, J, K) probabilities, where the design is in memory.
    """

    W: torch.Tensor
    b: torch.Tensor
    loss: torch.Tensor
    G: torch.Tensor
    g: torch.Tensor
    P: torch.Tensor | None

    def __getitem__(self, index: torch.Tensor) -> Points:
        """The problems at (J',) positions, copied."""
        P = None if self.P is None else self.P[:, index]
        return Points(self.W[index], self.b[index], self.loss[index], self.G[index], self.g[index], P)

    def put(self, index: torch.Tensor, other: Points) -> None:
        """Overwrites the problems at (J',) positions."""
        for mine, theirs in zip(self._tensors(), other._tensors(), strict=True):
            mine[index] = theirs
        if self.P is not None and other.P is not None:
            self.P[:, index] = other.P

    def _tensors(self) -> tuple[torch.Tensor, ...]:
        return self.W, self.b, self.loss, self.G, self.g


@dataclass
class Curvature:
    """The losses' Hessians at J points.

    Attributes:
        X: (n, D) in low precision.
        P: (n, J, K).
        y: (n,).
        s: (n, 1, 1) weights.
    """

    X: torch.Tensor
    P: torch.Tensor
    y: torch.Tensor
    s: torch.Tensor

    def __getitem__(self, index: torch.Tensor) -> Curvature:
        """The problems at (J',) positions."""
        return Curvature(self.X, self.P[:, index], self.y, self.s)

    def between_classes(self) -> torch.Tensor:
        """(J, K, K) sum over rows of s (diag(p) - p p')."""
        P = self.P.permute(1, 2, 0)
        weighted = P * self.s[:, 0, 0]
        return torch.diag_embed(weighted.sum(2)) - weighted @ P.transpose(1, 2)

    def product(self, VW: torch.Tensor, Vb: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each Hessian times its own (VW, Vb)."""
        j, k, d = VW.shape
        low = VW.reshape(j * k, d).to(self.X.dtype).T
        HW, Hb = VW.new_zeros((j * k, d)), torch.zeros_like(Vb)
        step = _block_rows(j * k)
        for start in range(0, len(self.X), step):
            part = slice(start, start + step)
            x, p = self.X[part], self.P[part]
            u = (x @ low).to(VW.dtype).view(-1, j, k) + Vb
            u -= u.gather(2, self.y[part, None, None].expand(-1, j, 1))
            u -= (p * u).sum(2, keepdim=True)
            u *= p
            u *= self.s[part]
            Hb += u.sum(0)
            HW += (u.view(-1, j * k).to(x.dtype).T @ x).to(VW.dtype)
        return HW.view(j, k, d), Hb


def evaluate(design: Design, y: torch.Tensor, s: torch.Tensor, W: torch.Tensor, b: torch.Tensor) -> Points:
    """Losses and gradients at (W, b).

    Args:
        design: the rows.
        y: (N,) classes 0..K-1.
        s: (N,) weights, in the design's dtype.
        W: (J, K, D).
        b: (J, K).
    """
    j, k, d = W.shape
    loss = torch.zeros(j, dtype=torch.float64, device=W.device)
    G = torch.zeros((j * k, d), dtype=torch.float64, device=W.device)
    g = torch.zeros((j, k), dtype=torch.float64, device=W.device)
    P = W.new_empty((design.n_rows, j, k)) if design.in_memory else None
    weights, offsets = W.reshape(j * k, d).T, b.reshape(j * k)
    for where, x in design.blocks(_block_rows(j * k)):
        z = torch.addmm(offsets, x, weights).view(-1, j, k)
        own, weight = y[where, None, None].expand(-1, j, 1), s[where, None, None]
        top, zy = z.amax(2, keepdim=True), z.gather(2, own)
        e = z.sub_(top).exp_()
        ey = e.gather(2, own)
        e.scatter_(2, own, 0.0)
        others = e.sum(2, keepdim=True)
        total = others + ey
        losses = torch.where(zy == top, torch.log1p(others), torch.log(total) + (top - zy))
        loss += (losses * weight).sum((0, 2), dtype=torch.float64)
        e /= total
        if P is not None:
            P[where] = e
            P[where].scatter_(2, own, ey / total)
        e.scatter_(2, own, -others / total)
        e *= weight
        g += e.sum(0, dtype=torch.float64)
        G += e.view(-1, j * k).T @ x
    return Points(W, b, loss, G.to(W.dtype).view(j, k, d), g.to(W.dtype), P)


def curvature_at(design: Design, y: torch.Tensor, s: torch.Tensor, at: Points) -> Curvature:
    """The Hessians at some points; when streaming, a fixed sample stands for all rows."""
    if at.P is not None:
        return Curvature(design.rows_low, at.P, y, s[:, None, None])
    assert design.sample is not None  # noqa: S101 - a design without probabilities is streamed
    j, k, d = at.W.shape
    y, s = y[design.sample], s[design.sample] * (design.n_rows / len(design.sample))
    P = at.W.new_empty((len(y), j, k))
    step, low = _block_rows(j * k), at.W.reshape(j * k, d).to(design.low).T
    for start in range(0, len(y), step):
        part = slice(start, start + step)
        P[part] = torch.softmax((design.rows_low[part] @ low).to(P.dtype).view(-1, j, k) + at.b, 2)
    return Curvature(design.rows_low, P, y, s[:, None, None])


def _block_rows(columns: int) -> int:
    return max(256, min(8192, BLOCK_VALUES // columns))
