"""What went wrong in other studies' retrieval without anybody noticing, and cannot go wrong here: one test each.

The traps are those of Battle of the Backbones' published retrieval code; the golden numbers are those it printed.
"""

from __future__ import annotations

import numpy as np
import pytest

from featurebank.retrieval.evaluation import evaluate

QUERY = np.array([[1.0, 0.0]])
GALLERY = np.array([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5], [0.0, 1.0]])  # in the order in which it is found


def test_revisited_average_precision_of_positives_at_ranks_0_and_3_is_70833_as_revisitop_has_it() -> None:
    truth = [{"easy": [0, 3], "hard": [], "junk": []}]
    found = evaluate(QUERY, GALLERY, truth, protocol="bob").values
    assert found["map_trapezoidal"] == pytest.approx(0.70833, abs=5e-6)
    assert found["recall@1"] == 0.5
    assert found["recall@5"] == 1.0


def test_mrr_takes_junk_out_before_it_counts() -> None:
    truth = [{"easy": [1], "hard": [], "junk": [0]}]
    assert evaluate(QUERY, GALLERY, truth, protocol="bob").values["mrr"] == 1
    assert evaluate(QUERY, GALLERY, truth, protocol="bob-compat").values["mrr"] == 0.5, "what the study reported"


def test_mrr_is_divided_by_the_queries_that_have_positives_as_map_and_recall_are() -> None:
    truth = [{"easy": [0], "hard": [], "junk": []}, {"easy": [], "hard": [], "junk": [1]}]
    found, reported = (
        evaluate(QUERY.repeat(2, 0), GALLERY, truth, protocol=name).values for name in ("bob", "bob-compat")
    )
    assert found["mrr"] == found["map_trapezoidal"] == found["recall@1"] == 1
    assert (reported["mrr"], reported["map_trapezoidal"], reported["recall@1"]) == (0.5, 1, 1)


def test_recall_is_a_share_of_the_positives_and_never_means_hit_rate() -> None:
    found = evaluate(QUERY, GALLERY, ([0], [0, 1, 0, 0]), protocol="labels").values
    assert found["recall@1"] == pytest.approx(1 / 3)
    assert found["hit_rate@1"] == 1
