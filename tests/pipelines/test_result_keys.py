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

from featurebank.pipelines.ood.task import OODTask
from featurebank.pipelines.probing.classification import FewShotTask, KNNTask, LinearTask
from featurebank.pipelines.probing.inputs import Inputs
from featurebank.pipelines.probing.run import TASKS
from featurebank.pipelines.probing.scores import Answer
from featurebank.pipelines.probing.task import Task
from featurebank.pipelines.results import Computed, Results, Row
from featurebank.pipelines.retrieving.task import RetrieveTask
from featurebank.probes.ood.registry import get, scores
from featurebank.store import FeatureStore
from featurebank.store.fingerprint import fingerprint

DEFAULTS: list[tuple[str, int, dict[str, Any]]] = [
    (
        "linear",
        2,
        {
            "output": "pooled",
            "seed": 0,
            "protocol": "logistic",
            "cs": (1e-05, 3.162e-05, 0.0001, 0.0003162, 0.001, 0.003162, 0.01, 0.03162, 0.1, 0.3162, 1.0),
            "device": "cpu",
        },
    ),
    (
        "knn",
        2,
        {
            "output": "pooled",
            "seed": 0,
            "k": (5, 10, 20, 50, 100, 200),
            "temperature": (0.02, 0.04, 0.07, 0.1, 0.2),
            "device": "cpu",
        },
    ),
    (
        "fewshot",
        2,
        {
            "output": "pooled",
            "seed": 0,
            "draws": 5,
            "protocol": "logistic",
            "cs": (1e-05, 3.162e-05, 0.0001, 0.0003162, 0.001, 0.003162, 0.01, 0.03162, 0.1, 0.3162, 1.0),
            "device": "cpu",
        },
    ),
    ("zeroshot", 2, {"output": "pooled", "seed": 0, "text": ""}),
    (
        "multilabel",
        2,
        {
            "output": "pooled",
            "seed": 0,
            "cs": (1e-05, 3.162e-05, 0.0001, 0.0003162, 0.001, 0.003162, 0.01, 0.03162, 0.1, 0.3162, 1.0),
            "missing": "ignore",
            "device": "cpu",
        },
    ),
    (
        "dense",
        2,
        {
            "output": "tokens",
            "seed": 0,
            "ignore_index": 255,
            "epochs": 30,
            "learning_rates": (0.0001, 0.001, 0.01),
            "device": "cpu",
        },
    ),
    ("regression", 2, {"output": "pooled", "seed": 0}),
    (
        "shift",
        2,
        {
            "output": "pooled",
            "seed": 0,
            "own_head": False,
            "protocol": "logistic",
            "cs": (1e-05, 3.162e-05, 0.0001, 0.0003162, 0.001, 0.003162, 0.01, 0.03162, 0.1, 0.3162, 1.0),
            "device": "cpu",
        },
    ),
    ("retrieve", 2, {"output": "pooled", "seed": 0, "itself": True, "protocol": "labels"}),
    ("ood", 2, {"output": "pooled", "seed": 0, "draws": 1000, "device": "cpu", "parameters": "44c2e60e"}),
]


@dataclass(frozen=True, kw_only=True)
class Plain(Task):
    name: ClassVar[str] = "plain"
    unhashed: ClassVar[tuple[str, ...]] = ("device",)

    depth: int = 3
    device: str = "cpu"

    def run(self, inputs: Inputs) -> Answer:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class WithNewOption(Plain):
    width: int | None = None


@dataclass(frozen=True, kw_only=True)
class Mended(Plain):
    version: ClassVar[int] = 2


def name_of(folder: Path, task: Task, inputs: tuple[str, ...] = ("ab",)) -> str:
    row = Row(backbone="net", dataset="pets/test", task=task.name, metric="accuracy", value=0.5)
    return Results(folder).once(task.name, task.key(), inputs, lambda: Computed(rows=[row]), version=task.version).name


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
def test_a6_what_names_a_result(tmp_path: Path, other: Task, same: bool) -> None:
    assert (name_of(tmp_path, other) == name_of(tmp_path, Plain())) is same


def test_a6_other_features_are_another_result(tmp_path: Path) -> None:
    assert name_of(tmp_path, Plain(), ("ac",)) != name_of(tmp_path, Plain())


def test_a6_what_is_shown_has_every_option_also_those_at_their_default() -> None:
    assert WithNewOption().key() == {}
    assert WithNewOption().settings() == {"output": "pooled", "seed": 0, "depth": 3, "width": None}


@pytest.mark.parametrize(
    ("task", "key"),
    [
        (LinearTask(), {}),
        (LinearTask(cs=(1.0,), device="cuda"), {"cs": [1.0]}),
        (KNNTask(), {}),
        (FewShotTask(), {"shots": [10], "fraction": [0.01, 0.1]}),
        (RetrieveTask(), {}),
        (RetrieveTask(itself=False, indexes=Path("x")), {"itself": False}),
        (OODTask(on=("far/test",), scores=("knn",)), {"on": ["far/test"], "scores": ["knn"]}),
    ],
)
def test_a6_the_key_is_what_is_not_at_its_default(task: Task, key: Mapping[str, Any]) -> None:
    assert task.key() == key


def defaults() -> dict[str, tuple[int, dict[str, Any]]]:
    """Each question's version, and the defaults that its key leaves out."""
    kinds: dict[str, type[Task]] = {**TASKS, "retrieve": RetrieveTask, "ood": OODTask}
    found: dict[str, tuple[int, dict[str, Any]]] = {
        name: (
            kind.version,
            {f.name: f.default for f in dataclasses.fields(kind) if f.default not in (dataclasses.MISSING, None, ())},
        )
        for name, kind in kinds.items()
    }
    found["ood"][1]["parameters"] = fingerprint({name: get(name)().get_params() for name in scores()})[:8]
    return found


@pytest.mark.parametrize(("task", "version", "pinned"), DEFAULTS)
def test_a6_a_changed_default_takes_another_version(task: str, version: int, pinned: Mapping[str, Any]) -> None:
    """Where this fails, a default has changed: give the question its next `version`, and note both here."""
    found, values = defaults()[task]
    assert (found, {name: values.get(name) for name in pinned}) == (version, pinned)


def test_a6_every_default_is_noted() -> None:
    assert {task: {*pinned} for task, _, pinned in DEFAULTS} == {task: {*of} for task, (_, of) in defaults().items()}


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
        (one,) = done.json["probes"]
        return {"known": one["known"], "result": one["result"]}

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
