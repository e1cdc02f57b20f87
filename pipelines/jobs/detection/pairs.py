"""Which detection is which object, image by image: what is found, missed, false, or taken for another class.

Shapes: I images, K classes, n objects and m detections of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from featurebank.extract.datasets.objects import Objects
    from featurebank.pipelines.jobs.detection.evaluation import Detections

__all__ = ["EACH", "Pairs"]

OVERLAP: Final = 0.5
EACH: Final = 6
"""Best images, and worst ones, that anybody looks at."""
FALSE, ON_A_CROWD = -1, -2


@dataclass(frozen=True, eq=False)
class Pairs:
    """Detections of images and the objects that they are, by boxes that overlap by half (IoU .5).

    Attributes:
        truth: what each image shows.
        found: what was found in each, the best first.
        objects: of each image (m,) int64, the object that a detection is; below 0 where it is none.
        least: the score from which on detections are looked at: where the F-score of all images together is highest.
    """

    truth: Sequence[Objects]
    found: Sequence[Detections]
    objects: Sequence[NDArray[np.int64]]
    least: float

    @classmethod
    def of(cls, truth: Sequence[Objects], found: Sequence[Detections], *, agnostic: bool = False) -> Pairs:
        """Pairs as COCO makes them: the best detection first, each takes the free object that it overlaps most.

        Args:
            truth: what each of I images shows.
            found: what was found in each, the best first.
            agnostic: whether a detection may be an object of another class.
        """
        objects = [_paired(shown, one, agnostic) for shown, one in zip(truth, found, strict=True)]
        scores = np.concatenate([np.empty(0), *(one.scores for one in found)])
        paired = np.concatenate([np.empty(0, np.int64), *objects])
        counted = np.flatnonzero(paired != ON_A_CROWD)
        order = counted[np.argsort(-scores[counted], kind="stable")]
        total = sum(int((~shown.crowd).sum()) for shown in truth)
        f_score = 2 * np.cumsum(paired[order] >= 0) / (np.arange(1, len(order) + 1) + total)
        # Among equal scores all are in or none.
        f_score[:-1][np.diff(scores[order]) == 0] = 0
        least = float(scores[order][f_score.argmax()]) if len(order) else 0.0
        return cls(truth, found, objects, least)

    def looked_at(self, image: int) -> NDArray[np.int64]:
        """The detections of an image that are good enough, and on no crowd."""
        good = self.found[image].scores >= self.least
        return np.flatnonzero(good & (self.objects[image] != ON_A_CROWD))

    def right(self, image: int) -> int:
        """How many of them are objects."""
        return int((self.objects[image][self.looked_at(image)] >= 0).sum())

    def f_score(self, image: int) -> float:
        """Twice the right detections by all detections and objects; NaN of an image with neither."""
        both = len(self.looked_at(image)) + int((~self.truth[image].crowd).sum())
        return 2 * self.right(image) / both if both else float("nan")

    def missed(self, image: int) -> NDArray[np.int64]:
        """The objects of an image that no detection is."""
        own = self.objects[image][self.looked_at(image)]
        return np.setdiff1d(np.flatnonzero(~self.truth[image].crowd), own)

    def extremes(self, most: int = EACH) -> tuple[list[int], list[int]]:
        """The images of the highest F-scores, best first, and of the lowest, worst first; none is in both.

        Of equal ones those with more objects and detections. Images without either are passed over.
        """
        judged = [
            (score, len(self.truth[image]) + len(self.looked_at(image)), image)
            for image in range(len(self.truth))
            if not np.isnan(score := self.f_score(image))
        ]
        worst = sorted(judged, key=lambda one: (one[0], -one[1]))[: min(most, -(-len(judged) // 2))]
        rest = sorted(set(judged) - set(worst), key=lambda one: (-one[0], -one[1]))
        return [image for *_, image in rest[:most]], [image for *_, image in worst]

    def confusion(self, classes: int) -> NDArray[np.int64]:
        """(K + 1, K + 1) how many objects of each class are detected as which; the last row is of no object.

        The last column is of missed objects. What is no object of its own class may be a missed one of another.
        """
        counts = np.zeros((classes + 1, classes + 1), np.int64)
        for image, (shown, found) in enumerate(zip(self.truth, self.found, strict=True)):
            seen, free = self.looked_at(image), self.missed(image)
            overlap = _overlaps(found.boxes[seen], shown.boxes[free])
            for at, detection in enumerate(seen.tolist()):
                own = int(self.objects[image][detection])
                if own < 0 and overlap.shape[1] and overlap[at].max() >= OVERLAP:
                    taken = int(overlap[at].argmax())
                    own, overlap[:, taken] = int(free[taken]), -1
                counts[shown.labels[own] if own >= 0 else classes, found.labels[detection]] += 1
            left = free[(overlap >= 0).all(0)]
            counts[:classes, classes] += np.bincount(shown.labels[left], minlength=classes)
        return counts


def _paired(shown: Objects, found: Detections, agnostic: bool) -> NDArray[np.int64]:
    same = np.ones((len(found.labels), len(shown)), bool) if agnostic else found.labels[:, None] == shown.labels
    overlap = np.where(same & ~shown.crowd, _overlaps(found.boxes, shown.boxes), -1.0)
    inside = np.where(same & shown.crowd, _overlaps(found.boxes, shown.boxes, inside=True), -1.0)
    objects = np.full(len(found.labels), FALSE)
    for at in range(len(objects) if len(shown) else 0):
        if overlap[at].max() >= OVERLAP:
            objects[at] = overlap[at].argmax()
            overlap[:, objects[at]] = -1
        elif inside[at].max() >= OVERLAP:
            objects[at] = ON_A_CROWD
    return objects


def _overlaps(first: NDArray[np.float64], second: NDArray[np.float64], *, inside: bool = False) -> NDArray[np.float64]:
    """(m, n) of each pair of boxes what they share, as a part of what they cover together, or of the first one."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas, others = ((one[:, 2:] - one[:, :2]).prod(-1) for one in (first, second))
    whole = areas[:, None] if inside else areas[:, None] + others - shared
    return np.asarray(shared / np.maximum(whole, 1e-12))
