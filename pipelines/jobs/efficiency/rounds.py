"""What backbones cost as rows of results: counted here, timed in fresh processes that take turns.

A round times every backbone once, each in a process of its own, so that whatever else the machine does hits all alike
and none finds caches that another has filled. What is known is not measured again.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featurebank.extract.backbones import without_weights
from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.device import cpu_cores
from featurebank.extract.errors import fault
from featurebank.extract.key import Precision, backbone_key
from featurebank.pipelines.asking.metrics import metric
from featurebank.pipelines.asking.results import Computed, Result, Results, Row, result_key
from featurebank.pipelines.jobs.efficiency.record import Found, Wish
from featurebank.store.errors import UnknownNameError
from featurebank.store.fingerprint import fingerprint

__all__ = ["NAME", "Cost", "Setting", "child", "costs", "processor"]

NAME, VERSION = "efficiency", 1
CHILD = "featurebank.pipelines.jobs.efficiency.measuring"
SECONDS = 2.0
MAIN = {"gmacs", "latency_p50"}
TAIL = {"latency_p90": 10, "latency_p99": 100}
"""Passes below which a percentile says nothing."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How networks are timed.

    Attributes:
        device: a resolved one, ``cpu``, ``cuda`` …
        processor: what people call it.
        precision: of whole networks.
        threads: of a CPU, for one pass.
        batch: images a pass of the throughput; ``None`` for the best power of two.
        rounds: how many processes time each network.
    """

    device: str
    processor: str
    precision: Precision
    threads: int
    batch: int | None
    rounds: int

    @property
    def called(self) -> str:
        """For people."""
        of = f", {self.threads} thread{'s' if self.threads > 1 else ''}" if self.device.startswith("cpu") else ""
        return f"{self.device}{of}, {self.precision}"

    def wish(self, backbone: str, batch: int | None) -> Wish:
        """What a process is asked."""
        return Wish(
            backbone=backbone,
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            batch=batch,
            seconds=SECONDS,
        )


@dataclass(kw_only=True)
class Cost:
    """What backbones cost.

    Attributes:
        rows: all numbers.
        notes: what to know about them.
        failed: backbones to the reason why something of them is not known.
    """

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def take(self, asked: _Asked, result: Result) -> None:
        """Adds what is known of a backbone."""
        self.rows += result.rows
        self.notes += [f"{asked.backbone}: {note}" for note in result.notes]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A backbone: what it was asked for as, what results call it, and its network of random weights."""

    name: str
    backbone: str
    spec: BackboneSpec

    @classmethod
    def of(cls, name: str) -> _Asked:
        spec = without_weights(name)
        backbone = spec.name if "@random" in name else spec.name.replace("@random", "", 1)
        return cls(name=name, backbone=backbone, spec=spec)

    def key(self, **options: Any) -> dict[str, Any]:
        px = self.spec.preprocessing.height
        inputs = [fingerprint(backbone_key(self.spec))]
        return result_key(NAME, VERSION, {"backbone": self.backbone, "px": px, **options}, inputs)

    def row(self, name: str, value: float, *, details: Mapping[str, Any], **more: Any) -> Row:
        return Row(
            question=NAME,
            backbone=self.backbone,
            metric=name,
            direction=metric(name).direction,
            primary=name in MAIN,
            value=value,
            details={"px": self.spec.preprocessing.height, **details},
            **more,
        )


def costs(names: Sequence[str], results: Results, setting: Setting | None, *, say: Callable[[str], None]) -> Cost:
    """Counts, and where there is a setting times, whatever the results do not have.

    A backbone of which something cannot be known does not stop the others.

    Args:
        names: of backbones.
        results: of the store that keeps them.
        setting: how they are timed; ``None`` for counts alone.
        say: called with one line at a time, for people.

    Raises:
        UnknownNameError: a name that does not exist, before anything is done.
    """
    cost, every = Cost(), []
    for name in names:
        try:
            every.append(_Asked.of(name))
        except UnknownNameError:
            raise
        except Exception as error:
            cost.failed[name] = fault(error)
    for one in every:
        say(f"{one.name}: counting")
        key = one.key(measured="counts")
        try:
            cost.take(one, results.known(key) or results.keep(key, _counted(one)))
        except Exception as error:
            cost.failed[one.name] = fault(error)
    if setting is not None:
        _time(every, results, setting, cost, say)
    return cost


def processor(device: str) -> str:
    """What people call a device."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _counted(asked: _Asked) -> Computed:
    from featurebank.extract.complexity import complexity

    start = time.perf_counter()
    found = complexity(asked.spec)
    said = ", ".join(f"{operator} ({calls})" for operator, calls in sorted(found.uncounted.items()))
    values = {"parameters": float(found.parameters), "gmacs": found.macs / 1e9}
    seconds = (time.perf_counter() - start) / len(values)
    details = {"uncounted": dict(found.uncounted)}
    return Computed(
        rows=[asked.row(name, value, seconds=seconds, details=details) for name, value in values.items()],
        notes=[f"operators without a formula, which are not counted: {said}"] if said else [],
    )


def _time(every: Sequence[_Asked], results: Results, setting: Setting, cost: Cost, say: Callable[[str], None]) -> None:
    # How often they are timed changes no number but its certainty.
    options = {name: value for name, value in asdict(setting).items() if name != "rounds"}
    keys = {one: one.key(measured="times", **options) for one in every}
    known = {one: result for one, key in keys.items() if (result := results.known(key)) is not None}
    found: dict[_Asked, list[Found]] = {one: [] for one in every if one not in known}
    begun = f"load average {os.getloadavg()[0]:.1f} on {cpu_cores()} cores before"

    def visit(one: _Asked, what: str, batch: int | None) -> Any:
        say(f"{one.name}: {what}")
        try:
            return child(setting.wish(one.name, batch))
        except (OSError, ValueError) as error:
            cost.failed[one.name] = str(error)
            del found[one]
            return None

    batches = {one: setting.batch or visit(one, "looking for the best batch", None) for one in [*found]}
    for turn in range(setting.rounds):
        for one in [*found]:
            if (answer := visit(one, f"round {turn + 1} of {setting.rounds}", batches[one])) is not None:
                found[one].append(Found(**answer))
    for one, answers in found.items():
        known[one] = results.keep(keys[one], _timed(one, setting, batches[one], answers, begun))
    for one in every:
        if one in known:
            cost.take(one, known[one])


def child(wish: Wish) -> Any:
    """What a fresh process answers.

    Raises:
        ValueError: it failed; its last words.
    """
    command = [sys.executable, "-P", "-m", CHILD]  # it imports from where this process does, and from nowhere else
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    given = json.dumps(asdict(wish))
    done = subprocess.run(command, input=given, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 (no shell)
    if done.returncode < 0:
        raise ValueError(
            f"the process that timed it must end by itself; signal {-done.returncode} ended it, as where memory runs "
            "out; give a smaller --batch"
        )
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def _timed(asked: _Asked, setting: Setting, batch: int, answers: Sequence[Found], begun: str) -> Computed:
    """Rows of all rounds: percentiles of all passes together, of other numbers the median of the rounds."""
    latency = [1e3 * seconds for one in answers for seconds in one.latency]
    decoded = [1e3 * seconds for one in answers for seconds in one.latency_with_decode]
    found: list[tuple[str, float, int | None, int]] = [("latency_p50", statistics.median(latency), len(latency), 1)]
    for name, least in TAIL.items():
        if len(latency) >= least:
            found.append((name, float(np.percentile(latency, int(name[-2:]))), len(latency), 1))
    if decoded:
        found.append(("latency_with_decode", statistics.median(decoded), len(decoded), 1))
    for name, unit in (("throughput", 1.0), ("throughput_with_decode", 1.0), ("peak_memory", 1e6), ("energy", 1.0)):
        values = [value for one in answers if (value := getattr(one, name)) is not None]
        if values:
            found.append((name, statistics.median(values) / unit, None, batch))
    rows = [
        asked.row(name, value, score=setting.called, n=n, details={**asdict(setting), "batch": size})
        for name, value, n, size in found
    ]
    each = [1e3 * statistics.median(one.latency) for one in answers]
    notes = [f"p50 of each round {', '.join(f'{value:.2f}' for value in each)} ms; {begun}"]
    if (last := answers[-1]).no_images:
        notes.append(f"no times with decoding: {last.no_images}")
    return Computed(rows=rows, notes=notes, settings={"torch": last.torch, "latency_p50": each})
