"""Rankings by z-scores: Battle of the Backbones' published table in its order, SciPy, ties, gaps, bad input."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from featurebank.probes.ranking import rank_backbones, ranks, z_scores

# Mean z-score of each backbone's MRR over eight retrieval sets, best first (deviation of the population), from the
# table that the notebook of Battle of the Backbones' retrieval code prints.
PUBLISHED = {
    "timm-swinv2_base_window12to24_192to384_22kft1k": 1.03,
    "timm-convnext_xlarge_in22ft1k": 0.99,
    "timm-convnext_base_in22ft1k": 0.98,
    "timm-swinv2_base_window12to16_192to256_22kft1k": 0.96,
    "timm-swinv2_large_window12to24_192to384_22kft1k": 0.94,
    "timm-swinv2_large_window12to16_192to256_22kft1k": 0.87,
    "clip-resnet50_64": 0.81,
    "clip-vit_large_patch14_224": 0.80,
    "timm-convnext_small_in22ft1k": 0.76,
    "clip-vit_base_patch16_224": 0.75,
    "timm-vit_large_patch16_224_augreg_in21k_ft_in1k": 0.70,
    "timm-vit_base_patch16_224_dino": 0.31,
    "timm-vit_small_patch16_224_dino": 0.31,
    "timm-vit_base_patch16_224_augreg_in21k_ft_in1k": 0.22,
    "timm-vit_small_patch16_224_augreg_in21k_ft_in1k": 0.15,
    "timm-swinv2_tiny_window8_256": -0.02,
    "sscd-resnet50_disc": -0.10,
    "clip-resnet101": -0.11,
    "timm-resnet101": -0.14,
    "timm-convnext_small": -0.15,
    "timm-convnext_base": -0.19,
    "moco-vit_base_patch16_224": -0.26,
    "vicreg-resnet50": -0.27,
    "clip-resnet50": -0.32,
    "timm-resnet50": -0.33,
    "moco-vit_small_patch16_224": -0.38,
    "sscd-resnet50_im": -0.40,
    "timm-vit_small_patch16_224_augreg_in1k": -0.52,
    "midas-swin2_base_384": -0.57,
    "timm-vit_base_patch16_224_augreg_in1k": -0.66,
    "midas-swin2_tiny_256": -1.08,
    "mae-vit_large_patch16_224": -1.79,
    "mae-vit_base_patch16_224": -3.28,
}


@pytest.fixture(scope="module")
def published() -> tuple[list[str], NDArray[np.float64]]:
    """33 backbones and their MRR on 8 sets, in alphabetical order."""
    with Path(__file__).with_name("bob_retrieval_mrr.csv").open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    return [row[0] for row in rows], np.array([row[1:] for row in rows], np.float64)


def test_the_order_of_bobs_table_of_33_backbones_on_8_sets_comes_out_of_its_z_scores(
    published: tuple[list[str], NDArray[np.float64]],
) -> None:
    names, values = published
    assert values.shape == (33, 8)
    found = rank_backbones(names, values, ["retrieval"] * 8)
    assert found.names == tuple(PUBLISHED)
    assert found.rank.tolist() == list(range(1, 34))
    np.testing.assert_allclose(found.overall, list(PUBLISHED.values()), atol=0.005 + 1e-9)
    assert found.task_scores[:, 0].tolist() == found.overall.tolist()


@pytest.mark.parametrize(("deviation", "ddof"), [("population", 0), ("sample", 1)])
def test_z_scores_are_scipys(published: tuple[list[str], NDArray[np.float64]], deviation: Any, ddof: int) -> None:
    values = published[1]
    np.testing.assert_allclose(
        z_scores(values, deviation=deviation), stats.zscore(values, axis=0, ddof=ddof), rtol=1e-12
    )
    values = values.copy()
    values[[0, 5, 5, 20], [1, 1, 4, 7]] = np.nan
    found = z_scores(values, deviation=deviation, missing="leave out")
    np.testing.assert_allclose(found, stats.zscore(values, axis=0, ddof=ddof, nan_policy="omit"), rtol=1e-12)
    assert np.isnan(found).sum() == 4


def test_a_task_of_many_settings_weighs_as_much_as_one_of_few() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(6, 5))
    names, tasks = list("abcdef"), ["retrieval", "ood", "retrieval", "retrieval", "ood"]
    found = rank_backbones(names, values, tasks)
    z = stats.zscore(values, axis=0)
    expected = np.stack([z[:, [0, 2, 3]].mean(1), z[:, [1, 4]].mean(1)], 1)
    order = np.argsort(-expected.mean(1))
    assert found.tasks == ("retrieval", "ood")
    assert found.names == tuple(names[at] for at in order)
    np.testing.assert_allclose(found.task_scores, expected[order], rtol=1e-12)
    np.testing.assert_allclose(found.overall, expected.mean(1)[order], rtol=1e-12)
    np.testing.assert_allclose(found.z, z[order], rtol=1e-12)


def test_the_order_of_rows_and_the_unit_of_a_setting_change_nothing(
    published: tuple[list[str], NDArray[np.float64]],
) -> None:
    names, values = published
    shuffled = np.random.default_rng(1).permutation(len(names))
    scaled = values[shuffled] * [100, 1, 1, 5, 1, 1, 0.1, 1] + [0, 3, 0, 0, 0, -7, 0, 0]
    found = rank_backbones([names[at] for at in shuffled], scaled, ["retrieval"] * 8)
    assert found.names == tuple(PUBLISHED)


def test_equal_backbones_share_the_mean_of_their_places_in_the_order_given() -> None:
    values = np.array([[0.7, 0.2, 9.0], [0.9, 0.4, 7.0], [0.8, 0.3, 8.0], [0.1, 0.1, 0.0]])
    found = rank_backbones(["a", "b", "c", "d"], values[:, [0, 2]], ["x", "x"])
    assert found.names[-1] == "d"
    for scores in ([3.0, 1.0, 2.0], [1.0, 1.0, 1.0], [0.5, 0.9, 0.5, 0.1, 0.9, 0.5]):
        assert ranks(scores).tolist() == stats.rankdata(-np.array(scores)).tolist()
    opposite = rank_backbones(["a", "b", "c"], values[:3], ["x", "x", "y"])
    assert opposite.names == ("a", "b", "c"), "equal but for rounding"
    assert opposite.rank.tolist() == [2.0, 2.0, 2.0]


def test_a_setting_in_which_all_are_equal_tells_nothing_and_is_not_nan() -> None:
    assert z_scores([[0.1, 1.0], [0.1, 2.0], [0.1, 3.0]])[:, 0].tolist() == [0.0, 0.0, 0.0]


def test_a_missing_cell_is_refused_or_left_out_of_the_mean_never_a_zero() -> None:
    values = np.array([[0.9, 0.8, 0.5], [0.8, np.nan, 0.6], [0.1, 0.2, np.nan]])
    names, tasks = ["a", "b", "c"], ["x", "x", "y"]
    with pytest.raises(ValueError, match=r"2 of 9 values are missing, the first at \(backbone, setting\) \(1, 1\)"):
        rank_backbones(names, values, tasks)
    found = rank_backbones(names, values, tasks, missing="leave out")
    z = stats.zscore(values, axis=0, nan_policy="omit")
    by_name = dict(zip(found.names, found.task_scores, strict=True))
    assert by_name["b"].tolist() == pytest.approx([z[1, 0], z[1, 2]])
    assert by_name["c"][0] == pytest.approx(z[2, :2].mean())
    assert np.isnan(by_name["c"][1])
    assert dict(zip(found.names, found.overall, strict=True))["c"] == pytest.approx(z[2, :2].mean())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"values": [[1.0, 2.0]]}, "at least two backbones; setting 0 has 1"),
        ({"values": [[np.nan], [1.0]], "missing": "leave out"}, "setting 0 has 1"),
        ({"values": [[np.inf], [1.0]]}, r"finite or NaN, found inf at \(0, 0\)"),
        ({"values": [1.0, 2.0]}, r"scores \(B, S\) of backbones in settings, found shape \(2,\)"),
        ({"values": np.empty((0, 3))}, r"found shape \(0, 3\)"),
        ({"values": [[1.0], [2.0]], "missing": "zero"}, "missing must be 'refuse' or 'leave out', found 'zero'"),
        ({"values": [[1.0], [2.0]], "deviation": "none"}, "deviation must be 'population' or 'sample', found 'none'"),
    ],
)
def test_z_scores_refuse_what_they_cannot_use(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        z_scores(**given)


@pytest.mark.parametrize(
    ("names", "tasks", "message"),
    [
        (["a", "b"], ["x", "x"], r"found \(3, 2\) for 2 names, 2 of them different, and 2 tasks"),
        (["a", "b", "a"], ["x", "x"], "3 names, 2 of them different"),
        (["a", "b", "c"], ["x"], "and 1 tasks"),
        (["a", "b", "c"], ["x", "x"], "a value in at least one setting; none has c"),
    ],
)
def test_tables_that_do_not_fit_are_refused(names: list[str], tasks: list[str], message: str) -> None:
    values = [[1.0, 2.0], [2.0, 3.0], [np.nan, np.nan]]
    with pytest.raises(ValueError, match=message):
        rank_backbones(names, values, tasks, missing="leave out")


def test_ranks_refuse_what_is_no_number() -> None:
    with pytest.raises(ValueError, match=r"finite numbers of shape \(B,\)"):
        ranks([1.0, np.nan])
