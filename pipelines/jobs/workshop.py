"""What a job needs besides rows of features, none of which changes its answer: images, networks, a device."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurebank.extract.backbones.contract import BackboneSpec
    from featurebank.extract.datasets.contract import Split
    from featurebank.pipelines.asking.inputs import SplitRows
    from featurebank.pipelines.training.loop import Progress
    from featurebank.store import FeatureSet

__all__ = ["Workshop", "reading_workers"]


def reading_workers() -> int:
    """Processes that read and decode images beside one that trains: none where there are no cores for them."""
    from featurebank.extract.device import cpu_cores

    return min(8, cpu_cores() // 2) if cpu_cores() > 2 else 0


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Where a job works.

    Attributes:
        root: the store's folder; what is tuned lies in ``tuned`` below it.
        spec_of: the backbone that made a feature set.
        images_of: the split that a feature set was made of, by DATASET/SPLIT.
        wish: what device of torch is wanted: ``auto``, ``cpu``, ``cuda:1`` …
        workers: processes that read and decode images beside this one; 0 for none.
        seconds_between: checkpoints.
        trains: whether what has no weights yet is trained.
        observe: told what is being trained and where it stands.
        say: told a line for people.
    """

    root: Path
    spec_of: Callable[[FeatureSet], BackboneSpec]
    images_of: Callable[[str], Split]
    wish: str = "auto"
    workers: int = 0
    seconds_between: float = 60.0
    trains: bool = True
    observe: Callable[[str, Progress], None]
    say: Callable[[str], None]

    @property
    def device(self) -> str:
        """Of torch; in a group of processes, this one's."""
        from featurebank.extract.device import resolve_device

        device = resolve_device(self.wish)
        own = os.environ.get("LOCAL_RANK")
        return f"cuda:{own}" if own and device.startswith("cuda") else device

    def check_training(self, name: str) -> None:
        """Raises ValueError where a run would have to be trained, and nothing is to be."""
        if not self.trains:
            raise ValueError(f"{name} must be trained for --evaluate-only; found no weights of it; ask without it")

    def images(self, rows: SplitRows) -> Split:
        """The images of rows.

        Raises:
            ValueError: the dataset has other records now than those the features were made from.
        """
        import numpy as np

        split = self.images_of(rows.name)
        ids: Any = np.asarray(split.ids)
        if rows.total != len(split) or not np.array_equal(ids[rows.rows], rows.ids):
            raise ValueError(
                f"{rows.name} must have the records that its features were made from; found others "
                f"({len(split):,}, {rows.total:,} then): extract it again"
            )
        return split

    def objects_digest(self, place: str) -> str:
        """Of the objects of all images of DATASET/SPLIT as they are annotated; read once.

        Raises:
            DatasetError: a dataset without any.
        """
        return _objects_digest(self, place)


@cache
def _objects_digest(workshop: Workshop, place: str) -> str:
    from featurebank.extract.datasets.objects import annotated, objects_digest

    return objects_digest(annotated(workshop.images_of(place)))
