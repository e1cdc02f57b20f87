"""What was matched in which image: enough to score any choice of the images again, without matching again.

Shapes: I images, K classes, T thresholds of the overlap, D detections, B draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.probes._rows import row_slices

__all__ = ["OVERLAPS", "RECALLS", "Curves", "Matches"]

OVERLAPS = np.linspace(0.5, 0.95, 10)
"""The thresholds of COCO: .50, .55 … .95."""
RECALLS = np.linspace(0.0, 1.0, 101)
"""Where COCO reads the precision: 0, .01 … 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Curves:
    """What `Matches.curves` finds; NaN where a draw holds no object of a class.

    Attributes:
        precision: (B, K, T) average precision.
        recall: (B, K, T) recall of all detections.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Matches:
    """Detections of one range of areas, class by class, the best first, images in order among equal scores.

    Attributes:
        starts: (K + 1,) int64, where the detections of each class begin.
        image: (D,) int64.
        hit: (T, D) bool, matched with an object that counts.
        ignored: (T, D) bool, neither right nor wrong: matched with a crowd, or of another size.
        objects: (I, K) int64, how many objects count.
    """

    starts: NDArray[np.int64]
    image: NDArray[np.int64]
    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    objects: NDArray[np.int64]

    @classmethod
    def of(cls, pairs: Sequence[dict[str, Any]], columns: NDArray[np.int64], shape: tuple[int, int]) -> Matches:
        """What hotcoco, as pycocotools, keeps of each image and category.

        Args:
            pairs: of its ``eval_imgs`` those of one range of areas; images are numbered from 0.
            columns: the class's index of each pair.
            shape: images and classes.
        """
        places = np.array([pair["image_id"] for pair in pairs], np.int64)
        order = np.lexsort((places, columns))
        pairs, places, columns = [pairs[k] for k in order], places[order], columns[order]
        objects = np.zeros(shape, np.int64)
        objects[places, columns] = [pair["gtIgnore"].count(False) for pair in pairs]
        found = np.array([len(pair["dtScores"]) for pair in pairs], np.int64)
        column, image = np.repeat(columns, found), np.repeat(places, found)
        scores = np.array([score for pair in pairs for score in pair["dtScores"]], np.float64)
        best = np.lexsort((-scores, column))
        matched, ignored = (
            np.array([[one for pair in pairs for one in pair[name][t]] for t in range(len(OVERLAPS))], np.bool_)
            for name in ("dtMatched", "dtIgnore")
        )
        starts = np.concatenate([[0], np.bincount(column, minlength=shape[1]).cumsum()]).astype(np.int64)
        hit = (matched & ~ignored)[:, best]
        return cls(starts=starts, image=image[best], hit=hit, ignored=ignored[:, best], objects=objects)

    def curves(self, weights: NDArray[np.float64]) -> Curves:
        """Scores of images that are drawn as often as ``weights`` (B, I) say.

        They are those of a set in which each image stands that often. An order among equal scores is kept: within
        an image, and of images as they are here, however the draw came about.
        """
        shape = (len(weights), self.objects.shape[1], len(self.hit))
        precision, recall = np.full(shape, np.nan), np.full(shape, np.nan)
        for k in range(shape[1]):
            own = np.arange(self.starts[k], self.starts[k + 1])
            own = own[~self.ignored[:, own].all(0)]
            for block in row_slices(len(weights), len(own)):
                self._of_class(k, own, weights[block], precision[block, k], recall[block, k])
        return Curves(precision=precision, recall=recall)

    def _of_class(
        self,
        k: int,
        own: NDArray[np.int64],
        weights: NDArray[np.float64],
        precision: NDArray[np.float64],
        recall: NDArray[np.float64],
    ) -> None:
        """Fills in (B, T) of a class whose detections are ``own``; draws are along the last axis, which is fast."""
        total = weights @ self.objects[:, k]
        measured = total > 0
        drawn = np.ascontiguousarray(weights.T)[self.image[own]]
        seen, kept = np.cumsum(drawn, axis=0), np.ones(len(own), np.bool_)
        for t in range(len(self.hit)):
            keep = ~self.ignored[t, own]
            if not np.array_equal(keep, kept):
                seen, kept = np.cumsum(drawn * keep[:, None], axis=0), keep
            right = np.flatnonzero(self.hit[t, own])
            above = np.cumsum(drawn[right], axis=0)
            hits = above[-1] if len(right) else np.zeros(len(total))
            recalls = np.divide(above, total, out=np.zeros_like(above), where=measured)
            recall[measured, t] = hits[measured] / total[measured]
            precision[measured, t] = _average(recalls, above / (seen[right] + np.spacing(1)))[measured]


def _average(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over `RECALLS` of the best precision there or beyond, from both at each right detection, (P, B)."""
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    reached = np.searchsorted(RECALLS, recall, side="right")
    return np.asarray((np.diff(reached, axis=0, prepend=0) * best).sum(0) / len(RECALLS))
