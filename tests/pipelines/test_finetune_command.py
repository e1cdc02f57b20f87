"""``featurebank finetune``: from a configuration to numbers and a backbone, and nothing done twice."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import featurebank_
from tuned_runs import NETWORK, configuration, pictures

from featurebank.extract import backbones
from featurebank.pipelines.asking.results import Results
from featurebank.pipelines.extracting.config import RunConfig
from featurebank.pipelines.extracting.jobs import jobs_of, workshop_of
from featurebank.pipelines.jobs.finetune.job import Job
from featurebank.pipelines.jobs.finetune.question import Finetune
from featurebank.pipelines.jobs.finetune.recipe import load_recipe
from featurebank.pipelines.jobs.finetune.sets import sets_of
from featurebank.pipelines.jobs.finetune.task import logits_of
from featurebank.pipelines.training.state import claimed
from featurebank.pipelines.training.task import TrainingError
from featurebank.pipelines.training.trial import Numerics
from featurebank.probes.linear import fit_linear
from featurebank.store import FeatureSet, FeatureStore


@dataclass(frozen=True)
class Run:
    """A configuration, and what its run printed."""

    config: Path
    store: Path
    found: Any


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("tuned")
    pictures(folder / "data" / "train", 75, 0)
    pictures(folder / "data" / "test", 30, 1)
    config = configuration(folder, seeds=[0, 1], wise=[0.0, 1.0], attacks=["pgd:linf:8/255:2"])
    run = featurebank_("finetune", config, "--json", "--html", folder / "page.html")
    assert run.code == 0, run.err
    return Run(config, folder / "store", run.json)


def rows(found: Any, **wanted: Any) -> list[dict[str, Any]]:
    (answer,) = found["answers"]
    return [row for row in answer["rows"] if all(row[name] == value for name, value in wanted.items())]


def test_probe_tuned_seeds_shares_and_attacks_are_rows_of_one_table(done: Run) -> None:
    (tuned,) = rows(done.found, score="tuned", metric="accuracy", group="")
    each = [row["value"] for seed in (0, 1) for row in rows(done.found, group=f"seed {seed}")]
    assert tuned["value"] == pytest.approx(np.mean(each))
    assert tuned["interval"] == "2 seeds, Student"
    assert tuned["primary"]
    (probe,) = rows(done.found, score="probe")
    (start,) = rows(done.found, score="alpha 0")
    (end,) = rows(done.found, score="alpha 1")
    assert start["value"] == probe["value"], "the probe's head on the frozen backbone is the probe"
    assert end["value"] == tuned["value"]
    (robust,) = rows(done.found, metric="robust_accuracy")
    assert robust["value"] <= tuned["value"]
    notes = " ".join(done.found["answers"][0]["notes"])
    assert "15 rows, a stratified fifth, are held out" in notes


def test_the_page_shows_curves(done: Run) -> None:
    page = (done.config.parent / "page.html").read_text()
    assert page.count('aria-label="loss by epoch"') == 1
    assert "training loss" in page


def test_a_second_run_trains_nothing(done: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.store.rglob("*")}
    again = featurebank_("finetune", done.config, "--json")
    assert again.json["answers"][0]["known"]
    assert {path: path.stat().st_mtime_ns for path in done.store.rglob("*")} == before


def test_another_seed_trains_that_seed_alone(done: Run) -> None:
    runs = set((done.store / "tuned").iterdir())
    stamps = {path: (path / "weights.safetensors").stat().st_mtime_ns for path in runs}
    config = configuration(done.config.parent, seeds=[1, 2])
    assert featurebank_("finetune", config).code == 0
    assert len(set((done.store / "tuned").iterdir()) - runs) == 1
    assert {path: (path / "weights.safetensors").stat().st_mtime_ns for path in runs} == stamps


def test_the_tuned_network_is_a_backbone_whose_own_head_gives_the_predictions(done: Run) -> None:
    name = done.found["answers"][0]["chosen"][""]["tuned"]["0"]
    spec = backbones.resolve(f"tuned:{done.store / 'tuned' / name}", outputs=("pooled", "logits"))
    config = json.loads(done.config.read_text())
    config |= {"backbones": [f"tuned:{done.store / 'tuned' / name}"], "finetune": []}
    path = done.config.with_name("features.yaml")
    path.write_text(json.dumps(config))
    assert featurebank_("features", path).code == 0
    (entry,) = [e for e in FeatureStore(done.store).ls() if e.backbone == spec.name and e.split == "test"]
    row = next(row for row in Results(done.store).rows() if row.question == "finetune" and row.group == "seed 0")
    kept = Results(done.store).arrays(row)
    with FeatureSet(entry.path) as feature_set:
        assert feature_set.key["backbone"]["weights"] == spec.weights.identity
        assert feature_set.head is not None
        weight, bias = feature_set.head
        predicted = (feature_set["pooled"] @ weight.T + bias).argmax(1)
        assert (predicted[kept["rows"]] == kept["predictions"]).all()


def job_of(config: Path, **options: Any) -> Job:
    """The job that a configuration means, its sets as the question reads them."""
    from featurebank.pipelines.asking.run import read_case

    run = RunConfig.read(config)
    store = FeatureStore(run.store)
    ((question, selection),) = jobs_of(run, store, "finetune")
    assert isinstance(question, Finetune)
    given = read_case(question, selection.cases[0], workshop_of(run, print))
    sets = sets_of(given, fraction=1.0, shots=None, seed=0)
    validation = (sets.validation.features, sets.validation.labels)
    with FeatureSet(sets.train.path) as feature_set:
        spec = given.workshop.spec_of(feature_set)
    return Job(
        spec=spec,
        recipe=load_recipe("lp_ft", epochs=1, **options),
        sets=sets,
        probe=fit_linear(sets.train.features, sets.train.labels, validation=validation),
        workshop=given.workshop,
        precision="float32",
        cached=False,
        flips=False,
        score=dict,
    )


def test_at_step_0_the_network_predicts_what_the_probe_does(done: Run) -> None:
    job = job_of(done.config)
    network = job.network(0)
    logits = job.logits(network, job.sets.test, Numerics())
    assert job.probe is not None
    expected = job.probe.logits(job.sets.test.features)
    shift = (logits - expected).mean(1, keepdims=True)
    assert np.abs(logits - expected - shift).max() < 1e-3 * np.abs(expected).max()
    assert (logits.argmax(1) == expected.argmax(1)).all()


def test_a_network_that_does_not_give_the_cached_features_is_not_trained(done: Run) -> None:
    job = job_of(done.config)
    network = job.network(0)
    with torch.no_grad():
        next(network.network.parameters()).mul_(-1)
    with pytest.raises(TrainingError, match=r"must give the features that are cached .* found -?0\.\d+"):
        job._check_features(network)


def test_what_is_cached_is_what_the_frozen_blocks_give(done: Run) -> None:
    from featurebank.pipelines.jobs.finetune.maps import FromCut, maps_of
    from featurebank.pipelines.jobs.finetune.task import MapRows

    job = job_of(done.config, frozen_blocks=2)
    network = job.network(0)
    model = FromCut(network, 2)
    maps = maps_of(job.spec, job.sets.test, model.cut, job.workshop)
    rows_ = MapRows(views=[maps], rows=job.sets.test.rows, seed=0)
    assert np.allclose(logits_of(model, rows_, Numerics()), job.logits(network, job.sets.test, Numerics()), atol=1e-3)
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if name[6:] in trained)
    assert featurebank_("ls", "--store", job.workshop.root).code == 0


def test_cached_blocks_are_trained_from_and_frozen_ones_stay(done: Run) -> None:
    config = configuration(done.config.parent, cached=True, flips=True, frozen_blocks=2)
    answer = featurebank_("finetune", config, "--json").json["answers"][0]
    name = answer["chosen"][""]["tuned"]["0"]
    from safetensors.torch import load_file

    tuned = load_file(done.store / "tuned" / name / "weights.safetensors")
    job = job_of(config, frozen_blocks=2)
    start = job.network(0)
    frozen = {name for name, parameter in start.named_parameters() if not parameter.requires_grad}
    for key, value in start.state_dict().items():
        if key in frozen or key.endswith(("running_mean", "running_var")):
            assert torch.equal(value, tuned[key]), key
    assert not torch.equal(start.head.weight, tuned["head.weight"])


def test_a_run_is_trained_by_one_process_at_a_time_and_what_that_one_leaves_behind_keeps_nobody_out(
    tmp_path: Path,
) -> None:
    def train() -> None:
        with claimed(tmp_path):
            order.append("second")

    order: list[str] = []
    second = threading.Thread(target=train)
    with claimed(tmp_path):
        second.start()
        orphan = subprocess_that_waits()
        second.join(0.1)
        order.append("first")
    second.join(10)
    assert order == ["first", "second"]
    os.kill(orphan, signal.SIGKILL)
    os.waitpid(orphan, 0)


def subprocess_that_waits() -> int:
    """A fork, as the processes that read images are."""
    if (child := os.fork()) == 0:
        signal.pause()
    return child


def test_without_a_configuration_there_is_nowhere_to_work(done: Run) -> None:
    from featurebank.pipelines.asking.roles import select
    from featurebank.pipelines.asking.run import ask

    store, question = FeatureStore(done.store), Finetune(epochs=1)
    report = ask(store, [(question, select(store, question, ["toy"], backbones=[NETWORK]))])
    assert "featurebank finetune CONFIG" in report.asked[0].error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"recipe": "lpft"}, "did you mean 'lp_ft'"),
        ({"epoch": 3}, "no option of finetune"),
        ({"cached": True}, "needs blocks that stay"),
        ({"flips": True}, "flips come with cached"),
        ({"seeds": [0, 0]}, "different numbers"),
        ({"attacks": ["fgsm"]}, "must be like pgd:linf:1/255"),
        ({"wise": [2.0]}, "between 0 and 1"),
        ({"fraction": 0.0}, "label_fraction"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_done(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    recipe = {"recipe": options.pop("recipe")} if "recipe" in options else {}
    config = json.loads(configuration(tmp_path, **options).read_text())
    config["finetune"][0] |= recipe
    path = tmp_path / "other.yaml"
    path.write_text(json.dumps(config))
    refused = featurebank_("finetune", path)
    assert refused.code == 2
    assert said in " ".join(refused.err.split())
    assert not (tmp_path / "store").exists()
