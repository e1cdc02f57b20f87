"""All scores by name, alike and in one pass."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone  # type: ignore[import-untyped]

from featurebank.probes import ood
from featurebank.probes.ood import neighbours, statistics
from featurebank.probes.ood.contract import OODScore
from featurebank.probes.ood.evaluation import detection
from featurebank.probes.ood.head import Head
from featurebank.probes.ood.logits import MSP
from featurebank.probes.ood.names import scores
from featurebank.probes.ood.neighbours import KNN
from featurebank.probes.ood.registry import _SCORES, get, score_all
from featurebank.probes.ood.statistics import TrainingSet
from featurebank.probes.ood.weiper import WeiPerKLD

QUICK = [name if name != "weiper+kld" else WeiPerKLD(repeats=3) for name in scores()]


def quick(name: str) -> OODScore:
    return WeiPerKLD(repeats=3) if name == "weiper+kld" else get(name)()


def test_every_score_of_the_package_has_a_name() -> None:
    found = set()
    for module in pkgutil.iter_modules(ood.__path__, f"{ood.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, OODScore) and "name" in vars(value):
                found.add(value)
    assert {get(name) for name in scores()} == found
    assert len(scores()) == 35


@pytest.mark.parametrize("name", scores())
def test_every_score_follows_the_contract(name: str, problem: Any) -> None:
    score = quick(name)
    assert clone(score).get_params() == score.get_params()
    train = problem.train
    assert score.fit(train) is score
    found = score.score_samples(problem.queries)
    assert found.shape == (70,)
    assert found.dtype == np.float64
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(score.score_samples(problem.queries), found)
    np.testing.assert_array_equal(clone(score).fit(problem.train).score_samples(problem.queries), found)
    assert score.__doc__ is not None
    assert type(score).__doc__ != OODScore.__doc__
    with pytest.raises(ValueError, match="must be fitted before it scores"):
        quick(name).score_samples(problem.queries)


def test_every_score_is_higher_for_rows_like_the_training_rows() -> None:
    generator = np.random.default_rng(0)
    centres, labels = 3 * generator.normal(size=(6, 24)), generator.integers(0, 6, 700)
    rows = centres[labels] + 0.5 * generator.normal(size=(700, 24))
    head = Head(centres / 10, np.zeros(6))
    train = TrainingSet(rows[:500], labels[:500], head=head, text=centres)
    sets = {"in": (rows[500:], None), "out": (generator.normal(size=(200, 24)), None)}
    found = score_all(train, sets, QUICK).values
    separated = {name: detection(found["in"][name], found["out"][name]).auroc for name in scores()}
    assert {name: value for name, value in separated.items() if value < 0.6} == {}


@pytest.mark.parametrize("rows", [2048, 33])
def test_one_pass_is_each_score_alone(rows: int, problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = {name: quick(name).fit(problem.train).score_samples(problem.queries) for name in scores()}
    monkeypatch.setattr(statistics, "BLOCK_VALUES", 24 * rows)
    monkeypatch.setattr(neighbours, "GALLERY_ROWS", rows)
    found = score_all(problem.train, {"test": (problem.queries, None), "first": (problem.queries[:9], None)}, QUICK)
    assert list(found.values) == ["test", "first"]
    assert found.head == "own"
    assert found.skipped == {}
    for name in scores():
        scale = np.abs(alone[name]).mean()
        np.testing.assert_allclose(found.values["test"][name], alone[name], rtol=1e-4, atol=1e-5 * scale)
        np.testing.assert_allclose(found.values["first"][name], alone[name][:9], rtol=1e-4, atol=1e-5 * scale)
        assert found.seconds[name] >= 0
    assert found.settings["knn"] == {"k": 50}


def test_the_training_features_are_read_few_times(relu_problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train, passes = relu_problem.train, []
    read = TrainingSet.training_blocks

    def spy(self: TrainingSet, *needs: str, **kwargs: Any) -> Any:
        passes.append(needs)
        return read(self, *needs, **kwargs)

    monkeypatch.setattr(TrainingSet, "training_blocks", spy)
    score_all(train, {"test": (relu_problem.queries, None)}, ["mds", "rmds", "residual", "dice", "fdbd", "nci"])
    assert passes == [("features",)] * 2
    passes.clear()
    score_all(train, {"test": (relu_problem.queries, None)}, ["knn", "nnguide", "relation"])
    assert passes == [("logits",), ("features", "logits")]


def test_scores_that_lack_something_are_skipped_and_named(problem: Any) -> None:
    found = score_all(TrainingSet(problem.x, problem.y), {"test": (problem.test, None)})
    assert set(found.values["test"]) == {"mds", "rmds", "mds++", "rmds++", "gmm", "knn", "cop", "corp"}
    assert (found.skipped["react"], found.skipped["msp"], found.skipped["mcm"]) == ("head", "logits", "text")
    assert set(found.skipped) | set(found.values["test"]) == set(scores())
    assert found.head is None
    found = score_all(TrainingSet(logits=problem.logits(problem.x)), {"a": (None, problem.logits(problem.test))})
    assert set(found.values["a"]) == {"msp", "maxlogit", "energy", "entropy", "gen", "klm"}


def test_scores_by_name_or_by_parameters(problem: Any) -> None:
    found = score_all(problem.train, {"test": (problem.queries, None)}, ["msp", KNN(3)])
    np.testing.assert_array_equal(found.values["test"]["knn"], KNN(3).fit(problem.train).score_samples(problem.queries))
    assert found.settings == {"msp": {}, "knn": {"k": 3}}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["kkn"], "there is no score 'kkn'; did you mean knn"),
        (["???"], "there is no score '\\?\\?\\?'; the scores are msp, temperature"),
        ([KNN(), KNN(3)], "each score must be asked for once; found knn more than once"),
        (["mcm"], "no score can be computed; they lack {'mcm': 'text'}"),
    ],
)
def test_bad_names_are_one_clear_error(names: Any, message: str, problem: Any) -> None:
    train = TrainingSet(problem.x, problem.y, head=problem.head)
    with pytest.raises(ValueError, match=message):
        score_all(train, {"test": (problem.queries, None)}, names)


def test_a_probes_head_is_named(problem: Any) -> None:
    head = type(problem.head)(problem.head.weight, problem.head.bias, "probe")
    found = score_all(TrainingSet(problem.x, problem.y, head=head), {"a": (problem.queries, None)}, [MSP()])
    assert found.head == "probe"


@pytest.mark.cuda
@pytest.mark.parametrize("name", scores())
def test_cuda_scores_the_same(name: str, problem: Any) -> None:
    train = problem.train
    other = TrainingSet(train.features, train.labels, head=train.head, text=train.text, device="cuda")
    expected = quick(name).fit(train).score_samples(problem.queries)
    found = quick(name).fit(other).score_samples(problem.queries)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).mean())
    assert torch.cuda.is_available()


def test_the_names_are_those_of_the_scores_in_their_order() -> None:
    assert tuple(_SCORES) == scores()
    assert [get(name).name for name in scores()] == [*scores()]
