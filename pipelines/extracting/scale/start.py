"""A cluster to run on: one of this machine's processes, or one that is there already."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from featurebank.pipelines.errors import ConfigError

__all__ = ["check_request", "connected", "started"]

CONNECT_SECONDS = 30
SETTINGS = {
    "distributed.worker.multiprocessing-method": "forkserver",
    # What these cost, a tenth of a core with two workers, serves a dashboard that is not there.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
}
PRELOADED = ["featurebank.pipelines.extracting.scale.worker", "featurebank.pipelines.extracting.scale.private", "timm"]
"""What nearly every worker needs and what takes seconds to import."""


def check_request(workers: int | None, scheduler: str | None) -> None:
    """Refuses what cannot be had before anything is done.

    Raises:
        ConfigError: both are given, fewer than one worker, or Dask is not installed.
    """
    if workers is None and scheduler is None:
        return
    if workers is not None and scheduler is not None:
        raise ConfigError("--workers starts a cluster of this machine, --scheduler uses another one; give one of them")
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {workers}")
    needed = ("distributed", "cryptography") if workers is not None else ("distributed",)
    if any(importlib.util.find_spec(name) is None for name in needed):
        raise ConfigError(
            "--workers and --scheduler need Dask, and cryptography to keep other users of the machine out; install "
            "them with: pip install 'featurebank[scale]'"
        )


@contextmanager
def started(workers: int, device: str) -> Iterator[Any]:
    """A client of a new cluster of processes on this machine, which nobody else can reach; all end with it.

    Raises:
        ConfigError: the device is a GPU: its processes are started by dask-cuda.
    """
    if device.startswith("cuda"):
        raise ConfigError(
            "--workers starts processes for the CPU; for one process per GPU start `dask scheduler` and "
            "`dask cuda worker`, and give --scheduler their address; or set extraction.device: cpu"
        )
    from distributed import Client

    from featurebank.pipelines.extracting.scale.private import private_cluster

    settings: dict[str, Any] = {
        "memory_limit": 0,
        "silence_logs": logging.ERROR,
        "env": dict(os.environ),  # a fork has the variables that its server was started with
    }
    with (
        _forked_workers(),
        private_cluster(workers, **settings) as cluster,
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        yield client


@contextmanager
def _forked_workers() -> Iterator[None]:
    """Workers are forks of one process that has only imported what they need: it has one thread and no GPU context.

    They start in a fraction of a second, also in the place of one that died.
    """
    import dask
    from distributed.utils import get_mp_context

    with dask.config.set(SETTINGS):
        context = get_mp_context()  # type: ignore[no-untyped-call]
        context.set_forkserver_preload(PRELOADED)
        yield


@contextmanager
def connected(scheduler: str) -> Iterator[Any]:
    """A client of the cluster at an address, once it has a worker.

    Raises:
        ConfigError: nothing answers there, or it has no workers.
    """
    from distributed import Client

    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS)  # type: ignore[no-untyped-call]
    except TypeError as error:
        raise ConfigError(
            f"--scheduler {scheduler}: tls:// needs certificates, found none in Dask's configuration; docs/clusters.md "
            f"says how to give them: {error}"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--scheduler {scheduler}: expected a Dask scheduler, such as tcp://host:8786, found none: {error}"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            raise ConfigError(
                f"--scheduler {scheduler}: expected workers, found none in {CONNECT_SECONDS} s; start some with "
                f"`dask worker {scheduler}`"
            ) from error
        yield client
