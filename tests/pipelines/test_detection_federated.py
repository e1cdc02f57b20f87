"""The federated loss: binary cross-entropies by hand, of the classes that were drawn and of no others."""

from __future__ import annotations

import numpy as np
import torch

from featurebank.pipelines.jobs.detection.federated import Federated

CLASSES = 6


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of regions, and classes: background, the first and the third."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, CLASSES + 1, generator=generator, requires_grad=True)
    return logits, torch.tensor([0, 1, 3, 0, 3])


def test_where_all_classes_are_judged_it_is_the_sum_of_binary_cross_entropies() -> None:
    logits, classes = batch()
    values, wanted = logits.detach().double().numpy()[:, 1:], np.zeros((5, CLASSES))
    wanted[[1, 2, 4], [0, 2, 2]] = 1
    probabilities = 1 / (1 + np.exp(-values))
    expected = -(wanted * np.log(probabilities) + (1 - wanted) * np.log(1 - probabilities)).sum() / 5
    torch.testing.assert_close(Federated(CLASSES, CLASSES).loss(logits, classes).item(), float(expected))


def judged(own: Federated) -> list[int]:
    """The classes that have gradients, from 1."""
    logits, classes = batch()
    own.loss(logits, classes).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    return np.flatnonzero(logits.grad.abs().sum(0)).tolist()


def test_of_a_batch_those_that_it_shows_are_judged_and_others_drawn_by_the_root_of_their_frequency() -> None:
    own = Federated(CLASSES, 3)
    own.frequency.copy_(torch.tensor([9.0, 1.0, 9.0, 16.0, 4.0, 0.0]))
    torch.manual_seed(0)
    drawn = [judged(own) for _ in range(700)]
    assert all(len(classes) == 3 and {1, 3} < {*classes} for classes in drawn)
    counts = np.bincount([next(iter({*classes} - {1, 3})) for classes in drawn], minlength=7)
    assert counts[6] == 0, "no image shows it"
    np.testing.assert_allclose(counts[[2, 4, 5]] / 700, [1 / 7, 4 / 7, 2 / 7], atol=0.06)
    assert judged(Federated(CLASSES, 1)) == [1, 3]
    own.judged = 50
    assert judged(own) == [1, 2, 3, 4, 5]
