"""One rule for which rows are held out, the same numbers as before where scikit-learn has a draw."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import StratifiedShuffleSplit  # type: ignore[import-untyped]

from featurebank.probes._holding import stratified_part
from featurebank.probes.linear import linear_probe
from featurebank.probes.logistic import LogisticProbeCV
from featurebank.probes.neighbours import knn_sweep


@pytest.mark.parametrize("seed", [0, 7])
def test_d3_the_draw_is_scikit_learns_where_it_has_one(seed: int) -> None:
    labels = np.repeat([3, 5, 9], [10, 7, 2])
    fitting, held = next(StratifiedShuffleSplit(1, test_size=0.2, random_state=seed).split(labels[:, None], labels))
    ours = stratified_part(labels, 0.2, seed)
    assert np.array_equal(ours[0], fitting)
    assert np.array_equal(ours[1], held)


def test_d3_a_class_of_one_row_gets_an_answer_of_every_probe() -> None:
    labels = np.repeat([0, 1, 2], [10, 10, 1])
    rows = np.eye(3)[labels] + 0.01 * np.random.default_rng(0).standard_normal((21, 3))
    assert 20 in stratified_part(labels, 0.2, 0)[0]
    assert knn_sweep(rows, labels, rows, labels, ks=(1, 3)).accuracy >= 20 / 21
    assert LogisticProbeCV([1.0]).fit(rows, labels).classes_.tolist() == [0, 1, 2]
    assert linear_probe(rows, labels, rows, labels).accuracy >= 20 / 21
    with pytest.raises(ValueError, match="at least two rows"):
        stratified_part(np.arange(3), 0.2, 0)
