"""What each worker of a cluster takes of its machine, and how much it is sent at once."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("distributed")

from featurebank.extract.device import Execution
from featurebank.pipelines.extracting.scale import worker
from featurebank.pipelines.extracting.scale.cluster import rows_per_piece
from featurebank.pipelines.extracting.scale.worker import Extraction, shared_lanes


def lanes_of(address: str, lanes: Mapping[str, int], workers: int | None = None) -> int:
    extraction = Extraction([], "cpu", Execution(workers=workers))
    extraction.lanes = lanes
    beside: Any = SimpleNamespace(address=address)
    extraction.setup(beside)
    return extraction.local.lanes


def test_gpu6_workers_of_a_machine_share_its_cores_out() -> None:
    near, far = list(range(12)), list(range(12, 24))
    cores = {"tcp://a:1": near, "tcp://a:2": near, "tcp://a:3": far, "tcp://b:1": near + far, "tcp://c:1": [0]}
    lanes = shared_lanes(cores | {"tcp://c:2": [0]})
    assert list(lanes.values()) == [6, 6, 12, 24, 1, 1]


def test_gpu6_a_worker_takes_its_part_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "cpu_cores", lambda: 24)
    lanes = {"tcp://a:1": 6, "tcp://a:2": 8}
    assert lanes_of("tcp://a:2", lanes) == 8
    assert lanes_of("tcp://a:2", lanes, workers=3) == 3
    assert lanes_of("tcp://a:3", lanes) == 6  # joined later, as one beside others
    assert lanes_of("tcp://b:1", lanes) == 24


def test_gpu6_a_piece_of_large_rows_has_several_batches_while_there_are_enough_images() -> None:
    tokens = 197 * 768 * 2
    assert rows_per_piece(256, row_bytes=tokens, images=100_000, workers=8) == 1024
    assert rows_per_piece(256, row_bytes=tokens, images=6_000, workers=8) == 256
