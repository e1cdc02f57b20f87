"""How losses and gradients along directions are had, for several problems together.

Shapes: N rows, D features, J problems, K classes. V is (J, K, D + 1), intercepts last.
"""

from __future__ import annotations

import torch

from featurebank.probes._design import Design
from featurebank.probes._softmax import Rows


class Steps:
    """How losses and gradients along a direction are had."""

    drifts: bool

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def afresh(self, V: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses and gradients of the problems at (J',) positions, in the design's precision."""
        raise NotImplementedError

    def keep(self, chosen: torch.Tensor) -> None:
        """Drops the problems that are not chosen."""

    def along(self, V: torch.Tensor, D: torch.Tensor) -> None:
        """The directions of the coming trials."""
        raise NotImplementedError

    def trial(self, t: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses and their slopes after steps of t, of the problems at (J',) positions."""
        raise NotImplementedError

    def accept(self, t: torch.Tensor) -> torch.Tensor:
        """Moves every problem to its last trial, or not at all where t is 0; the change of the gradient."""
        raise NotImplementedError


class KeptLogits(Steps):
    """Keeps logits and residuals of all rows; its products are of changes, in low precision."""

    drifts = True

    def __init__(self, rows: Rows, V: torch.Tensor) -> None:
        super().__init__(rows)
        shape = (*V.shape[:2], rows.design.n_rows)
        self.Z, self.E, self.E_next = (V.new_empty(shape) for _ in range(3))
        self.dZ, self.change = (torch.empty(shape, dtype=rows.design.low, device=V.device) for _ in range(2))
        self.g = torch.zeros(shape[:2], dtype=torch.float64, device=V.device)
        self.alike = True

    def afresh(self, V: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.alike:
            self.alike = False
            loss, G = self.rows.gradient(V[:1], self.Z[:1], self.E[:1])
            self.Z[1:], self.E[1:] = self.Z[:1], self.E[:1]
            return loss.repeat(len(V)), G.repeat(len(V), 1, 1)
        if len(index) == len(V):
            return self.rows.gradient(V, self.Z, self.E)
        Z, E = (V.new_empty((len(index), *self.Z.shape[1:])) for _ in range(2))
        found = self.rows.gradient(V[index], Z, E)
        self.Z[index], self.E[index] = Z, E
        return found

    def keep(self, chosen: torch.Tensor) -> None:
        self.Z, self.E, self.g = self.Z[chosen], self.E[chosen], self.g[chosen]
        left = len(self.Z)
        self.E_next, self.change, self.dZ = self.E_next[:left], self.change[:left], self.dZ[:left]

    def along(self, V: torch.Tensor, D: torch.Tensor) -> None:  # noqa: ARG002 - logits stand for V
        j, k, d = D.shape[0], D.shape[1], D.shape[2] - 1
        low = self.rows.design.rows_low
        torch.mm(D[..., :d].reshape(j * k, d).to(low.dtype), low.T, out=self.dZ.view(j * k, -1))
        self.db = D[..., d:]

    def trial(self, t: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = slice(None) if len(index) == len(self.Z) else index
        x, db = t.to(self.Z.dtype)[:, None, None], self.db[chosen]
        loss, slope = (torch.zeros(len(index), dtype=torch.float64, device=t.device) for _ in range(2))
        g = torch.zeros_like(self.g[chosen])
        for where in self.rows.blocks(self.Z.shape[0] * self.Z.shape[1]):
            d = self.dZ[..., where][chosen] + db
            part, E = self.rows.residuals(torch.addcmul(self.Z[..., where][chosen], d, x), where)
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
        super().__init__(rows)
        self.G, self.G_next = torch.zeros_like(V), torch.zeros_like(V)

    def afresh(self, V: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss, self.G[index] = self.rows.gradient(V[index])
        return loss, self.G[index]

    def keep(self, chosen: torch.Tensor) -> None:
        self.G, self.G_next = self.G[chosen], self.G_next[chosen]

    def along(self, V: torch.Tensor, D: torch.Tensor) -> None:
        self.V, self.D = V, D

    def trial(self, t: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        D = self.D[index]
        loss, G = self.rows.gradient(self.V[index] + t.to(D.dtype)[:, None, None] * D)
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
