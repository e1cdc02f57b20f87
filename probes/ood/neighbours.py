"""Scores of similarities to the training rows, which share one sweep over them.

Shapes: N training rows, D features, K classes, m rows of a block, g training rows of a block, k neighbours.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from featurebank.probes._parameters import Positive
from featurebank.probes.ood.block import Block
from featurebank.probes.ood.contract import OODScore
from featurebank.probes.ood.statistics import TrainingSet
from featurebank.retrieval._features import check_k

__all__ = ["KNN", "GalleryScore", "NNGuide", "Relation"]

GALLERY_ROWS = 2048


class GalleryScore(OODScore):
    """A score that gathers something over the cosines to all training rows."""

    def _score(self, block: Block) -> Tensor:
        return sweep([self], self._train, block)[0]

    @abstractmethod
    def _gathered(self, block: Block, gallery: Block, where: slice, cosines: Tensor, state: Any) -> Any:
        """The state after training rows ``where``, from cosines (m, g); None before the first."""

    @abstractmethod
    def _finished(self, block: Block, state: Any) -> Tensor:
        """Scores (m,) from the last state."""


class KNN(GalleryScore):
    """Minus the distance to the k-th nearest training row, of unit rows (Sun et al., ICML 2022, arXiv:2204.06507).

    The neighbour is found by float32 cosines, its distance taken from the difference, which keeps small distances.

    Args:
        k: the paper's 50 for CIFAR-10 (200 for CIFAR-100, 1000 for ImageNet).
    """

    name = "knn"
    needs = ("features",)
    candidates: ClassVar = {"k": (1, 10, 50, 100, 200, 500, 1000)}

    k: int = 50

    def _fit(self, train: TrainingSet) -> None:
        check_k(self.k, train.rows)

    def _gathered(self, block: Block, gallery: Block, where: slice, cosines: Tensor, state: Any) -> Any:  # noqa: ARG002
        values, columns = cosines.topk(min(self.k, cosines.shape[1]), dim=1)
        columns += where.start
        if state is not None:
            values, columns = torch.cat([state[0], values], 1), torch.cat([state[1], columns], 1)
            values, best = values.topk(min(self.k, values.shape[1]), dim=1)
            columns = columns.gather(1, best)
        return values, columns

    def _finished(self, block: Block, state: Any) -> Tensor:
        neighbours = Block(self._train.feature_rows(state[1][:, -1]))
        distances: Tensor = (block.unit - neighbours.unit).norm(dim=1)
        return -distances


class NNGuide(GalleryScore):
    """Energy times the mean of the k largest cosines, each times its energy (Park et al., ICCV 2023, arXiv:2309.14888).

    score = E(f) mean over the k largest of cos(f, f_i) E(f_i), with f_i all training rows (the paper also reports
    random subsets of them) and E log-sum-exp of the logits.

    Args:
        k: the paper's 10.
    """

    name = "nnguide"
    needs = ("features", "logits")
    candidates: ClassVar = {"k": (1, 5, 10, 100)}

    k: int = 10

    def _fit(self, train: TrainingSet) -> None:
        check_k(self.k, train.rows)
        self._energies = train.energies.float()

    def _gathered(self, block: Block, gallery: Block, where: slice, cosines: Tensor, state: Any) -> Any:  # noqa: ARG002
        values = (cosines * self._energies[where]).topk(min(self.k, cosines.shape[1]), dim=1, sorted=False)[0]
        if state is None:
            return values
        values = torch.cat([state, values], 1)
        return values.topk(min(self.k, values.shape[1]), dim=1, sorted=False)[0]

    def _finished(self, block: Block, state: Any) -> Tensor:
        guidance: Tensor = state.mean(1)
        return block.energy * guidance.double()


class Relation(GalleryScore):
    """The sum of relations to the training rows (Kim et al., NeurIPS 2023, arXiv:2301.12321).

    score = sum_i r_i ** power over training rows with r_i > ``threshold``, where r_i = max(cos(f, f_i), 0) (p . p_i)
    and p are softmax probabilities.

    Args:
        power: the paper's 1 for out-of-distribution scores.
        threshold: the paper's 0.03.
    """

    name = "relation"
    needs = ("features", "logits")
    candidates: ClassVar = {"power": (1.0, 2.0, 4.0, 8.0)}

    power: Positive = 1.0
    threshold: float = 0.03

    def _gathered(self, block: Block, gallery: Block, where: slice, cosines: Tensor, state: Any) -> Any:  # noqa: ARG002
        relations = (block.probabilities @ gallery.probabilities.T).mul_(cosines)
        relations = torch.nn.functional.threshold(relations, self.threshold, 0.0, inplace=True)
        if self.power != 1:
            relations.pow_(self.power)
        some = relations.sum(1).double()
        return some if state is None else state + some

    def _finished(self, block: Block, state: Any) -> Tensor:  # noqa: ARG002
        return state  # type: ignore[no-any-return]


def sweep(scores: Sequence[GalleryScore], train: TrainingSet, block: Block) -> list[Tensor]:
    """The scores (m,) of one block, each fitted on this training set, from one pass over its rows."""
    states: list[Any] = [None] * len(scores)
    needs = ("features", "logits") if any(isinstance(score, Relation) for score in scores) else ("features",)
    for where, gallery in train.training_blocks(*needs, rows=GALLERY_ROWS):
        cosines = block.unit @ gallery.unit.T
        states = [
            score._gathered(block, gallery, where, cosines, state) for score, state in zip(scores, states, strict=True)
        ]
    return [score._finished(block, state) for score, state in zip(scores, states, strict=True)]
