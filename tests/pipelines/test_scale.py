"""A real cluster of processes: the same bytes from one worker, from four, and from four of which two are killed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from deadly import DeadlySplit
from racing import small_chunks
from runs import RESNET, VIT, make_images
from sealed_arrays import sealed_arrays

from featurebank.extract import datasets, engine
from featurebank.extract.progress import Snapshot
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.extracting.config import RunConfig
from featurebank.pipelines.extracting.run import Report, run_features
from featurebank.pipelines.extracting.scale.start import _forked_workers, connected, started

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
    from distributed import Client, LocalCluster

    settings: dict[str, Any] = {"memory_limit": 0, "dashboard_address": ":0"}
    with (
        _forked_workers(),
        LocalCluster(n_workers=2, threads_per_worker=1, **settings) as cluster,  # type: ignore[no-untyped-call]
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        address = cluster.scheduler_address
        assert sealed(run_features(config(folder, "there"), scheduler=address))
        assert len(client.nthreads()) == 2
    assert sealed_arrays(folder / "there") == expected


@needs_dask
@pytest.mark.slow
def test_a_piece_that_ends_every_worker_ends_the_run_and_the_next_goes_on(
    folder: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from featurebank.pipelines.extracting.scale.cluster import ClusterError

    fuse, open_split = tmp_path / "fuse", datasets.open_split
    fuse.touch()
    monkeypatch.setattr(datasets, "open_split", lambda spec: DeadlySplit(open_split(spec), IMAGES - 3, fuse))
    monkeypatch.setattr(engine, "FeatureSetWriter", small_chunks())
    with pytest.raises(ClusterError, match=r"rows 248 and following: expected a worker that lives"):
        run_features(config(folder, "deadly"), workers=2)
    assert not list((folder / "deadly").rglob("*.h5"))
    fuse.unlink()
    report = run_features(config(folder, "deadly"), workers=2)
    assert [o.state for o in report.outcomes] == ["sealed", "sealed"]
    assert 0 < min(o.computed for o in report.outcomes) <= IMAGES // 2
    assert sealed_arrays(folder / "deadly") == expected


@needs_dask
def test_workers_are_forks_of_a_process_with_one_thread_and_have_the_variables_of_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with started(1, "cpu"):
        server = vars(forkserver._forkserver)["_forkserver_pid"]
        assert len(list(Path(f"/proc/{server}/task").iterdir())) == 1
    monkeypatch.setenv("FEATUREBANK_TEST", "now")
    with started(2, "cpu") as client:
        assert set(client.run(os.getenv, "FEATUREBANK_TEST").values()) == {"now"}
        assert set(client.run(os.getppid).values()) == {server}


@needs_dask
def test_c4_nobody_else_reaches_a_local_cluster_and_nothing_else_listens() -> None:
    with started(2, "cpu") as client:
        address = client.cluster.scheduler_address
        assert address.startswith("tls://127.0.0.1:")
        place = address.removeprefix("tls://").split(":")
        for stranger in (plain_stranger, stranger_with_tls):
            assert b"compression" not in stranger(place[0], int(place[1])), "Dask began to talk"
        nannies = {worker["nanny"] for worker in client.scheduler_info()["workers"].values()}
        speaking = {address, *client.scheduler_info()["workers"], *nannies}
        assert all(place.startswith("tls://") for place in speaking)
        pids = {os.getpid(), *client.run(os.getpid).values()}
        assert listening(pids) == {int(place.rpartition(":")[2]) for place in speaking}
        assert 8787 not in listening(pids)


def plain_stranger(host: str, port: int) -> bytes:
    """What a server says to someone without TLS; Dask without it greets everyone."""
    with socket.create_connection((host, port), timeout=10) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"\0" * 64)
        return connection.recv(1000)
    return b""


def stranger_with_tls(host: str, port: int) -> bytes:
    """What it says to someone without the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        contextlib.suppress(ssl.SSLError, ConnectionError),
        socket.create_connection((host, port), timeout=10) as connection,
        context.wrap_socket(connection) as secured,
    ):
        return secured.recv(1000)
    return b""


@needs_dask
def test_c4_tls_without_certificates_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise TypeError("TLS expects a `ssl_context` argument")

    monkeypatch.setattr("distributed.Client", refuse)
    with pytest.raises(ConfigError, match="tls:// needs certificates"), connected("tls://localhost:1"):
        pass


def listening(pids: set[int]) -> set[int]:
    """The TCP ports that some processes listen on."""
    sockets = set()
    for pid in pids:
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                sockets.add(str(handle.readlink()))
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found


@needs_dask
def test_the_script_for_slurm_starts_a_run_on_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its jobs are processes of this machine here."""
    from distributed import LocalCluster

    class SLURMCluster(LocalCluster):
        def __init__(
            self, *, queue: str, cores: int, processes: int, memory: str, walltime: str, job_extra_directives: list[str]
        ) -> None:
            assert (queue, memory, walltime, job_extra_directives) == ("gpu", "64GB", "08:00:00", ["--gres=gpu:1"])
            settings: dict[str, Any] = {"processes": False, "memory_limit": 0, "dashboard_address": None}
            super().__init__(n_workers=0, threads_per_worker=cores // processes, **settings)  # type: ignore[no-untyped-call]

        def scale(self, n: int = 0, *, jobs: int | None = None) -> None:  # type: ignore[override]
            super().scale(n if jobs is None else jobs)  # type: ignore[no-untyped-call]

    real, commands = subprocess.run, []

    def run(command: list[str], *, check: bool = False, **settings: Any) -> subprocess.CompletedProcess[bytes]:
        if command[0] != "featurebank":  # Dask asks the system for its name.
            return real(command, check=check, **settings)
        commands.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setitem(sys.modules, "dask_jobqueue", SimpleNamespace(SLURMCluster=SLURMCluster))
    monkeypatch.setattr(subprocess, "run", run)
    page = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with pytest.raises(SystemExit, match="3"):
        exec(script, {})  # noqa: S102 - the page is ours
    ((*verb, address),) = commands
    assert verb == ["featurebank", "features", "config.yaml", "--scheduler"]
    assert "://" in address


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
    from featurebank.pipelines.extracting.scale.cluster import Cluster

    real = Cluster.__enter__

    def enter(self: Cluster) -> Cluster:
        victims.pids = sorted(self._client.run(os.getpid).values())
        return real(self)

    monkeypatch.setattr(Cluster, "__enter__", enter)
    return victims


@needs_dask
@pytest.mark.slow
def test_workers_share_a_pixel_cache(folder: Path, expected: dict[str, bytes]) -> None:
    said: list[str] = []
    for store in ("filling", "filled"):
        settings = config(folder, store, pixel_cache=folder / "pixels")
        assert sealed(run_features(settings, workers=2, say=said.append))
        assert sealed_arrays(folder / store) == expected, store
    taken = [line for line in said if "pixel cache, their files not read" in line]
    assert len(taken) == 1
    assert taken[0].startswith(f"{IMAGES - 1} images")


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
