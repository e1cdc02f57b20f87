"""Newton's method with conjugate gradients for a whole path of penalties at once.

Minimised is C * sum of s_i * loss_i + |W|^2 / 2 with a free intercept, for several C together: one matrix product
serves them all, and whichever of them has found the best weights for another's C passes them on. The duality gap at
(W, b) is half the squared gradient in W, once the gradient in b is zero (for the dual see Yu, Huang and Lin 2011,
Machine Learning 85): that is the certificate, and a problem is done when it is below ``tol`` times its objective.

Gradients and objectives are exact in the design's dtype. Hessian products use bfloat16 matrix units where that dtype
is float32; their rounding only bends the direction. The preconditioner is (mean of diag(p) - p p') x (second moments
of the rows) + 1, inverted in its eigenbasis.

Shapes: N rows, D features, J problems, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from featurebank.probes._design import Design
from featurebank.probes._softmax import Curvature, Points, curvature_at, evaluate

__all__ = ["Convergence", "Solution", "solve_path"]

COLUMNS = 512  # of one matrix product; more problems than fit into it go one group after another
PROBABILITIES = 2**29  # bytes of the probabilities of a group
ETA = 0.3
PRODUCTS = 60
ARMIJO = 1e-4
NOISE = 8  # units of rounding by which an objective may seem to rise

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Convergence:
    """How far a solution is from the minimum at most.

    Attributes:
        C: the inverse strength of the penalty.
        objective: C * sum of weighted losses + |W|^2 / 2.
        gap: duality gap: the objective is at most this much above its minimum, to first order in the gradient of b.
        gradient_norm: Euclidean norm of the objective's gradient.
        iterations: Newton steps.
        converged: whether gap <= tol * objective.
    """

    C: float
    objective: float
    gap: float
    gradient_norm: float
    iterations: int
    converged: bool


@dataclass(frozen=True, kw_only=True)
class Solution:
    """W (K, D) and b (K,) on the design's rows, and how good they are."""

    W: torch.Tensor
    b: torch.Tensor
    convergence: Convergence


def solve_path(
    design: Design,
    y: torch.Tensor,
    s: torch.Tensor,
    n_classes: int,
    Cs: Sequence[float],
    *,
    intercept: bool,
    tol: float,
    max_iter: int,
    start: Pair | None = None,
) -> Iterator[Solution]:
    """The solution at each C, in the order of ``Cs``, which should ascend.

    Args:
        design: the rows, centred if there is an intercept.
        y: (N,) int64.
        s: (N,) weights in the design's dtype.
        n_classes: K.
        Cs: inverse strengths of the penalty.
        intercept: whether b is free; else it stays 0.
        tol: duality gap relative to the objective.
        max_iter: Newton steps a C.
        start: (K, D) and (K,) to begin from.
    """
    path = _Path(design, y, s, intercept=intercept, tol=tol, max_iter=max_iter)
    W, b = start or path.zero(n_classes)
    held = PROBABILITIES // (design.n_rows * n_classes * design.dtype.itemsize) if design.in_memory else 1
    size = max(1, min(COLUMNS // n_classes, held))
    for first in range(0, len(Cs), size):
        for solution in path.solve(Cs[first : first + size], W, b):
            W, b = solution.W, solution.b
            yield solution


class _Path:
    def __init__(
        self, design: Design, y: torch.Tensor, s: torch.Tensor, *, intercept: bool, tol: float, max_iter: int
    ) -> None:
        self.design, self.y, self.s = design, y, s
        self.intercept, self.tol, self.max_iter = intercept, tol, max_iter
        self.covariance = _Covariance(design)
        self.noise = NOISE * torch.finfo(design.dtype).eps

    def zero(self, k: int) -> Pair:
        """No weights, and the classes' frequencies as the intercept."""
        W = torch.zeros((k, self.design.n_features), dtype=self.design.dtype, device=self.design.device)
        b = torch.zeros(k, dtype=torch.float64, device=self.design.device)
        if self.intercept:
            share = b.scatter_add(0, self.y, self.s.double()) / self.s.sum(dtype=torch.float64)
            b = share.clamp_min(torch.finfo(self.design.dtype).tiny).log()
            b -= b.mean()
        return W, b.to(self.design.dtype)

    def evaluate(self, W: torch.Tensor, b: torch.Tensor) -> Points:
        points = evaluate(self.design, self.y, self.s, W, b)
        if not self.intercept:
            points.g.zero_()
        return points

    def solve(self, Cs: Sequence[float], W: torch.Tensor, b: torch.Tensor) -> list[Solution]:
        """All problems of a group from one starting point."""
        C = torch.tensor(Cs, dtype=torch.float64, device=self.design.device)
        everything = torch.arange(len(Cs), device=self.design.device)
        here = self.evaluate(W[None], b[None])[torch.zeros_like(everything)]
        steps, stuck = torch.zeros_like(everything), torch.zeros_like(everything, dtype=torch.bool)
        value, gap = objective(C, here), duality_gap(C, here)
        for _ in range(self.max_iter):
            active = everything[(gap > self.tol * value) & ~stuck]
            if not len(active):
                break
            part, chosen = here[active], C[active]
            direction = self.direction(chosen, part)
            moved = self.line_search(chosen, part, direction)
            here.put(active, part)
            steps[active] += 1
            improved = self.exchange(C, here, active)
            value, gap = objective(C, here), duality_gap(C, here)
            stuck[active] = ~(moved | improved)
        GW, Gb = gradient(C, here)
        norm = (GW.square().sum((1, 2), dtype=torch.float64) + Gb.square().sum(1, dtype=torch.float64)).sqrt()
        return [
            Solution(
                W=here.W[j],
                b=here.b[j],
                convergence=Convergence(
                    C=Cs[j],
                    objective=float(value[j]),
                    gap=float(gap[j]),
                    gradient_norm=float(norm[j]),
                    iterations=int(steps[j]),
                    converged=bool(gap[j] <= self.tol * value[j]),
                ),
            )
            for j in range(len(Cs))
        ]

    def exchange(self, C: torch.Tensor, here: Points, active: torch.Tensor) -> torch.Tensor:
        """Gives each active problem the weights, of all problems', with the lowest objective at its C."""
        penalty = 0.5 * here.W.square().sum((1, 2), dtype=torch.float64)
        table = C[active, None] * here.loss + penalty
        best = table.argmin(1)
        better = table.gather(1, best[:, None])[:, 0] < table.gather(1, active[:, None])[:, 0] * (1 - self.noise)
        if better.any():
            here.put(active[better], here[best[better]])
        return better

    def direction(self, C: torch.Tensor, here: Points) -> Pair:
        """Newton's directions, to a residual of `ETA` in the preconditioner's norm."""
        at = curvature_at(self.design, self.y, self.s, here)
        inverse = _Inverse(self.covariance, at, C, intercept=self.intercept)
        GW, Gb = gradient(C, here)
        dW, db = torch.zeros_like(GW), torch.zeros_like(Gb)
        run = torch.arange(len(C), device=C.device)
        rW, rb = -GW, -Gb
        zW, zb = inverse(rW, rb)
        pW, pb = zW, zb
        rz = _dot((rW, rb), (zW, zb))
        enough = ETA**2 * rz
        for _ in range(PRODUCTS):
            HW, Hb = at.product(pW, pb)
            HW = _times(C[run], HW) + pW
            Hb = _times(C[run], Hb) if self.intercept else torch.zeros_like(Hb)
            a = rz / _dot((pW, pb), (HW, Hb))
            dW[run] += _times(a, pW)
            db[run] += _times(a, pb)
            rW, rb = rW - _times(a, HW), rb - _times(a, Hb)
            zW, zb = inverse(rW, rb)
            before, rz = rz, _dot((rW, rb), (zW, zb))
            pW, pb = zW + _times(rz / before, pW), zb + _times(rz / before, pb)
            on = rz > enough
            if not on.any():
                break
            if not on.all():
                run, enough, rz, at, inverse = run[on], enough[on], rz[on], at[on], inverse[on]
                rW, rb, pW, pb = rW[on], rb[on], pW[on], pb[on]
        return dW, db

    def line_search(self, C: torch.Tensor, here: Points, direction: Pair) -> torch.Tensor:
        """Moves each problem along its direction to where it is lower enough; (J,) whether there was such a place."""
        value, slope = objective(C, here), _dot(gradient(C, here), direction)
        t = torch.ones_like(C)
        moved = torch.zeros_like(C, dtype=torch.bool)
        todo = torch.nonzero(slope < 0)[:, 0]
        for _ in range(15):
            if not len(todo):
                break
            dW, db = direction[0][todo], direction[1][todo]
            there = self.evaluate(here.W[todo] + _times(t[todo], dW), here.b[todo] + _times(t[todo], db))
            change = objective(C[todo], there) - value[todo]
            lower = change <= ARMIJO * t[todo] * slope[todo]
            # Close to the minimum the values are equal to rounding; their slopes still tell (Hager and Zhang 2005).
            flat = change.abs() <= self.noise * value[todo].abs()
            flat &= _dot(gradient(C[todo], there), (dW, db)).abs() <= 0.9 * slope[todo].abs()
            good = lower | flat
            index = torch.nonzero(good)[:, 0]
            here.put(todo[index], there[index])
            moved[todo[index]] = True
            curve = change - slope[todo] * t[todo]
            shrink = torch.nan_to_num(-slope[todo] * t[todo] / (2 * curve), nan=0.1).clamp(0.1, 0.6)
            t[todo] *= shrink
            todo = todo[~good]
        return moved


class _Covariance:
    """Eigenvectors and eigenvalues of the rows' second moments, from a few thousand rows."""

    def __init__(self, design: Design) -> None:
        rows = design.rows_low
        part = rows[:: max(1, len(rows) // max(4096, 4 * design.n_features))].to(design.dtype)
        values, self.vectors = torch.linalg.eigh(part.T @ part / len(part))
        self.values = values.clamp_min(0)


class _Inverse:
    """The preconditioner of J problems."""

    def __init__(self, covariance: _Covariance, at: Curvature, C: torch.Tensor, *, intercept: bool) -> None:
        values, self._classes = torch.linalg.eigh(at.between_classes())
        strength = _times(C, values.clamp_min(0))
        self._vectors, self._intercept = covariance.vectors, intercept
        self._divide = strength[..., None] * covariance.values + 1
        self._divide_b = strength + _times(C, torch.full_like(strength, 1e-6 * float(at.s.sum())))

    def __getitem__(self, index: torch.Tensor) -> _Inverse:
        part = object.__new__(_Inverse)
        part._vectors, part._intercept = self._vectors, self._intercept
        part._classes = self._classes[index]
        part._divide, part._divide_b = self._divide[index], self._divide_b[index]
        return part

    def __call__(self, GW: torch.Tensor, Gb: torch.Tensor) -> Pair:
        """(J, K, D) and (J, K) to the same shapes."""
        turned = self._classes.transpose(1, 2) @ (GW @ self._vectors) / self._divide
        W = self._classes @ turned @ self._vectors.T
        if not self._intercept:
            return W, torch.zeros_like(Gb)
        turned = self._classes.transpose(1, 2) @ Gb[..., None] / self._divide_b[..., None]
        return W, (self._classes @ turned)[..., 0]


def objective(C: torch.Tensor, at: Points) -> torch.Tensor:
    """(J,) float64: C * loss + |W|^2 / 2."""
    return C * at.loss + 0.5 * at.W.square().sum((1, 2), dtype=torch.float64)


def gradient(C: torch.Tensor, at: Points) -> Pair:
    """Of the objectives, (J, K, D) and (J, K)."""
    return _times(C, at.G) + at.W, _times(C, at.g)


def duality_gap(C: torch.Tensor, at: Points) -> torch.Tensor:
    """(J,) float64: half the squared gradient in W, and what an intercept that is not yet optimal may add."""
    GW, Gb = gradient(C, at)
    return 0.5 * GW.square().sum((1, 2), dtype=torch.float64) + (Gb * at.b).sum(1, dtype=torch.float64).abs()


def _times(factor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(J,) times (J, ...), in the dtype of the values."""
    return factor.to(values.dtype).view(-1, *[1] * (values.ndim - 1)) * values


def _dot(a: Pair, b: Pair) -> torch.Tensor:
    first = (a[0] * b[0]).sum((1, 2), dtype=torch.float64)
    return first + (a[1] * b[1]).sum(1, dtype=torch.float64)
