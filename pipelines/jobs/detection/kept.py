"""What of detections is kept beside their numbers, for whoever looks at them: as arrays by name, and back.

Shapes: I images, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets.masks import RLE
from featurebank.extract.datasets.objects import Objects
from featurebank.pipelines.jobs.detection.evaluation import Detections

__all__ = ["Kept", "detected"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """Images of one set.

    Attributes:
        class_names: K.
        rows: (I,) their numbers in the set.
        ids: of each.
        truth: what each shows.
        found: what was found in each.
        best: some images in which detections are right, the best first.
        worst: some in which they are not, the worst first.
    """

    class_names: tuple[str, ...]
    rows: NDArray[np.int64]
    ids: tuple[str, ...]
    truth: Sequence[Objects]
    found: Sequence[Detections]
    best: tuple[int, ...]
    worst: tuple[int, ...]

    def arrays(self, *, masks: bool) -> dict[str, NDArray[Any]]:
        """Plain arrays.

        Args:
            masks: whether those of the best and the worst images are kept; those of all would be too much.
        """
        masked = sorted([*self.best, *self.worst]) if masks else []
        shown = [(mask, (one.height, one.width)) for one in (self.truth[at] for at in masked) for mask in one.masks]
        objects = [mask if isinstance(mask, RLE) else RLE.of(mask.full(*size)) for mask, size in shown]
        return {
            **detected(self.found),
            "rows": self.rows,
            "ids": np.array(self.ids, np.str_),
            "names": np.array(self.class_names, np.str_),
            "sizes": np.array([[one.height, one.width] for one in self.truth], np.int64).reshape(-1, 2),
            "object image": _numbered([len(one) for one in self.truth]),
            "object boxes": np.concatenate([np.empty((0, 4)), *(one.boxes for one in self.truth)]),
            "object classes": np.concatenate([np.empty(0, np.int64), *(one.labels for one in self.truth)]),
            "object crowd": np.concatenate([np.empty(0, np.bool_), *(one.crowd for one in self.truth)]),
            "best": np.array(self.best, np.int64),
            "worst": np.array(self.worst, np.int64),
            "masked": np.array(masked, np.int64),
            **_runs("object ", objects),
            **_runs("", [mask for image in masked for mask in self.found[image].masks]),
        }

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[Any]]) -> Kept:
        """As it was, but for the masks that were not kept.

        Raises:
            ValueError, LookupError, TypeError, StopIteration: they are other arrays.
        """
        sizes = [(int(height), int(width)) for height, width in arrays["sizes"]]
        masked, objects, masks = set(arrays["masked"].tolist()), _masks("object ", arrays), _masks("", arrays)
        starts, first = (np.searchsorted(arrays[name], np.arange(len(sizes) + 1)) for name in ("object image", "image"))
        truth, found = [], []
        for image, (height, width) in enumerate(sizes):
            own, seen = (slice(*ends[image : image + 2].tolist()) for ends in (starts, first))
            shown = Objects(
                height=height,
                width=width,
                boxes=arrays["object boxes"][own],
                labels=arrays["object classes"][own],
                crowd=arrays["object crowd"][own],
            )
            detections = Detections(
                boxes=arrays["boxes"][seen].astype(np.float64),
                scores=arrays["scores"][seen].astype(np.float64),
                labels=arrays["classes"][seen],
            )
            if image in masked:
                shown = replace(shown, masks=tuple([RLE((height, width), next(objects)) for _ in shown.labels]))
                own_masks = tuple([RLE((height, width), next(masks)) for _ in detections.labels])
                detections = replace(detections, masks=own_masks)
            truth.append(shown)
            found.append(detections)
        return cls(
            class_names=tuple(arrays["names"].tolist()),
            rows=arrays["rows"],
            ids=tuple(arrays["ids"].tolist()),
            truth=truth,
            found=found,
            best=tuple(arrays["best"].tolist()),
            worst=tuple(arrays["worst"].tolist()),
        )


def detected(found: Sequence[Detections]) -> dict[str, NDArray[Any]]:
    """Detections of all images, one after the other, with the number of the image."""
    return {
        "image": _numbered([len(one.scores) for one in found]),
        "boxes": np.concatenate([np.empty((0, 4)), *(one.boxes for one in found)]).astype(np.float32),
        "scores": np.concatenate([np.empty(0), *(one.scores for one in found)]).astype(np.float32),
        "classes": np.concatenate([np.empty(0, np.int64), *(one.labels for one in found)]),
    }


def _numbered(counts: Sequence[int]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(counts)), counts)


def _runs(prefix: str, masks: Sequence[RLE]) -> dict[str, NDArray[np.int64]]:
    counts = [mask.counts for mask in masks]
    ends = np.cumsum([len(one) for one in counts], dtype=np.int64)
    return {f"{prefix}runs": np.concatenate([np.empty(0, np.int64), *counts]), f"{prefix}run ends": ends}


def _masks(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Iterator[NDArray[np.int64]]:
    yield from np.split(arrays[f"{prefix}runs"], arrays[f"{prefix}run ends"])
