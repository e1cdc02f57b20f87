"""What a run is said to be limited by is what has the least time left, however many threads share the others' work."""

from __future__ import annotations

import pytest

from featurebank.extract.progress import Clock, Snapshot
from featurebank.extract.reporting import Meter
from featurebank.extract.schedule import stage_threads

# Ten seconds of a GPU with eight decode threads, and of a CPU with eight lanes.
TIMES = {
    "the device": (True, {"decode": 30.0, "transform": 20.0, "forward": 9.5, "write": 2.0}, "forward"),
    "decoding": (True, {"read": 3.0, "decode": 50.0, "transform": 29.0, "forward": 6.0}, "decode"),
    "both halves of preparing": (True, {"decode": 38.0, "transform": 40.0, "forward": 9.0}, "transform"),
    "the disk": (True, {"decode": 40.0, "forward": 4.0, "write": 9.9}, "write"),
    "storage": (False, {"read": 19.0, "decode": 20.0, "forward": 50.0}, "read"),
    "lanes": (False, {"read": 2.0, "decode": 20.0, "transform": 15.0, "forward": 44.0, "write": 9.0}, "forward"),
    "nothing yet": (True, {}, ""),
}


@pytest.mark.parametrize("name", TIMES)
def test_gpu5_a_stage_is_compared_by_the_time_of_its_threads(name: str) -> None:
    cuda, seconds, expected = TIMES[name]
    clock, seen = Clock(), list[Snapshot]()
    for stage, busy in seconds.items():
        clock.add(stage, busy)
    Meter(lambda: (), clock, seen.append, stage_threads(gpus=int(cuda), lanes=8)).show(force=True)
    assert seen[0].limit == expected
