"""A real cluster of processes: the same bytes from one worker, from four, and from four of which two are killed."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from runs import RESNET, VIT, make_images
from sealed_arrays import sealed_arrays

from featurebank.extract.progress import Snapshot
from featurebank.pipelines.config import ConfigError, RunConfig
from featurebank.pipelines.features import Report, run_features
from featurebank.pipelines.scale.start import started

IMAGES = 256

needs_dask = pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs the extra 'scale'")


def config(folder: Path, store: str, **extraction: Any) -> RunConfig:
    settings = {"device": "cpu", "compile": "never", "precision": "float32", "batch_size": 8, "workers": 1}
    return RunConfig.model_validate(
        {
            "store": folder / store,
            "backbones": [VIT, {"name": RESNET, "outputs": ["pooled", "stages.3.mean"]}],
            "datasets": [{"name": f"folder:{folder / 'pictures'}", "splits": ["train"]}],
            "extraction": settings | extraction,
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scale")
    make_images(root / "pictures" / "train", IMAGES)
    next((root / "pictures").rglob("00007.png")).write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, bytes]:
    """What one process makes without a cluster."""
    assert sealed(run_features(config(folder, "alone")))
    return sealed_arrays(folder / "alone")


def sealed(report: Report) -> bool:
    return all((o.state, o.computed, len(o.failed)) == ("sealed", IMAGES, 1) for o in report.outcomes)


@needs_dask
@pytest.mark.slow
def test_one_worker_four_and_two_killed_of_four_give_the_same_bytes(
    folder: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sealed(run_features(config(folder, "one"), workers=1))
    assert sealed(run_features(config(folder, "four"), workers=4))
    victims = kill_two(monkeypatch)
    seen: list[Snapshot] = []

    def observe(snapshot: Snapshot) -> None:
        seen.append(snapshot)
        victims(snapshot)

    assert sealed(run_features(config(folder, "killed"), workers=4, observer=observe))
    assert victims.killed == 2
    assert max(job.done for snapshot in seen for job in snapshot.jobs) == IMAGES
    for store in ("one", "four", "killed"):
        assert sealed_arrays(folder / store) == expected, store


@needs_dask
@pytest.mark.slow
def test_a_cluster_that_is_there_already_is_used_and_left_running(folder: Path, expected: dict[str, bytes]) -> None:
    with started(2, "cpu") as client:
        address = client.cluster.scheduler_address
        assert sealed(run_features(config(folder, "there"), scheduler=address))
        assert len(client.nthreads()) == 2
    assert sealed_arrays(folder / "there") == expected


class Victims:
    """Kills two workers once some images have gone through."""

    def __init__(self) -> None:
        self.killed = 0
        self.pids: list[int] = []

    def __call__(self, snapshot: Snapshot) -> None:
        done = sum(job.done for job in snapshot.jobs)
        if self.killed == 0 and done > 0 and snapshot.note == "":
            for pid in self.pids[:2]:
                os.kill(pid, signal.SIGKILL)
                self.killed += 1


def kill_two(monkeypatch: pytest.MonkeyPatch) -> Victims:
    victims = Victims()
    from featurebank.pipelines.scale.cluster import Cluster

    real = Cluster.__enter__

    def enter(self: Cluster) -> Cluster:
        victims.pids = sorted(self._client.run(os.getpid).values())
        return real(self)

    monkeypatch.setattr(Cluster, "__enter__", enter)
    return victims


@needs_dask
def test_what_cannot_be_had_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="--workers must be at least 1, got 0"):
        run_features(config(folder, "none"), workers=0)
    with pytest.raises(ConfigError, match="give one of them"):
        run_features(config(folder, "none"), workers=2, scheduler="tcp://localhost:1")
    assert not (folder / "none").exists()


def test_without_dask_the_error_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'featurebank\[scale\]'"):
        run_features(config(folder, "none"), workers=2)
