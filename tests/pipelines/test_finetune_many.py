"""One fine-tuning in two processes, and several of them on two workers."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import PATIENCE, Done, featurebank_
from tuned_runs import configuration, pictures

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "featurebank")
ROW_ALONE = 59  # of 60 rows: the last batch has one, fewer than there are processes

needs_dask = pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs the extra 'scale'")


def torchrun(*arguments: str | Path) -> Done:
    words = [sys.executable, *TORCHRUN, *map(str, arguments)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=PATIENCE)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with data, features and a configuration, and what one process answers."""
    folder = tmp_path_factory.mktemp("many")
    pictures(folder / "data" / "train", 75, 0)
    pictures(folder / "data" / "test", 30, 1)
    done = featurebank_("finetune", configuration(folder, batch_size=ROW_ALONE), "--json")
    assert done.code == 0, done.err
    return folder, done.json["answers"][0]


def values(answer: Any) -> dict[tuple[str, str], float]:
    return {(row["score"], row["metric"]): row["value"] for row in answer["rows"]}


def test_two_processes_tune_as_one_and_the_first_alone_writes_and_talks(one: tuple[Path, Any], tmp_path: Path) -> None:
    folder, alone = one
    shutil.copytree(folder / "data", tmp_path / "data")
    done = torchrun("finetune", configuration(tmp_path, batch_size=ROW_ALONE), "--json")
    assert done.code == 0, done.err
    (together,) = done.json["answers"]
    assert not together["known"]
    history, expected = (answer["chosen"][""]["history"]["0"] for answer in (together, alone))
    assert [epoch["loss"] for epoch in history] == pytest.approx([epoch["loss"] for epoch in expected], abs=1e-5)
    assert values(together) == pytest.approx(values(alone), abs=1e-5)
    assert done.err.count("1 of 1: finetune of") == 1
    assert len(list((tmp_path / "store" / "results" / "finetune").glob("*.json"))) == 1
    assert not list((tmp_path / "store" / "tuned").rglob("*checkpoint*"))


def test_what_fails_in_one_of_two_processes_ends_both_with_one_message(one: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = one
    shutil.copytree(folder / "store", tmp_path / "store")
    shutil.copytree(folder / "data", tmp_path / "data")
    next((tmp_path / "data" / "test").rglob("*.png")).write_bytes(b"no image")  # each process scores its part
    done = torchrun("finetune", configuration(tmp_path, batch_size=ROW_ALONE, wise=[0.0]))
    assert done.code == 1
    assert done.err.count("error:") == 1, done.err
    assert done.err.count("must be readable") == 1


@needs_dask
def test_jobs_on_two_workers_answer_as_in_one_process_and_one_that_fails_is_its_fault_alone(
    one: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, _ = one
    shutil.copytree(folder / "store", tmp_path / "store")
    config = json.loads(configuration(folder, batch_size=32).read_text())
    first, options = config["finetune"][0], config["finetune"][0]["options"]
    too_many = options | {"frozen_blocks": 99}
    config["finetune"] = [first, first | {"options": options | {"epochs": 1}}, first | {"options": too_many}]
    found = []
    for name, more in ((str(folder / "store"), ()), (str(tmp_path / "store"), ("--workers", "2"))):
        (tmp_path / "run.yaml").write_text(json.dumps(config | {"store": name}))
        done = featurebank_("finetune", tmp_path / "run.yaml", "--json", *more)
        assert done.code == 1, done.err
        found.append(done.json["answers"])
    for alone, on_workers in zip(*found, strict=True):
        assert values(on_workers) == pytest.approx(values(alone), abs=1e-5)
        assert on_workers["error"] == alone["error"]
    assert [bool(answer["error"]) for answer in found[1]] == [False, False, True]
    assert "freeze must be at most" in found[1][2]["error"]
    assert (tmp_path / "store" / "results" / "results.csv").read_text().count(",tuned,") > 2
