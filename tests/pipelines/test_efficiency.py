"""What backbones cost: counted once, timed in fresh processes that take turns, kept as rows, and Pareto fronts."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from command_line import featurebank_, words

from featurebank.extract import complexity as counting
from featurebank.pipelines.asking.fronts import pareto_front
from featurebank.pipelines.asking.metrics import metric
from featurebank.pipelines.jobs.efficiency import energy, measuring, rounds
from featurebank.pipelines.jobs.efficiency.record import Wish

VIT, RESNET = "timm:test_vit.r160_in1k", "timm:test_resnet.r160_in1k"
COUNTS = ("--counts-only", "--json")
CPU = ("--device", "cpu", "--precision", "float32", "--json")


def values(done: Any, backbone: str) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in done.json["rows"] if row["backbone"] == backbone}


def refuse(*_: object) -> Any:
    raise AssertionError("known answers are not made again")


# Counts.


def test_counts_are_kept_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = ("--store", tmp_path / "store")
    first = featurebank_("efficiency", VIT, "resnet18", *COUNTS, *place)
    assert first.code == 0, first.err
    assert values(first, "resnet18") == {"parameters": 11_689_512, "gmacs": pytest.approx(1.8141, abs=5e-4)}
    assert {row["question"] for row in first.json["rows"]} == {"efficiency"}
    listed = featurebank_("results", "--where", "question=efficiency", "--all", "--json", *place).json["rows"]
    assert {(row["backbone"], row["metric"]) for row in listed} == {
        (name, one) for name in (VIT, "resnet18") for one in ("parameters", "gmacs")
    }
    monkeypatch.setattr(counting, "complexity", refuse)
    again = featurebank_("efficiency", VIT, "resnet18", *COUNTS, *place)
    assert again.json == first.json
    forced = featurebank_("efficiency", VIT, "--force", *COUNTS, *place)
    assert (forced.code, list(forced.json["failed"])) == (1, [VIT])


def test_a_random_network_is_another_row(tmp_path: Path) -> None:
    done = featurebank_("efficiency", "mobilenetv2", "mobilenetv2@random", *COUNTS, "--store", tmp_path)
    assert {row["backbone"] for row in done.json["rows"]} == {"mobilenetv2", "mobilenetv2@random"}


def test_a_backbone_that_cannot_be_counted_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = counting.complexity

    def complexity(spec: Any) -> Any:
        if spec.name.startswith(VIT):
            raise ValueError("no such layer")
        return real(spec)

    monkeypatch.setattr(counting, "complexity", complexity)
    done = featurebank_("efficiency", VIT, RESNET, *COUNTS, "--store", tmp_path)
    assert (done.code, done.json["ok"], done.json["failed"]) == (1, False, {VIT: "no such layer"})
    assert {row["backbone"] for row in done.json["rows"]} == {RESNET}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "needs BACKBONE"),
        (("mobilenetv2", "dino_vit_bse"), "did you mean 'dino_vit_base'"),
        (("mobilenetv2", "--html", "nowhere/page.html"), "expected a folder at nowhere"),
        (("mobilenetv2", "--device", "tpu0"), "device must be auto, cpu, cuda"),
        (("mobilenetv2", "--device", "cpu", "--precision", "int4"), "precision must be one of"),
    ],
)
def test_wrong_use(given: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = featurebank_("efficiency", *given, "--store", tmp_path / "store")
    assert (done.code, done.out, (tmp_path / "store").exists()) == (2, "", False)
    assert message in words(done.err)


# Times.


def test_a_fresh_process_times_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "SECONDS", 0.05)
    given = (
        "efficiency",
        VIT,
        *CPU,
        "--batch",
        "16",
        "--rounds",
        "1",
        "--store",
        tmp_path,
        "--html",
        tmp_path / "p.html",
    )
    done = featurebank_(*given)
    assert done.code == 0, done.out
    rows = {row["metric"]: row for row in done.json["rows"]}
    timed = ("latency_p50", "latency_with_decode", "throughput", "throughput_with_decode")
    assert all(rows[name]["value"] > 0 for name in timed)
    assert len({rows[name]["value"] for name in timed}) == 4
    normalised = 16 * 160 * 160 * 3 * 4 / 1e6
    assert normalised < rows["peak_memory"]["value"] < 100 * normalised
    details = rows["throughput"]["details"]
    assert (details["batch"], details["px"], details["precision"], details["device"]) == (16, 160, "float32", "cpu")
    assert details["threads"] == torch.get_num_threads()
    assert (rows["latency_p50"]["n"] >= 3, rows["latency_p50"]["primary"]) == (True, True)
    assert any("load average" in note for note in done.json["notes"])
    assert metric("latency_p50").shown(rows["latency_p50"]["value"]) in (tmp_path / "p.html").read_text()
    monkeypatch.setattr(rounds, "child", refuse)
    assert featurebank_(*given).json["rows"] == done.json["rows"]


def found(latency: list[float], throughput: float, **more: Any) -> dict[str, Any]:
    return {
        "latency": latency, "latency_with_decode": [], "throughput": throughput, "throughput_with_decode": None,
        "peak_memory": 10_000_000, "energy": None, "no_images": "offline", "torch": "2", **more,
    }  # fmt: skip


def test_processes_take_turns_and_their_rounds_are_one_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int | None]] = []
    generator = np.random.default_rng(0)
    passes = {name: [generator.gamma(2.0, 0.01, 40).tolist() for _ in range(3)] for name in (VIT, RESNET)}
    rates = {name: iter([30.0, 10.0, 20.0]) for name in passes}
    latencies = {name: iter(each) for name, each in passes.items()}

    def child(wish: Wish) -> Any:
        asked.append((wish.backbone, wish.batch))
        if wish.batch is None:
            return 8 if wish.backbone == VIT else 16
        more = {"energy": 2.5} if wish.backbone == VIT else {}
        return found(next(latencies[wish.backbone]), next(rates[wish.backbone]), **more)

    monkeypatch.setattr(rounds, "child", child)
    done = featurebank_("efficiency", VIT, RESNET, *CPU, "--store", tmp_path)
    assert done.code == 0, done.err
    assert asked == [(VIT, None), (RESNET, None), *[(VIT, 8), (RESNET, 16)] * 3]
    for name, each in passes.items():
        together = 1e3 * np.concatenate(each)
        numbers = values(done, name)
        for percent in (50, 90, 99):
            assert numbers[f"latency_p{percent}"] == pytest.approx(np.percentile(together, percent))
        assert (numbers["throughput"], numbers["peak_memory"]) == (20.0, 10.0)
    assert (values(done, VIT)["energy"], "energy" in values(done, RESNET)) == (2.5, False)
    assert "latency_with_decode" not in values(done, VIT)
    assert any("no times with decoding: offline" in note for note in done.json["notes"])


def test_few_passes_have_no_tail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "child", lambda _: found([0.01] * 33, 1.0))
    numbers = values(featurebank_("efficiency", VIT, *CPU, "--batch", "2", "--store", tmp_path), VIT)
    assert {name for name in numbers if name.startswith("latency")} == {"latency_p50", "latency_p90"}


def test_times_of_another_setting_are_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []

    def child(wish: Wish) -> Any:
        asked.append(wish.batch)
        return found([0.01] * 10, 1.0)

    monkeypatch.setattr(rounds, "child", child)
    for batch in ("2", "4", "2"):
        given = ("--batch", batch, "--rounds", "1", "--store", tmp_path)
        assert featurebank_("efficiency", f"{VIT}@96px", *CPU, *given).code == 0
    assert featurebank_("efficiency", VIT, *CPU, *given).code == 0
    assert asked == [2, 4, 2]


def test_one_that_fails_in_a_later_round_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def child(wish: Wish) -> Any:
        asked.append(wish.backbone)
        if asked.count(VIT) == 2 and wish.backbone == VIT:
            raise ValueError("out of memory")
        return found([0.01] * 10, 1.0)

    monkeypatch.setattr(rounds, "child", child)
    done = featurebank_("efficiency", VIT, RESNET, *CPU, "--batch", "2", "--store", tmp_path)
    assert (done.code, done.json["failed"]) == (1, {VIT: "out of memory"})
    assert asked == [VIT, RESNET, VIT, RESNET, RESNET]
    assert ("throughput" in values(done, VIT), "throughput" in values(done, RESNET)) == (False, True)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import os; os.kill(os.getpid(), 9)", "signal 9 ended it, as where memory runs out; give a smaller --batch"),
        ("import sys; sys.exit('Warning: x\\nno such layer')", "^no such layer$"),
    ],
)
def test_a_process_that_dies_says_why(
    script: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dying.py").write_text(script)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(rounds, "CHILD", "dying")
    with pytest.raises(ValueError, match=message):
        rounds.child(Wish(backbone=VIT, device="cpu", precision="float32", threads=1))


class Bench:
    """A device on which passes take the seconds that a table has, and which has no memory for larger batches."""

    device = SimpleNamespace(type="cuda")

    def __init__(self, seconds: dict[int, float], clock: list[float]) -> None:
        self._seconds, self._clock = seconds, clock

    def pixels(self, n: int) -> int:
        return n

    def run(self, n: int) -> None:
        if n not in self._seconds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self._clock[0] += self._seconds[n]

    def peak_memory(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("seconds", "tried", "best"),
    [
        ({1: 1.0, 2: 1.0, 4: 1.0}, [1, 2, 4], 4),  # memory says stop
        ({1: 1.0, 2: 1.5, 4: 2.99, 8: 6.0, 16: 8.0}, [1, 2, 4, 8], 2),  # two doublings without a gain
        ({1: 1.0, 2: 1.9, 4: 3.0, 8: 5.5, 16: 1.0}, [1, 2, 4, 8], 8),  # a pass is too long
    ],
)
def test_the_best_batch_is_sought_until_memory_or_speed_says_stop(
    seconds: dict[int, float], tried: list[int], best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    @contextmanager
    def ready(_: Wish) -> Iterator[Bench]:
        yield Bench(seconds, clock)

    monkeypatch.setattr(measuring, "_ready", ready)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    rates = measuring.search(Wish(backbone=VIT, device="cuda", precision="float32", threads=1))
    assert list(rates) == tried
    assert rates == pytest.approx({n: n / seconds[n] for n in tried})
    assert measuring.best_batch(rates) == best


def test_warming_up_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], [0]

    def call() -> None:
        calls[0] += 1
        clock[0] += 9.0 if calls[0] == 1 else 1.0

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    assert measuring.timed(call, 5.0) == [1.0] * 5


# Energy.


def test_energy_of_all_packages_over_the_end_of_a_counter(tmp_path: Path) -> None:
    def put(first: int, second: int) -> None:
        for name, value in (("intel-rapl:0", first), ("intel-rapl:1", second), ("intel-rapl:0:0", 9 * first)):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "energy_uj").write_text(f"{value}\n")
            (tmp_path / name / "max_energy_range_uj").write_text("10000000\n")

    put(9_000_000, 1_000_000)
    with energy.Meter("cpu", rapl=tmp_path) as meter:
        put(2_000_000, 1_500_000)
    assert meter.joules == pytest.approx(3.5)
    with energy.Meter("cpu", rapl=tmp_path / "none") as meter:
        pass
    assert meter.joules is None


@pytest.mark.parametrize(("ticks", "joules"), [((5_000, 7_500), 2.5), ((5_000, 5_000), None)])
def test_energy_of_a_gpu_only_where_its_counter_ticks(
    ticks: tuple[int, int], joules: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = iter(ticks)
    library: Any = ModuleType("pynvml")
    library.nvmlInit = lambda: None
    library.nvmlDeviceGetHandleByUUID = {"GPU-one": "board"}.__getitem__
    library.nvmlDeviceGetTotalEnergyConsumption = lambda board: next(counter) if board == "board" else refuse()
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="one"))
    with energy.Meter("cuda:0") as meter:
        pass
    assert meter.joules == joules


# Pareto fronts.


def dominated(points: list[list[float]], at: int) -> bool:
    ours = points[at]
    return any(
        all(a >= b for a, b in zip(other, ours, strict=True)) and any(a > b for a, b in zip(other, ours, strict=True))
        for other in points
    )


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_front_is_what_nothing_dominates_ties_and_all(dimensions: int) -> None:
    generator = np.random.default_rng(dimensions)
    for n in (1, 2, 40):
        points = generator.integers(0, 5, (n, dimensions)).astype(float).tolist()
        assert pareto_front(points).tolist() == [not dominated(points, at) for at in range(n)]


def test_equal_points_are_on_the_front_together() -> None:
    value, cost = [0.9, 0.8, 0.9, 0.9, 0.8], [30.0, 10.0, 30.0, 40.0, 20.0]
    gains = np.column_stack([value, np.negative(cost)])
    assert pareto_front(gains).tolist() == [True, True, True, False, False]
    with pytest.raises(ValueError, match="none of them missing"):
        pareto_front([[1.0, float("nan")]])
