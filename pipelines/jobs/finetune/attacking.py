"""Which rows a tuned network still has right when their pixels are attacked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from featurebank.pipelines.jobs.finetune.job import Job, Tuned

__all__ = ["Attacked", "robust_rows"]

FORM = re.compile(
    r"(?P<name>pgd|apgd):(?P<norm>linf|l2):(?P<radius>\d+/[1-9]\d*|\d+(?:\.\d+)?)(?::(?P<steps>[1-9]\d*))?"
)
STEPS = {"pgd": 10, "apgd": 20}
SHARE = 2.5  # of the radius, that all steps of PGD together could go
AT_ONCE = 64


@dataclass(frozen=True)
class Attacked:
    """An attack, as ``pgd:linf:1/255`` or ``apgd:l2:0.5:100``: its radius, of pixels from 0 to 1, and its steps.

    Raises:
        ValueError: it is none.
    """

    text: str

    def __post_init__(self) -> None:
        if FORM.fullmatch(self.text) is None or self.radius <= 0:
            raise ValueError(f"an attack must be like pgd:linf:1/255 or apgd:l2:0.5:100; found {self.text!r}")

    @property
    def radius(self) -> float:
        """Of the ball."""
        return float(Fraction(self.text.split(":")[2]))

    def __call__(self, model: Any, images: torch.Tensor, labels: torch.Tensor, *, rows: Sequence[int]) -> torch.Tensor:
        """See `featurebank.pipelines.jobs.finetune.robustness.Attack`."""
        from featurebank.pipelines.jobs.finetune.robustness import apgd_ce, pgd

        name, norm, _, *given = self.text.split(":")
        own, steps = cast("Literal['linf', 'l2']", norm), int(given[0]) if given else STEPS[name]
        if name == "apgd":
            return apgd_ce(model, images, labels, norm=own, radius=self.radius, steps=steps, rows=rows)
        size = SHARE * self.radius / steps
        return pgd(model, images, labels, norm=own, radius=self.radius, steps=steps, step_size=size, rows=rows)


def robust_rows(attacks: Sequence[str], job: Job, run: Tuned) -> NDArray[np.bool_]:
    """(A, N) of the test rows: whether the network is right on the image and under this attack and those before it."""
    import numpy as np
    import torch

    from featurebank.pipelines.jobs.finetune.images import ImageRows, loaded
    from featurebank.pipelines.jobs.finetune.robustness import InPixels, withstood

    test, device = job.sets.test, job.workshop.device
    plain = replace(job.spec.preprocessing, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), channels="RGB")
    images = ImageRows(job.workshop.images(test), test.rows, plain)
    windows = [range(start, min(start + AT_ONCE, len(images))) for start in range(0, len(images), AT_ONCE)]

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for rows, pixels in loaded(images, [[(-1, row) for row in window] for window in windows], 0):
            yield pixels.to(device), torch.from_numpy(test.labels[rows]).to(device)

    model = InPixels(run.network, job.spec.preprocessing).to(device).eval()
    return np.asarray(withstood(model, batches(), [Attacked(text) for text in attacks])[1:])
