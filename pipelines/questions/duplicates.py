"""Rows that lie close together: within a set, or test rows that stand in train.

Shapes: P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.answer import Answer, Score
from featurebank.pipelines.asking.inputs import Rows, SplitRows, vectors
from featurebank.pipelines.asking.layout import Layout
from featurebank.pipelines.asking.option import option
from featurebank.pipelines.asking.question import Question
from featurebank.store import FeatureSet

if TYPE_CHECKING:
    from featurebank.pipelines.asking.results import Row
    from featurebank.pipelines.asking.sheet import Sheet

__all__ = ["Duplicates"]


class Pairs(NamedTuple):
    """Rows (P,) of the first and of the second set, and their cosines (P,)."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    similarity: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Duplicates(Question):
    """Rows that lie close together: within a set, or, of DATASET/TRAIN:TEST, test rows that stand in train."""

    name: ClassVar[str] = "duplicates"
    primary: ClassVar[str] = "images"
    layout: ClassVar[Layout] = Layout(fitted="first", scored="second", alone=True)

    threshold: float = option(0.98, "Cosine from which two rows are alike.")
    gallery: str | None = option(
        None,
        "The set that KEY's rows are looked for in instead.",
        metavar="DATASET/SPLIT",
        role=True,
        hashed=False,
    )
    exact: bool = option(False, "Only those of the same bytes; features are not compared.")
    limit: int = option(20, "Pairs that are shown of each backbone.", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.threshold <= 1:
            raise ValueError(f"--threshold must be above 0 and at most 1; found {self.threshold:g}")

    def run(self, rows: Rows) -> Answer:
        """How many rows have a near duplicate, how many pairs there are, and how many of the same bytes."""
        if "gallery" in rows.sets and "first" in rows.sets:
            raise ValueError("--gallery is for a KEY of one set; found two, TRAIN:TEST")
        second = vectors(rows.one("second"))
        role = next((role for role in ("gallery", "first") if role in rows.sets), "second")
        alone = rows.one(role).path == rows.one("second").path
        first = second if alone else vectors(rows.one(role))
        hashes, others = _hashes(first), _hashes(second)
        if self.exact:
            pairs = _same_bytes(first, second, hashes, others)
        else:
            from featurebank.retrieval.duplicates import near_duplicates

            others_of = None if alone else second.features
            pairs = Pairs(*near_duplicates(first.features, others_of, threshold=self.threshold))
        # A record that could not be read when it was hashed has no hash.
        same = (hashes[pairs.first] == others[pairs.second]).all(1) & hashes[pairs.first].any(1)
        images = len(np.unique(np.union1d(pairs.first, pairs.second) if alone else pairs.second))
        n = len(second.rows)
        shown = {"pairs": [*_shown(first, second, pairs, same, self.limit)]}
        return Answer(
            scores=[
                Score(metric="images", value=float(images), n=n, details=shown),
                Score(metric="pairs", value=float(len(same)), n=n),
                Score(metric="same_bytes", value=float(same.sum()), n=n),
            ],
            notes=[
                f"{name}: the contents are unknown; rows of the same bytes are those of the same features"
                for name in dict.fromkeys(side.name for side in (first, second) if _is_unknown(side))
            ],
            arrays={"first": first.rows[pairs.first], "second": second.rows[pairs.second], "cosine": pairs.similarity},
        )

    @property
    def fitted_name(self) -> str:
        """The gallery, where there is one."""
        return self.gallery or ""

    @property
    def title(self) -> str:
        """What is counted."""
        return "the same bytes" if self.exact else f"near duplicates, cosine {self.threshold:g} or more"

    def sheets(self, rows: Sequence[Row]) -> Sequence[Sheet]:
        """The most alike pairs of each backbone."""
        from featurebank.pipelines.asking.sheet import Sheet

        names = ("cosine", "first", "class", "second", "class")
        sheets = []
        for row in rows:
            if row.metric == "images" and row.details.get("pairs"):
                lines: list[Any] = [
                    (
                        (
                            f"{pair['cosine']:.4f}" + (" =" if pair["same_bytes"] else ""),
                            *(pair[name] or "" for name in ("first", "first_class", "second", "second_class")),
                        ),
                        (),
                    )
                    for pair in row.details["pairs"]
                ]
                sheets.append(
                    Sheet(title=f"{row.backbone}: most alike (= the same bytes)", names=names, columns=(), lines=lines)
                )
        return sheets


def _same_bytes(first: SplitRows, second: SplitRows, hashes: NDArray[np.uint8], others: NDArray[np.uint8]) -> Pairs:
    """Each row of the second set with the first one of its bytes; within a set, with an earlier one."""
    known: dict[bytes, int] = {}
    for row in np.flatnonzero(hashes.any(1)).tolist():
        known.setdefault(hashes[row].tobytes(), row)
    found = [(known.get(content.tobytes(), -1), row) for row, content in enumerate(others)]
    pairs = np.array([(one, row) for one, row in found if one >= 0 and (first is not second or one < row)], np.int64)
    left, right = pairs.reshape(-1, 2).T
    a, b = (split.features[at].astype(np.float32) for split, at in ((first, left), (second, right)))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return Pairs(left, right, (a * b).sum(1) / np.maximum(lengths, np.finfo(np.float32).tiny))


def _shown(
    first: SplitRows, second: SplitRows, pairs: Any, same: NDArray[np.bool_], limit: int
) -> Sequence[dict[str, Any]]:
    """The most alike pairs: cosine, whether the bytes are the same, ids and classes."""
    sides = [("first", first, first.ids, pairs.first), ("second", second, second.ids, pairs.second)]
    found = []
    for at in range(min(limit, len(same))):
        row: dict[str, Any] = {"cosine": float(pairs.similarity[at]), "same_bytes": bool(same[at])}
        for side, split, ids, places in sides:
            row |= {side: str(ids[places[at]]), f"{side}_class": _class_name(split, int(places[at]))}
        found.append(row)
    return found


def _class_name(split: SplitRows, row: int) -> str | None:
    label = split.labels[row]
    if label.ndim > 0 or label < 0:
        return None
    return split.class_names[label] if label < len(split.class_names) else str(label)


def _is_unknown(split: SplitRows) -> bool:
    """Whether features of one's own came without what they are of."""
    with FeatureSet(split.path) as feature_set:
        return feature_set.provenance.get("content") == "unknown"


def _hashes(split: SplitRows) -> NDArray[np.uint8]:
    with FeatureSet(split.path) as feature_set:
        return np.asarray(feature_set.content_hash[split.rows])
