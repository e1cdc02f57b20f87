"""The engine: from backbones and splits to sealed feature sets, decoding each image once for all of them.

What is sealed is left alone, what is partial goes on where it stopped, a backbone that fails does not stop the others,
an image that fails is recorded in its row. Nothing here depends on a display, a configuration file or a command line.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from featurebank.extract import backbones
from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.batches import Preparer, Reader, batches, pixels_key
from featurebank.extract.datasets.contract import Split
from featurebank.extract.device import Execution, cpu_cores, resolve_device
from featurebank.extract.forward import COMPILE_FROM_ROWS, PixelsToFeatures, Runner, can_compile
from featurebank.extract.key import Precision, StoredType
from featurebank.extract.memory import keep_freed_memory
from featurebank.extract.plan import Task, plan
from featurebank.extract.progress import Clock, JobProgress, Observer
from featurebank.extract.provenance import provenance
from featurebank.extract.reporting import Meter
from featurebank.extract.schedule import Line, Pass, run_pass
from featurebank.extract.sink import Assembler, Sink, pending_rows
from featurebank.extract.wanted import Outcome, Wanted
from featurebank.store import FeatureSetWriter, Output, Records, StoreError

__all__ = ["extract"]

log = logging.getLogger("featurebank")


@dataclass
class _Set:
    """One feature set while the engine works on it."""

    wanted: Wanted
    writer: FeatureSetWriter | None = None
    assembler: Assembler | None = None
    execution: dict[str, Any] = field(default_factory=dict)

    @property
    def outcome(self) -> Outcome:
        return self.wanted.outcome

    @property
    def spec(self) -> BackboneSpec:
        return self.wanted.request.backbone


def extract(
    wanted: Sequence[Wanted],
    splits: Sequence[Split],
    *,
    execution: Execution | None = None,
    observer: Observer | None = None,
) -> list[Outcome]:
    """Makes every wanted feature set that the store does not have.

    Args:
        wanted: what ``want`` gave for the same splits.
        splits: the opened splits.
        execution: how to run; not part of the key.
        observer: called several times a second with a snapshot.

    Returns:
        the outcome of each wanted set, in order.

    Raises:
        ImageError: an image cannot be decoded, in a strict run.
        DatasetError: a file's content changed while the run was going on.
        StoreError: the store cannot be written (disk full, read-only, in use). What was committed stays valid.
    """
    return _Engine(wanted, splits, execution or Execution(), observer).run()


class _Engine:
    def __init__(
        self, wanted: Sequence[Wanted], splits: Sequence[Split], execution: Execution, observer: Observer | None
    ) -> None:
        self.splits = splits
        self.execution = execution
        self.device = resolve_device(execution.device)
        self.cuda = self.device.startswith("cuda")
        self.batch_size = execution.batch_size or (256 if self.cuda else 16)
        self.workers = execution.workers or cpu_cores()
        self.clock = Clock()
        self.runners: dict[BackboneSpec, Runner | Exception] = {}
        self.sets = [_Set(w) for w in wanted]
        self.meter = Meter(self._progress, self.clock, observer)

    def run(self) -> list[Outcome]:
        """Everything, pass by pass."""
        if not self.cuda:
            keep_freed_memory()
        with _numerics(), self._writers():
            self._resume()
            tasks = plan(
                [s.wanted.job for s in self.sets],
                {s.wanted.job.fingerprint: () for s in self.sets if s.outcome.state == "present"}
                | {s.wanted.job.fingerprint: pending_rows(s.writer) for s in self.sets if s.writer is not None},
                backbones_per_pass=self.execution.backbones_per_pass,
            )
            self.meter.begin(tasks)
            for _, group in itertools.groupby(tasks, key=lambda task: task.group):
                self.runners.clear()
                for split, part in itertools.groupby(group, key=lambda task: task.split):
                    self._split(split, list(part))
        self.meter.show(force=True)
        return [s.outcome for s in self.sets]

    @contextmanager
    def _writers(self) -> Iterator[None]:
        try:
            yield
        finally:
            for s in self.sets:
                if s.outcome.state == "missing":
                    s.outcome.state = "interrupted"
                if s.writer is not None:
                    s.writer.close()

    def _resume(self) -> None:
        """Sets that were begun get their writer back; one whose chunks are all there is sealed."""
        for s in self.sets:
            path = s.outcome.path
            if s.outcome.state == "present" or not path.with_name(f"{path.name}.partial").exists():
                continue
            s.writer = FeatureSetWriter.resume(path)
            s.assembler = Assembler(s.writer)
            s.execution = dict(s.writer.manifest["provenance"].get("execution", {}))
            if s.assembler.complete:
                self._seal(s)

    # -- one split through one group of backbones --------------------------------------------------------------------

    def _split(self, split: int, tasks: Sequence[Task]) -> None:
        wanting = {fingerprint for task in tasks for fingerprint in task.fingerprints}
        members = [s for s in self.sets if s.wanted.job.fingerprint in wanting]
        for s in members:
            self._prepare(s)
        ready = [s for s in members if s.assembler is not None]
        if not ready:
            return
        self._pass(self.splits[split], tasks, ready)
        for s in ready:
            if s.assembler is not None and s.assembler.complete:
                self._seal(s)

    def _prepare(self, s: _Set) -> None:
        """The network, and the file laid out; a backbone that fails here fails alone."""
        try:
            runner = self._runner(s)
            if s.writer is None:
                s.writer = self._create(s, runner)
                s.assembler = Assembler(s.writer)
            s.outcome.execution = f"{'compiled' if runner.compiled else 'eager'}, batch {runner.batch_size}"
        except StoreError:
            raise
        except Exception as error:
            self._fail(s, error)

    def _fail(self, s: _Set, error: Exception) -> None:
        s.outcome.state = "failed"
        s.outcome.error = f"{type(error).__name__}: {error}"
        s.assembler = None
        log.error("%s on %s/%s failed: %s", s.outcome.backbone, s.outcome.dataset, s.outcome.split, error)

    def _runner(self, s: _Set) -> Runner:
        """The set's network, built once for all splits of the group; so is a failure to build it."""
        if s.spec not in self.runners:
            try:
                self.runners[s.spec] = self._build(s)
            except Exception as error:
                self.runners[s.spec] = error
        runner = self.runners[s.spec]
        if isinstance(runner, Exception):
            raise runner
        return runner

    def _build(self, s: _Set) -> Runner:
        self.meter.show(f"building {s.spec.name}", force=True)
        key = s.wanted.key
        precision: Precision = key["precision"]
        dtype: StoredType = key["dtype"]
        module = PixelsToFeatures(backbones.build(s.spec), s.spec, precision, dtype)
        compiled = bool(s.execution.get("compiled", self._wants_compilation(s)))
        if compiled:
            self.meter.show(f"compiling {s.spec.name}", force=True)
        batch_size = int(s.execution.get("batch_size", self.batch_size))
        return Runner(module, device=self.device, batch_size=batch_size, compiled=compiled)

    def _wants_compilation(self, s: _Set) -> bool:
        """Decided by the number of images alone, not by timings, so that two runs decide alike."""
        if self.execution.compile != "auto":
            return self.execution.compile == "always"
        rows = sum(t.wanted.job.n_rows for t in self.sets if t.wanted.job.backbone == s.wanted.job.backbone)
        return not self.cuda and rows >= COMPILE_FROM_ROWS and can_compile(self.device)

    def _create(self, s: _Set, runner: Runner) -> FeatureSetWriter:
        split = self.splits[s.wanted.request.split]
        size = (1, s.spec.preprocessing.height, s.spec.preprocessing.width, 3)
        with torch.inference_mode():
            probe = runner.module(torch.zeros(size, dtype=torch.uint8, device=runner.device))
        dtype = s.wanted.key["dtype"]
        head = runner.module.network.head() if "pooled" in s.spec.outputs else None
        s.execution = {"compiled": runner.compiled, "batch_size": runner.batch_size}
        return FeatureSetWriter.create(
            s.outcome.path,
            key=s.wanted.key,
            outputs=[Output(name=name, shape=tuple(probe[name].shape[1:]), dtype=dtype) for name in s.spec.outputs],
            records=Records(
                ids=split.ids, labels=split.labels, content_hash=split.content_hashes(), columns=split.columns
            ),
            head=None if head is None else (head.weight.float().cpu().numpy(), head.bias.float().cpu().numpy()),
            provenance=provenance(self.device, s.execution, split, s.spec),
        )

    def _pass(self, split: Split, tasks: Sequence[Task], ready: Sequence[_Set]) -> None:
        """One walk over a split."""
        lines = [
            Line(self._runner(s), pixels_key(s.spec.preprocessing), s.assembler)
            for s in ready
            if s.assembler is not None
        ]
        earlier = [line.assembler.done for line in lines]
        before = self.clock.seconds()
        size = max(line.runner.batch_size for line in lines)
        pending = [pending_rows(line.assembler.writer) for line in lines]
        strict = self.execution.strict
        sink = Sink(self.clock, capacity=2 * self.workers + 4, commit_seconds=self.execution.commit_seconds)
        with self.meter.measure() as measured, sink:
            shared = Pass(
                lines=lines,
                work=batches([(t.start, t.stop) for t in tasks], pending, size),
                read=Reader(split, self.clock, strict=strict),
                prepare=Preparer(
                    split, [s.spec.preprocessing for s in ready], self.clock, strict=strict, pinned=self.cuda
                ),
                sink=sink,
                clock=self.clock,
                workers=self.workers,
            )
            run_pass(shared, cuda=self.cuda, poll=lambda: self.meter.show(rows=shared.rows_done))
        if sink.error is not None:
            raise sink.error
        for s, line, done in zip(ready, lines, earlier, strict=True):
            s.outcome.seconds = self.clock.since(before)
            s.outcome.images_per_second = measured.rate(shared.rows_done)
            s.outcome.computed = line.assembler.done - done
            s.outcome.failed = dict(line.assembler.failed)
            if line.assembler.error is not None:
                self._fail(s, line.assembler.error)

    def _seal(self, s: _Set) -> None:
        assert s.writer is not None  # noqa: S101 - an assembler has a writer
        made = provenance(self.device, s.execution, self.splits[s.wanted.request.split], s.spec)
        made["seconds"] = {name: round(value, 3) for name, value in s.outcome.seconds.items()}
        made["images_per_second"] = round(s.outcome.images_per_second, 2)
        with s.writer.seal(made) as sealed:
            s.outcome.failed = dict(sealed.reasons)
        s.outcome.state = "sealed"

    # -- for a display -----------------------------------------------------------------------------------------------

    def _progress(self) -> tuple[JobProgress, ...]:
        return tuple(self._job_progress(s) for s in self.sets)

    def _job_progress(self, s: _Set) -> JobProgress:
        outcome, runner = s.outcome, self.runners.get(s.spec)
        done = s.assembler.done if s.assembler is not None else 0
        return JobProgress(
            backbone=outcome.backbone,
            dataset=f"{outcome.dataset}/{outcome.split}",
            done=outcome.n_rows if outcome.state in ("present", "sealed") else done,
            total=outcome.n_rows,
            state=outcome.state,
            failed_rows=len(s.assembler.failed) if s.assembler is not None else len(outcome.failed),
            note=outcome.error or (runner.note if isinstance(runner, Runner) else ""),
        )


@contextmanager
def _numerics() -> Iterator[None]:
    """One thread per lane, and float32 that is float32 on every device; both as they were afterwards."""
    threads = torch.get_num_threads()
    backends: list[Any] = [getattr(torch.backends.cudnn, name) for name in ("conv", "rnn")]
    backends.append(torch.backends.cuda.matmul)
    earlier = [backend.fp32_precision for backend in backends]
    torch.set_num_threads(1)
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for backend, value in zip(backends, earlier, strict=True):
            backend.fp32_precision = value
