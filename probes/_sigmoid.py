"""Binary logistic losses of several labels on the same rows, minimised together with `featurebank.probes._lbfgs`.

Shapes: N rows, D features, L labels, J problems: every label at every C. Logits are (J, 1, n), weights (J, 1, D + 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from featurebank.probes._design import Design
from featurebank.probes._lbfgs import COLUMNS, Path
from featurebank.probes._softmax import Pair, Rows, kept_bytes

MISSING = -1
EXACT_LOGIT = 40.0  # from here on log(1 + exp(z)) is z in float64


@dataclass(frozen=True)
class Labels(Rows):
    """Rows with several labels, of which some may be missing.

    Attributes:
        signed: (L, N) one over the number of rows that have the label, negative where the row is positive; 0 where it
            is missing.
    """

    signed: torch.Tensor
    alike: ClassVar[bool] = False

    def residuals(self, Z: torch.Tensor, where: slice, which: torch.Tensor) -> Pair:
        signed = self.signed[:, where][which % len(self.signed), None]
        wrong = Z.mul_(signed.sign())
        losses = torch.nn.functional.softplus(wrong, threshold=EXACT_LOGIT).mul_(signed.abs())
        return losses.sum((1, 2), dtype=torch.float64), wrong.sigmoid_().mul_(signed)


@dataclass(frozen=True, kw_only=True)
class LabelSolution:
    """W (L, D), b (L,), the largest components of the gradients (L,), and steps (L,) at one C."""

    W: torch.Tensor
    b: torch.Tensor
    gradient: torch.Tensor
    steps: torch.Tensor


def solve_labels(
    design: Design, labels: torch.Tensor, Cs: Sequence[float], *, tol: float, max_iter: int
) -> Iterator[LabelSolution]:
    """The solutions at each C, in the order of ``Cs``.

    Args:
        design: the rows, centred.
        labels: (L, N) 0, 1 or -1 where they are missing; each of both classes.
        Cs: inverse strengths of the penalty.
        tol: largest component of the gradient of the mean loss and its penalty.
        max_iter: steps.
    """
    known, positive = labels != MISSING, labels == 1
    rows, hits = known.sum(1), positive.sum(1)
    signed = (known.to(design.dtype) - 2 * positive.to(design.dtype)) / rows[:, None]
    V = torch.zeros((len(labels), 1, design.n_features + 1), dtype=design.dtype, device=design.device)
    V[:, 0, -1] = (hits.double() / (rows - hits)).log()
    penalty = 1 / (torch.tensor(Cs, dtype=torch.float64, device=design.device)[:, None] * rows)
    path = Path(Labels(design, 1.0, signed), intercept=True, tol=tol, max_iter=max_iter)
    columns = path.kept // kept_bytes(design, 1) if design.in_memory else COLUMNS
    parts = []
    for some in torch.split(torch.arange(len(labels), device=design.device), max(1, columns // len(Cs))):
        path.rows = Labels(design, 1.0, signed[some])
        best = path.minimise(V[some].repeat(len(Cs), 1, 1), penalty[:, some].reshape(-1).to(V.dtype))[1]
        parts.append([of.view(len(Cs), len(some), *of.shape[1:]) for of in (best.V, best.gradient, best.steps)])
    found, gradient, steps = (torch.cat(of, 1) for of in zip(*parts, strict=True))
    for at in range(len(Cs)):
        yield LabelSolution(
            W=found[at, :, 0, :-1], b=found[at, :, 0, -1], gradient=gradient[at].abs().amax((1, 2)), steps=steps[at]
        )
