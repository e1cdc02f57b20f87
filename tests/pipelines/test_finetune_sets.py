"""Which rows a backbone is tuned on, chosen by and scored on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featurebank.pipelines.asking.inputs import Rows, SplitRows
from featurebank.pipelines.jobs.finetune.sets import sets_of


def split(name: str, labels: Any, class_names: tuple[str, ...] = ("a", "b", "c")) -> SplitRows:
    labels = np.asarray(labels, np.int64)
    n = len(labels)
    return SplitRows(
        name=name,
        path=Path("none"),
        features=np.zeros((n, 4), np.float16),
        labels=labels,
        class_names=class_names,
        rows=np.arange(n),
        failed=0,
        total=n,
    )


def rows(**sets: SplitRows) -> Rows:
    return Rows(backbone="net", sets={role: (one,) for role, one in sets.items()})


def counts(labels: NDArray[np.int64]) -> list[int]:
    return [int(count) for count in np.bincount(labels)]


TRAIN = split("pets/train", np.repeat([0, 1, 2], [50, 20, 10]))


def test_without_validation_rows_a_stratified_fifth_takes_their_place_and_a_note_says_so() -> None:
    sets = sets_of(rows(train=TRAIN, test=split("pets/test", [0, 1, 2])), fraction=1.0, shots=None, seed=0)
    assert counts(sets.train.labels) == [40, 16, 8]
    assert counts(sets.validation.labels) == [10, 4, 2]
    assert not set(sets.train.rows) & set(sets.validation.rows)
    assert "16 rows, a stratified fifth, are held out" in " ".join(sets.notes)


@pytest.mark.parametrize(
    ("fraction", "shots", "expected"), [(0.1, None, [5, 2, 1]), (0.01, None, [1, 1, 1]), (1.0, 4, [4, 4, 4])]
)
def test_a_share_of_the_rows_is_one_of_each_class(fraction: float, shots: int | None, expected: list[int]) -> None:
    given = rows(train=TRAIN, validation=split("pets/val", [0, 1, 2]), test=split("pets/test", [0, 1, 2]))
    sets = sets_of(given, fraction=fraction, shots=shots, seed=0)
    assert counts(sets.train.labels) == expected
    assert (np.diff(sets.train.rows) > 0).all()
    assert any("rows are trained on" in note for note in sets.notes)
    other = sets_of(given, fraction=fraction, shots=shots, seed=1)
    assert sets.train.rows.tolist() != other.train.rows.tolist()


def test_rows_of_a_class_that_no_train_row_has_do_not_choose_and_are_scored() -> None:
    given = rows(
        train=split("pets/train", [0, 0, 2, 2]),
        validation=split("pets/val", [0, 1, 2]),
        test=split("pets/test", [0, 1, 2]),
    )
    sets = sets_of(given, fraction=1.0, shots=None, seed=0)
    assert (sets.classes.tolist(), sets.outputs) == ([0, 2], 3)
    assert sets.validation.labels.tolist() == [0, 2]
    assert len(sets.test.labels) == 3, "rows of an unknown class are scored, and wrong"
    assert any("classes of pets/test without rows in pets/train" in note for note in sets.notes)


def test_classes_meet_by_name() -> None:
    given = rows(
        train=split("pets/train", [0, 0, 1, 1], ("cat", "dog")),
        validation=split("pets/val", [0, 1], ("dog", "cat")),
        test=split("pets/test", [0, 0, 1], ("dog", "cat")),
    )
    sets = sets_of(given, fraction=1.0, shots=None, seed=0)
    assert sets.test.labels.tolist() == [1, 1, 0]
    assert sets.validation.labels.tolist() == [1, 0]


def test_several_labels_a_row_are_the_outputs_themselves() -> None:
    labels = np.array([[0, 1], [1, 0], [1, -1], [0, 0], [1, 1]] * 4)
    given = rows(train=split("x/train", labels, ("e", "f")), test=split("x/test", labels, ("e", "f")))
    sets = sets_of(given, fraction=0.5, shots=None, seed=0)
    assert (len(sets.train.labels), len(sets.validation.labels)) == (8, 2)
    assert (sets.train.labels.shape, sets.outputs) == ((8, 2), 2)
    with pytest.raises(ValueError, match="shots must be of rows with one class"):
        sets_of(given, fraction=1.0, shots=3, seed=0)


def test_one_class_is_refused() -> None:
    given = rows(train=split("x/train", [1, 1, 1]), validation=split("x/val", [1]), test=split("x/test", [1]))
    with pytest.raises(ValueError, match="two classes; found one"):
        sets_of(given, fraction=1.0, shots=None, seed=0)
