"""Multinomial logistic loss of several problems on the same rows: values, gradients, and both along a direction.

Everything that is a small difference of large numbers is computed as the small number: the loss of a row that is right
is log1p of the other classes' odds, its residual is minus the others' probability. So float32 keeps its relative
precision where classes are nearly separated.

Shapes: N rows, D features, J problems, K classes, n rows of a block. Weights V are (J, K, D + 1), intercepts last.
Rows come last in logits and residuals, (J, K, n), so that a row's classes are added lane by lane.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from featurebank.probes._design import Design

PRODUCT_ROWS, PRODUCT_VALUES = 4096, 2**23
BLOCK_VALUES = {"cpu": 2**20, "cuda": 2**25}


Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Rows:
    """What problems are about, and how a row's logits become its loss.

    Attributes:
        design: (N, D).
        total: of the rows' weights.
        alike: whether all problems have one loss, and differ in penalties alone.
    """

    design: Design
    total: float
    alike: ClassVar[bool] = True

    def residuals(self, Z: torch.Tensor, where: slice, which: torch.Tensor) -> Pair:
        """Mean losses (J,) float64, and residuals, times ``total``, in the place of Z.

        Args:
            Z: (J, K, n) logits; overwritten.
            where: the rows.
            which: (J,) positions of the problems among all.
        """
        raise NotImplementedError

    def blocks(self, columns: int) -> Iterator[slice]:
        """Ranges of rows whose (columns, n) values stay in the cache."""
        n = self.design.n_rows
        size = max(256, BLOCK_VALUES.get(self.design.device.type, 2**25) // columns)
        return (slice(start, min(start + size, n)) for start in range(0, n, size))

    def gradient(
        self, V: torch.Tensor, which: torch.Tensor, Z: torch.Tensor | None = None, E: torch.Tensor | None = None
    ) -> Pair:
        """Mean loss (J,) and its gradient (J, K, D + 1) at V, in the design's precision.

        Args:
            V: (J, K, D + 1).
            which: (J,) positions of the problems among all.
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
            part, e = self.residuals(z, where, which)
            loss += part
            flat = e.view(j * k, -1)
            G[:, :d] += flat @ x
            G[:, d] += flat.sum(1, dtype=torch.float64)
            if E is not None:
                E[..., where] = e
        return loss, (G / self.total).to(V.dtype).view(j, k, d + 1)


@dataclass(frozen=True)
class Classes(Rows):
    """Rows of one class each.

    Attributes:
        y: (N,) classes 0..K-1.
        s: (N,) weights in the design's dtype; ``None`` where they are all one.
    """

    y: torch.Tensor
    s: torch.Tensor | None

    @classmethod
    def of(cls, design: Design, y: torch.Tensor, s: torch.Tensor) -> Classes:
        """Rows with weights s (N,)."""
        return cls(design, float(s.sum(dtype=torch.float64)), y, None if bool((s == 1).all()) else s)

    def thinned(self, step: int) -> Classes:
        """Every ``step``-th of them."""
        s = torch.ones_like(self.y[::step], dtype=self.design.dtype) if self.s is None else self.s[::step]
        return Classes.of(self.design.thinned(step), self.y[::step], s)

    def residuals(self, Z: torch.Tensor, where: slice, which: torch.Tensor) -> Pair:  # noqa: ARG002 - all are alike
        loss, E = residuals(Z, self.y[where], None if self.s is None else self.s[where])
        return loss / self.total, E


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


class Steps(Protocol):
    """Loss and gradient along a direction, for several problems together."""

    drifts: bool

    def afresh(self, V: torch.Tensor, index: torch.Tensor) -> Pair:
        """Losses and gradients of the problems at (J',) positions, in the design's precision."""

    def keep(self, chosen: torch.Tensor) -> None:
        """Drops the problems that are not chosen."""

    def along(self, V: torch.Tensor, D: torch.Tensor) -> None:
        """The directions of the coming trials."""

    def trial(self, t: torch.Tensor, index: torch.Tensor) -> Pair:
        """Losses and their slopes after steps of t, of the problems at (J',) positions."""

    def accept(self, t: torch.Tensor) -> torch.Tensor:
        """Moves every problem to its last trial, or not at all where t is 0; the change of the gradient."""


class KeptLogits(Steps):
    """Keeps logits and residuals of all rows; its products are of changes, in low precision."""

    drifts = True

    def __init__(self, rows: Rows, V: torch.Tensor) -> None:
        self.rows = rows
        shape = (*V.shape[:2], rows.design.n_rows)
        self.Z, self.E, self.E_next = (V.new_empty(shape) for _ in range(3))
        self.dZ, self.change = (torch.empty(shape, dtype=rows.design.low, device=V.device) for _ in range(2))
        self.g = torch.zeros(shape[:2], dtype=torch.float64, device=V.device)
        self.which = torch.arange(len(V), device=V.device)
        self.alike = rows.alike  # and all begin at one point

    def afresh(self, V: torch.Tensor, index: torch.Tensor) -> Pair:
        if self.alike:
            self.alike = False
            loss, G = self.rows.gradient(V[:1], self.which[:1], self.Z[:1], self.E[:1])
            self.Z[1:], self.E[1:] = self.Z[:1], self.E[:1]
            return loss.repeat(len(V)), G.repeat(len(V), 1, 1)
        if len(index) == len(V):
            return self.rows.gradient(V, self.which, self.Z, self.E)
        Z, E = (V.new_empty((len(index), *self.Z.shape[1:])) for _ in range(2))
        fresh = self.rows.gradient(V[index], self.which[index], Z, E)
        self.Z[index], self.E[index] = Z, E
        return fresh

    def keep(self, chosen: torch.Tensor) -> None:
        self.Z, self.E, self.g, self.which = (of[chosen] for of in (self.Z, self.E, self.g, self.which))
        left = len(self.Z)
        self.E_next, self.change, self.dZ = self.E_next[:left], self.change[:left], self.dZ[:left]

    def along(self, V: torch.Tensor, D: torch.Tensor) -> None:  # noqa: ARG002 - logits stand for V
        j, k, d = D.shape[0], D.shape[1], D.shape[2] - 1
        low = self.rows.design.rows_low
        torch.mm(D[..., :d].reshape(j * k, d).to(low.dtype), low.T, out=self.dZ.view(j * k, -1))
        self.db = D[..., d:]

    def trial(self, t: torch.Tensor, index: torch.Tensor) -> Pair:
        chosen = slice(None) if len(index) == len(self.Z) else index
        x, db, which = t.to(self.Z.dtype)[:, None, None], self.db[chosen], self.which[chosen]
        loss, slope = (torch.zeros(len(index), dtype=torch.float64, device=t.device) for _ in range(2))
        g = torch.zeros_like(self.g[chosen])
        for where in self.rows.blocks(self.Z.shape[0] * self.Z.shape[1]):
            d = self.dZ[..., where][chosen] + db
            part, E = self.rows.residuals(torch.addcmul(self.Z[..., where][chosen], d, x), where, which)
            loss += part
            slope += d.mul_(E).sum((1, 2), dtype=torch.float64)
            self.E_next[chosen, :, where] = E
            E -= self.E[..., where][chosen]
            g += E.sum(2, dtype=torch.float64)
            self.change[chosen, :, where] = E.to(self.change.dtype)
        self.g[chosen] = g
        return loss, slope / self.rows.total

    def accept(self, t: torch.Tensor) -> torch.Tensor:
        if (still := t == 0).any():
            self.E_next[still], self.change[still], self.g[still] = self.E[still], 0, 0
        for where in self.rows.blocks(self.Z.shape[0] * self.Z.shape[1]):
            self.Z[..., where] += t[:, None, None] * (self.dZ[..., where] + self.db)
        self.E, self.E_next = self.E_next, self.E
        j, k, n = self.change.shape
        G = (self.change.view(j * k, n) @ self.rows.design.rows_low).to(t.dtype).view(j, k, -1)
        return torch.cat([G, self.g[..., None].to(t.dtype)], 2) / self.rows.total


class Recomputed(Steps):
    """Reads all rows again for every trial."""

    drifts = False

    def __init__(self, rows: Rows, V: torch.Tensor) -> None:
        self.rows = rows
        self.G, self.G_next = torch.zeros_like(V), torch.zeros_like(V)
        self.which = torch.arange(len(V), device=V.device)

    def afresh(self, V: torch.Tensor, index: torch.Tensor) -> Pair:
        loss, self.G[index] = self.rows.gradient(V[index], self.which[index])
        return loss, self.G[index]

    def keep(self, chosen: torch.Tensor) -> None:
        self.G, self.G_next, self.which = self.G[chosen], self.G_next[chosen], self.which[chosen]

    def along(self, V: torch.Tensor, D: torch.Tensor) -> None:
        self.V, self.D = V, D

    def trial(self, t: torch.Tensor, index: torch.Tensor) -> Pair:
        D = self.D[index]
        loss, G = self.rows.gradient(self.V[index] + t.to(D.dtype)[:, None, None] * D, self.which[index])
        self.G_next[index] = G
        return loss, dot(G, D)

    def accept(self, t: torch.Tensor) -> torch.Tensor:
        self.G_next[t == 0] = self.G[t == 0]
        self.G, self.G_next = self.G_next.clone(), self.G
        return self.G - self.G_next


def kept_bytes(design: Design, columns: int) -> int:
    """Of the kept logits and residuals of J x K columns."""
    per_value = 3 * design.dtype.itemsize + 2 * design.low.itemsize
    return int(columns * design.n_rows * per_value)


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum((1, 2), dtype=torch.float64)
