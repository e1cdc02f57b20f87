"""The whole path of penalties at once: L-BFGS on all problems together, two matrix products a step for all of them.

Minimised is f = sum of s_i * loss_i / sum of s_i + |W|^2 / (2 C sum of s_i) with a free intercept, for several C. A
problem is done when no component of its gradient is larger than ``tol``, as scikit-learn's; the duality gap, half the
squared gradient in W in the units of C * loss + |W|^2 / 2, comes with it (for the dual see Yu, Huang and Lin 2011,
Machine Learning 85).

What makes it fast:

- Logits and residuals of all problems are kept. A step costs one product for the change of the logits and one for the
  change of the gradient, however many points the line search (Wolfe's conditions, on the logits) looks at.
- Both products are of changes, so bfloat16 matrix units do where the design is float32: their error is relative to the
  step. Now and then, and before a problem counts as done, everything is computed afresh in the design's precision.
- The initial inverse Hessian is ((mean of diag(p) - p p') x (second moments of the rows) + shift)^-1 in its eigenbasis.
  The shift keeps directions that the rows hardly use from being taken for flat: with none, weak penalties take longer
  than without a preconditioner.

Shapes: N rows, D features, J problems, K classes, m remembered steps. V is (J, K, D + 1), intercepts last.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from featurebank.probes._design import Design
from featurebank.probes._preconditioner import Inverse, Preconditioner
from featurebank.probes._softmax import Classes, KeptLogits, Recomputed, Rows, Steps, dot, kept_bytes
from featurebank.retrieval._room import room

KEPT = 2**30  # bytes of logits and residuals that are kept on a CPU; where those of one problem take more, none are
COLUMNS = 512  # of one product where none are kept
THINNED = (64, 8)  # every so many rows are solved first where none are kept
FEWEST = 8192  # rows worth that
REMEMBERED = 20
HISTORY = 2**28  # bytes of remembered steps
FLAT = 0.01  # of an objective, its expected decrease in the last step of a problem that is done
ARMIJO, WOLFE = 1e-4, 0.9
NOISE = 8  # units of rounding by which an objective may seem to rise
TRIALS = 12
AFRESH_STEPS, AFRESH_DECREASE = 15, 0.03


@dataclass(frozen=True, kw_only=True)
class Convergence:
    """How far a solution is from the minimum at most.

    Attributes:
        C: the inverse strength of the penalty.
        objective: C * sum of weighted losses + |W|^2 / 2.
        gap: duality gap: the objective is at most this much above its minimum, to first order in the gradient of b.
            Rigorous, and pessimistic where the penalty is weak.
        gradient: largest component of the gradient of objective / (C * sum of weights), scikit-learn's measure.
        iterations: steps.
        converged: whether gradient <= tol.
    """

    C: float
    objective: float
    gap: float
    gradient: float
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
) -> Iterator[Solution]:
    """The solution at each C, in the order of ``Cs``, which should ascend.

    Args:
        design: the rows, centred if there is an intercept.
        y: (N,) int64.
        s: (N,) weights in the design's dtype.
        n_classes: K.
        Cs: inverse strengths of the penalty.
        intercept: whether b is free; else it stays 0.
        tol: largest component of the gradient of f.
        max_iter: steps a C.
    """
    rows = Classes.of(design, y, s)
    share = torch.zeros(n_classes, dtype=torch.float64, device=design.device)
    share = share.scatter_add(0, y, s.double()) / rows.total
    V = torch.zeros((n_classes, design.n_features + 1), dtype=design.dtype, device=design.device)
    if intercept:
        b = share.clamp_min(torch.finfo(design.dtype).tiny).log()
        V[:, -1] = (b - b.mean()).to(V.dtype)
    path = Path(rows, intercept=intercept, tol=tol, max_iter=max_iter)
    kept = design.in_memory and kept_bytes(design, n_classes) <= path.kept
    together = max(1, path.kept // kept_bytes(design, n_classes) if kept else COLUMNS // n_classes)
    parts = list(_evenly(list(Cs), -(-len(Cs) // together)))
    if not kept:
        V = _foreseen(path, rows, parts[0][0], V)
    for part in parts:
        for solution in path.solve(part, V):
            V = torch.cat([solution.W, solution.b[:, None]], 1)
            yield solution


def _foreseen(path: Path, rows: Classes, C: float, V: torch.Tensor) -> torch.Tensor:
    """The solution (K, D + 1) for some of the rows, then for more of them: a start that costs a fraction of a pass.

    They are solved no further than the gradient of so few rows is worth.
    """
    design = rows.design
    lam = torch.tensor([1 / (C * rows.total)], dtype=V.dtype, device=V.device)
    for step in THINNED:
        if design.n_rows // step >= FEWEST and design.n_bytes // step <= design.memory:
            some = rows.thinned(step)
            tol = max(path.tol, (len(V) * some.design.n_rows) ** -0.5)
            part = Path(some, path.preconditioner, intercept=path.intercept, tol=tol, max_iter=path.max_iter)
            V = part.minimise(V[None], lam)[1].V[0]
    return V


def _evenly(values: list[float], groups: int) -> Iterator[list[float]]:
    bounds = [round(i * len(values) / groups) for i in range(groups + 1)]
    return (values[a:b] for a, b in itertools.pairwise(bounds))


class Path:
    """Problems on the same rows, minimised together.

    Args:
        rows: what they are about.
        preconditioner: of the rows; made where there is none.
        intercept: whether b is free; else it stays 0.
        tol: largest component of the gradient of f.
        max_iter: steps.
    """

    def __init__(
        self,
        rows: Rows,
        preconditioner: Preconditioner | None = None,
        *,
        intercept: bool,
        tol: float,
        max_iter: int,
    ) -> None:
        self.rows, self.intercept, self.tol, self.max_iter = rows, intercept, tol, max_iter
        self.kept = room(rows.design.device, on_cpu=KEPT)
        self.preconditioner = preconditioner or Preconditioner(rows.design)

    def solve(self, Cs: Sequence[float], start: torch.Tensor) -> list[Solution]:
        """All problems of a group from one starting point (K, D + 1)."""
        C = torch.tensor(Cs, dtype=torch.float64, device=start.device)
        V = start.repeat(len(Cs), 1, 1)
        values, best = self.minimise(V, (1 / (C * self.rows.total)).to(V.dtype))
        scale = C * self.rows.total
        gap = 0.5 * (scale * scale) * best.gradient[..., :-1].square().sum((1, 2), dtype=torch.float64)
        gap += scale * (best.gradient[..., -1] * best.V[..., -1]).sum(1, dtype=torch.float64).abs()
        largest = best.gradient.abs().amax((1, 2))
        return [
            Solution(
                W=best.V[j, :, :-1],
                b=best.V[j, :, -1],
                convergence=Convergence(
                    C=Cs[j],
                    objective=float(scale[j] * values[j]),
                    gap=float(gap[j]),
                    gradient=float(largest[j]),
                    iterations=int(best.steps[j]),
                    converged=bool(largest[j] <= self.tol),
                ),
            )
            for j in range(len(Cs))
        ]

    def minimise(self, V: torch.Tensor, lam: torch.Tensor) -> tuple[torch.Tensor, Minima]:
        """Values (J,) and where they are lowest, from V (J, K, D + 1) at penalties lam (J,)."""
        best = Minima(V.clone(), torch.zeros_like(V), torch.zeros(len(V), dtype=torch.int64, device=V.device))
        values = torch.zeros(len(V), dtype=torch.float64, device=V.device)
        kept = self.rows.design.in_memory and kept_bytes(self.rows.design, V.shape[0] * V.shape[1]) <= self.kept
        steps: Steps = KeptLogits(self.rows, V) if kept else Recomputed(self.rows, V)
        at = _Active(V, lam)
        for step in range(self.max_iter + 1):
            full = at.G + at.penalty * at.V
            largest = full.abs().amax((1, 2))
            flat = (largest <= self.tol) & (at.decrease <= FLAT * at.value())
            doubtful = flat | (at.decrease < AFRESH_DECREASE * at.decrease_afresh) | at.failed
            if at.since >= AFRESH_STEPS or step == self.max_iter:
                doubtful[:] = True
            stale = torch.nonzero(doubtful & ~at.exact)[:, 0]
            if len(stale):
                self._afresh(steps, at, stale)
                full = at.G + at.penalty * at.V
                largest = full.abs().amax((1, 2))
                flat &= largest <= self.tol
            done = at.exact & (flat | at.stuck)
            if step == self.max_iter:
                done[:] = True
            if done.any():
                index = at.index[done]
                best.V[index], best.gradient[index], best.steps[index] = at.V[done], full[done], step
                values[index] = at.value()[done]
                if done.all():
                    break
                at, full = at[~done], full[~done]
                steps.keep(~done)
            self._step(steps, at, full, step)
        return values, best

    def _afresh(self, steps: Steps, at: _Active, index: torch.Tensor) -> None:
        at.loss[index], G = steps.afresh(at.V, index)
        at.G[index] = self._free(G)
        at.exact[index] = True
        at.decrease_afresh[index] = torch.inf
        at.since = 0

    def _free(self, G: torch.Tensor) -> torch.Tensor:
        if not self.intercept:
            G[..., -1] = 0
        return G

    def _step(self, steps: Steps, at: _Active, full: torch.Tensor, step: int) -> None:
        """One step of every active problem."""
        if at.inverse is None or step in (5, 10, 20) or step % 40 == 0:
            at.inverse = self.preconditioner.at(at.V, at.penalty[:, 0, 0])
        D = self.rows.design.rounded(-at.newton(full))
        slope = dot(full, D)
        downhill = slope < 0
        D[~downhill] = 0
        at.decrease = -slope
        at.decrease_afresh = torch.where(torch.isinf(at.decrease_afresh), at.decrease, at.decrease_afresh)
        steps.along(at.V, D)
        t, at.loss = self._line_search(steps, at, D, slope, downhill)
        dG = self._free(steps.accept(t))
        S = t[:, None, None] * D
        at.V = at.V + S
        at.G = at.G + dG
        at.failed = t == 0
        at.stuck = at.failed & at.exact & (at.remembered == 0)
        at.remember(S, dG + at.penalty * S)
        at.exact[:] = not steps.drifts
        at.since += 1

    def _line_search(
        self, steps: Steps, at: _Active, D: torch.Tensor, slope: torch.Tensor, downhill: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Step lengths (J,), 0 where there is none that Wolfe would accept, and the losses there."""
        lam = at.penalty[:, 0, 0].double()
        cross, square = dot(at.V[..., :-1], D[..., :-1]), dot(D[..., :-1], D[..., :-1])
        value = at.value()
        noise = NOISE * torch.finfo(D.dtype).eps * value.abs()
        t = torch.ones_like(slope)
        low, low_slope, high = torch.zeros_like(t), slope.clone(), torch.full_like(t, torch.inf)
        loss, moved = at.loss.clone(), ~downhill
        todo = torch.nonzero(downhill)[:, 0]
        for _ in range(TRIALS):
            if not len(todo):
                break
            x = t[todo]
            there, change = steps.trial(x, todo)
            f = there + lam[todo] * (_square(at.V)[todo] + 2 * x * cross[todo] + x * x * square[todo]) / 2
            s = change + lam[todo] * (cross[todo] + x * square[todo])
            rise = f - value[todo]
            # Close to the minimum the values are equal to rounding; their slopes still tell (Hager and Zhang 2005).
            lower = (rise <= ARMIJO * x * slope[todo]) | (rise.abs() <= noise[todo])
            good = lower & (s.abs() <= WOLFE * slope[todo].abs())
            loss[todo[good]] = there[good]
            moved[todo[good]] = True
            todo, x, s, lower = todo[~good], x[~good], s[~good], lower[~good]
            beyond = ~lower | (s > 0)
            a, sa = low[todo], low_slope[todo]
            secant = a + (x - a) * sa / (sa - s)
            width = x - a
            inside = torch.nan_to_num(secant, nan=0.0).clamp(a + 0.1 * width, a + 0.9 * width)
            high[todo] = torch.where(beyond, x, high[todo])
            low[todo], low_slope[todo] = torch.where(beyond, a, x), torch.where(beyond, sa, s)
            ahead = torch.where(s > sa, secant, 4 * x).clamp(1.3 * x, 4 * x)
            between = torch.where(torch.isinf(high[todo]), ahead, 0.5 * (x + high[todo]))
            t[todo] = torch.where(beyond, inside, between)
        t[todo] = 0.0
        return torch.where(moved & downhill, t, torch.zeros_like(t)).to(D.dtype), loss


@dataclass
class Minima:
    """Where minima are: V and gradient (J, K, D + 1), steps (J,)."""

    V: torch.Tensor
    gradient: torch.Tensor
    steps: torch.Tensor


class _Active:
    """The problems that are not done yet: where they are and what they remember."""

    def __init__(self, V: torch.Tensor, lam: torch.Tensor) -> None:
        j = len(V)
        self.index = torch.arange(j, device=V.device)
        self.V, self.G = V, torch.zeros_like(V)
        self.penalty = lam[:, None, None] * torch.ones(V.shape[2], dtype=V.dtype, device=V.device)
        self.penalty[..., -1] = 0
        self.loss = torch.zeros(j, dtype=torch.float64, device=V.device)
        self.decrease, self.decrease_afresh = (torch.full_like(self.loss, torch.inf) for _ in range(2))
        self.exact, self.failed, self.stuck = (torch.zeros_like(self.index, dtype=torch.bool) for _ in range(3))
        self.remembered = torch.zeros_like(self.index)
        self.since = AFRESH_STEPS
        self.inverse: Inverse | None = None
        length = min(REMEMBERED, max(5, HISTORY // (2 * V.numel() * V.element_size())))
        self.history: deque[tuple[torch.Tensor, ...]] = deque(maxlen=length)

    def __getitem__(self, chosen: torch.Tensor) -> _Active:
        part = object.__new__(_Active)
        part.since = self.since
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                setattr(part, name, value[chosen])
        part.inverse = None if self.inverse is None else self.inverse[chosen]
        part.history = deque((tuple(a[chosen] for a in pair) for pair in self.history), self.history.maxlen)
        return part

    def value(self) -> torch.Tensor:
        """(J,) float64: f."""
        return self.loss + self.penalty[:, 0, 0].double() * _square(self.V) / 2

    def newton(self, gradient: torch.Tensor) -> torch.Tensor:
        """The inverse Hessian, as far as it is known, times the gradient (Nocedal and Wright, algorithm 7.4)."""
        assert self.inverse is not None  # noqa: S101 - made before the first step
        q, factors = gradient.clone(), []
        for S, Y, rho in reversed(self.history):
            a = rho * dot(S, q).to(q.dtype)
            q -= a[:, None, None] * Y
            factors.append(a)
        z = self.inverse(q)
        if self.history:
            S, Y, rho = self.history[-1]
            curved = rho * dot(Y, self.inverse(Y)).to(q.dtype)
            z *= torch.where(curved > 0, 1 / curved, torch.ones_like(curved)).clamp(0.02, 50)[:, None, None]
        for (S, Y, rho), a in zip(self.history, reversed(factors), strict=True):
            z += (a - rho * dot(Y, z).to(q.dtype))[:, None, None] * S
        return z

    def remember(self, S: torch.Tensor, Y: torch.Tensor) -> None:
        """Takes a step and its change of gradient; forgets everything of a problem that could not move."""
        for *_, rho in self.history:
            rho[self.failed] = 0
        product = dot(S, Y).to(S.dtype)
        rho = torch.where(product > 0, 1 / product, torch.zeros_like(product))
        self.history.append((S, Y, rho))
        self.remembered = torch.where(self.failed, 0, self.remembered + 1)


def _square(V: torch.Tensor) -> torch.Tensor:
    return V[..., :-1].square().sum((1, 2), dtype=torch.float64)
