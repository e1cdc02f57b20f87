"""What must and must not change the name of a result (A6)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from command_line import featurebank_
from probe_sets import clusters, write_set

from featurebank.pipelines.asking.answer import Answer
from featurebank.pipelines.asking.inputs import Rows
from featurebank.pipelines.asking.option import option, options_of
from featurebank.pipelines.asking.question import Question
from featurebank.pipelines.asking.register import find_question, forget, question_names
from featurebank.pipelines.asking.results import Computed, Results, Row
from featurebank.pipelines.questions.fewshot import FewShot
from featurebank.pipelines.questions.knn import KNN
from featurebank.pipelines.questions.linear import Linear
from featurebank.probes.ood.names import scores
from featurebank.probes.ood.registry import get
from featurebank.store import FeatureStore
from featurebank.store.fingerprint import fingerprint

CS = [1e-05, 3.162e-05, 0.0001, 0.0003162, 0.001, 0.003162, 0.01, 0.03162, 0.1, 0.3162, 1.0]
EVERY = {"output": "pooled", "seed": 0}
TOKENS = {"output": "tokens", "seed": 0}
TRAINED = {"learning_rate": 0.001, "weight_decay": 0.01, "epochs": 100}
DEFAULTS: list[tuple[str, int, dict[str, Any]]] = [
    ("attentive", 1, {**TOKENS, **TRAINED, "n_heads": 8}),
    ("dense", 2, {**TOKENS, "ignore_index": 255, "epochs": 30, "learning_rates": [1e-4, 1e-3, 1e-2]}),
    ("duplicates", 1, {**EVERY, "threshold": 0.98, "exact": False, "limit": 20}),
    ("fewshot", 3, {**EVERY, "draws": 5, "protocol": "logistic", "cs": CS}),
    ("knn", 2, {**EVERY, "k": [5, 10, 20, 50, 100, 200], "temperature": [0.02, 0.04, 0.07, 0.1, 0.2]}),
    ("linear", 2, {**EVERY, "protocol": "logistic", "cs": CS}),
    ("mlp", 1, {**EVERY, **TRAINED, "hidden": 512}),
    ("multilabel", 3, {**EVERY, "cs": CS, "missing": "ignore"}),
    ("ood", 4, {**EVERY, "resamples": 1000, "parameters": "a7a0ade5"}),
    ("regression", 2, EVERY),
    ("retrieve", 2, {**EVERY, "protocol": "labels"}),
    ("shift", 2, {**EVERY, "head": "probe", "protocol": "logistic", "cs": CS}),
    ("zeroshot", 2, EVERY),
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plain(Question):
    name: ClassVar[str] = "plain"

    depth: int = option(3)
    device: str = option("cpu", hashed=False)

    def run(self, rows: Rows) -> Answer:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class WithNewOption(Plain):
    width: int | None = option(None)


@dataclass(frozen=True, kw_only=True)
class Mended(Plain):
    version: ClassVar[int] = 2


forget("plain")  # other tests ask all questions that there are


def name_of(folder: Path, asked: Question, inputs: tuple[str, ...] = ("ab",)) -> str:
    row = Row(backbone="net", set="pets/test", question=asked.name, metric="accuracy", value=0.5)
    computed = Computed(rows=[row])
    return Results(folder).once(asked.name, asked.key(), inputs, lambda: computed, version=asked.version).name


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (Plain(depth=3), True),
        (Plain(device="cuda"), True),
        (WithNewOption(), True),
        (WithNewOption(width=4), False),
        (Plain(depth=4), False),
        (Plain(seed=1), False),
        (Plain(output="cls"), False),
        (Mended(), False),
    ],
)
def test_a6_what_names_a_result(tmp_path: Path, other: Question, same: bool) -> None:
    assert (name_of(tmp_path, other) == name_of(tmp_path, Plain())) is same


def test_a6_other_features_are_another_result(tmp_path: Path) -> None:
    assert name_of(tmp_path, Plain(), ("ac",)) != name_of(tmp_path, Plain())


def test_a6_what_is_shown_has_every_option_also_those_at_their_default() -> None:
    assert WithNewOption().key() == {}
    assert WithNewOption().settings() == {"output": "pooled", "seed": 0, "depth": 3, "width": None}


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        (Linear(), {}),
        (Linear(cs=(1.0,), device="cuda"), {"cs": [1.0]}),
        (KNN(), {}),
        (FewShot(), {"shots": [10], "fraction": [0.01, 0.1]}),
    ],
)
def test_a6_the_key_is_what_is_not_at_its_default(asked: Question, key: Mapping[str, Any]) -> None:
    assert asked.key() == key


def defaults(name: str) -> tuple[int, dict[str, Any]]:
    """A question's version, and the defaults that its key leaves out."""
    kind = find_question(name)
    own = {option: field.default for option, (field, about) in options_of(kind).items() if about.hashed}
    kept = {name: of for name, of in own.items() if of not in (dataclasses.MISSING, None, (), "")}
    plain = {name: list(of) if isinstance(of, tuple) else of for name, of in kept.items()}
    if name == "ood":
        plain["parameters"] = fingerprint({name: get(name)().get_params() for name in scores()})[:8]
    return kind.version, plain


@pytest.mark.parametrize(("name", "version", "pinned"), DEFAULTS)
def test_a6_a_changed_default_takes_another_version(name: str, version: int, pinned: Mapping[str, Any]) -> None:
    """Where this fails, a default has changed: give the question its next `version`, and note both here."""
    assert defaults(name) == (version, pinned)


def test_a6_every_question_is_noted() -> None:
    assert [name for name, _, _ in DEFAULTS] == sorted(question_names())


def test_a6_sets_of_one_fingerprint_with_other_records_give_other_results(tmp_path: Path) -> None:
    """Columns, class names and failed rows are in no fingerprint: a set is deleted and made again with them mended."""
    values, labels = clusters(60, noise=0.9)
    store = FeatureStore(tmp_path)

    def make(**records: Any) -> dict[str, Any]:
        for place in ("pets/train", "pets/test"):
            for entry in store.ls(place):
                entry.path.unlink()
            write_set(store, place, "net", values, labels, **(records if place == "pets/test" else {}))
        done = featurebank_("probe", "pets", "--task", "knn", "--json", "--store", store.root)
        (one,) = done.json["answers"]
        return {"known": one["known"], "result": one["results"][0]}

    names = [make()["result"]]
    assert make() == {"known": True, "result": names[0]}
    place = np.array(["north", "south"])
    changes: list[dict[str, Any]] = [
        {"columns": {"place": place[labels % 2]}},
        {"columns": {"place": place[1 - labels % 2]}},
        {"columns": {"site": place[labels % 2]}},
        {"failed": [4]},
    ]
    for change in changes:
        found = make(**change)
        assert found["known"] is False
        names.append(found["result"])
    assert len({*names}) == len(names)
