"""The engine: from backbones and splits to sealed feature sets, decoding each image once for all of them.

What is sealed is left alone, what is partial goes on where it stopped, what another run is making is waited for, rows
that the store holds already are copied. A backbone that fails does not stop the others, an image that fails is recorded
in its row. Nothing here depends on a display, a configuration file or a command line.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from featurebank.extract.agreement import sample
from featurebank.extract.comparing import Compared, DonorError
from featurebank.extract.compute import Compute, ComputeError, Facts, Feed, Local, Recipe, Walk, numerics
from featurebank.extract.contents import SAVE_SECONDS, Part
from featurebank.extract.datasets.contract import Split
from featurebank.extract.device import Execution, resolve_devices
from featurebank.extract.errors import ImageError
from featurebank.extract.forward import PACK_FROM_ROWS, can_pack
from featurebank.extract.making import Making, after_others, described, facts_of, same_rows
from featurebank.extract.plan import Task, plan
from featurebank.extract.progress import Clock, JobProgress, Observer
from featurebank.extract.reporting import Meter
from featurebank.extract.reuse import DONORS, copied_from_others, find_copies
from featurebank.extract.schedule import stage_threads
from featurebank.extract.sink import Assembler, Scattered, Sink
from featurebank.extract.wanted import Outcome, Wanted, look
from featurebank.store import (
    ExistsError,
    FeatureSetWriter,
    LockedError,
    NotFoundError,
    Output,
    Records,
    StorageError,
    StoreError,
)

__all__ = ["extract"]

log = logging.getLogger("featurebank")

LOOK_AGAIN_SECONDS = 0.2


def extract(
    wanted: Sequence[Wanted],
    splits: Sequence[Split],
    *,
    execution: Execution | None = None,
    observer: Observer | None = None,
    compute: Compute | None = None,
) -> list[Outcome]:
    """Makes every wanted feature set that the store does not have.

    Args:
        wanted: what ``want`` gave for the same splits.
        splits: the opened splits.
        execution: how to run; not part of the key.
        observer: called several times a second with a snapshot.
        compute: where the networks run; this process by default.

    Returns:
        the outcome of each wanted set, in order.

    Raises:
        ImageError: an image cannot be decoded, in a strict run.
        StorageError: the store cannot be written (disk full, read-only). What was committed stays valid.
        ComputeError: there is no more place where networks run.
    """
    execution = execution or Execution()
    device = resolve_devices(execution.device) if compute is None else execution.device
    with numerics():
        compute = compute or Local(device, execution)
        return _Engine(wanted, splits, replace(execution, device=device), observer, compute).run()


class _Engine:
    def __init__(
        self,
        wanted: Sequence[Wanted],
        splits: Sequence[Split],
        execution: Execution,
        observer: Observer | None,
        compute: Compute,
    ) -> None:
        self.splits = splits
        self.execution = execution
        self.compute = compute
        self.cuda = execution.device.startswith("cuda")
        self.batch_size = execution.batch_size or (256 if self.cuda else 16)
        self.clock = Clock()
        self.sets = [Making(w) for w in wanted]
        self.contents = {w.request.split: w.contents for w in wanted}
        self.whole: dict[int, Part] = {}
        self.parts: list[tuple[int, Part]] = []
        self.refused: set[Path] = set()
        self.postponed: list[Making] = []
        self.said: set[str] = set()
        threads = stage_threads(gpus=execution.device.count("cuda"), lanes=self.compute.lanes)
        self.meter = Meter(self._progress, self.clock, observer, threads)

    def run(self) -> list[Outcome]:
        """Everything, pass by pass; then whatever another run was making and has not finished."""
        with self._writers():
            todo = [s for s in self.sets if s.outcome.state == "missing"]
            while todo:
                for s in todo:
                    with self._alone(s):
                        self._begin(s)
                self._passes([s for s in todo if s.outcome.state == "missing" and not s.busy])
                todo = [s for s in todo if s.outcome.state == "missing"]
                if todo and not self.postponed:
                    self._wait(todo)
                self.postponed.clear()
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
                s.let_go()
            for contents in self.contents.values():
                contents.save()

    @contextmanager
    def _alone(self, *sets: Making) -> Iterator[None]:
        """What goes wrong inside ends these sets; where nothing can be written or computed any more, the run."""
        try:
            yield
        except (StorageError, ComputeError):
            raise
        except Exception as error:
            if self.execution.strict and isinstance(error, ImageError):
                raise
            for s in sets:
                s.fail(error)

    # -- what is there already ---------------------------------------------------------------------------------------

    def _begin(self, s: Making) -> None:
        """A set that was begun gets its writer back, unless another run has it; then, which rows can be copied."""
        s.busy = False
        s.settle_early()
        if s.outcome.path.exists():
            look(s.outcome)
            return
        try:
            s.writer = s.writer or s.resume(FeatureSetWriter)
        except (LockedError, NotFoundError):
            s.busy = True
        except ExistsError:
            look(s.outcome)
        except StorageError as error:
            s.fail(error)
        if s.outcome.state != "missing" or s.busy:
            return
        if s.writer is not None and copied_from_others(s.writer.manifest["provenance"]):
            # Which of its rows were compared before it was interrupted is not known.
            s.begin_anew()
        self._find_part(s)
        if s.writer is not None:
            s.execution = dict(s.writer.manifest["provenance"].get("execution", {}))
            self._assemble(s, s.writer)

    def _find_part(self, s: Making) -> None:
        """Which rows can be copied, and the part of its split that is left to compute."""
        index, contents = s.wanted.request.split, s.wanted.contents
        if index not in self.whole:
            self.whole[index] = Part(self.splits[index], None, contents.hashes, contents.known)
        part, s.copies = self.whole[index], None
        if not s.wanted.is_provisional:
            s.copies = find_copies(
                s.outcome.path,
                s.wanted.key,
                part.hashes,
                trust_merged=self.execution.trust_merged,
                refused=self.refused,
            )
        if s.copies is not None:
            rows = np.flatnonzero(~s.copies.mask)
            part = Part(self.splits[index], rows, part.hashes[rows])
        for place, (i, known) in enumerate(self.parts):
            if i == index and same_rows(known.rows, part.rows):
                s.part = place
                return
        s.part = len(self.parts)
        self.parts.append((index, part))

    def _assemble(self, s: Making, writer: FeatureSetWriter) -> None:
        provenance = writer.manifest["provenance"]
        if (donors := s.donors()) != provenance.get(DONORS, []):
            writer.set_provenance({**provenance, DONORS: donors})
        s.assembler = Assembler(writer, s.copies, s.wanted.contents.hashes if writer.is_provisional else None)
        s.outcome.copied = s.assembler.copied
        s.assembler.copy(self.execution.commit_seconds)
        if s.assembler.complete:
            self._seal(s)

    def _wait(self, todo: Sequence[Making]) -> None:
        """Until another run has sealed one of these sets, or has let go of it."""
        first = todo[0].outcome
        self.meter.show(f"waiting for another run: {first.backbone} on {first.dataset}/{first.split}", force=True)
        while True:
            for s in todo:
                try:
                    s.writer = s.resume(FeatureSetWriter)
                except LockedError:
                    continue
                except StoreError:
                    pass  # looked at when it is begun again
                return
            time.sleep(LOOK_AGAIN_SECONDS)

    # -- passes ------------------------------------------------------------------------------------------------------

    def _passes(self, sets: Sequence[Making]) -> None:
        for s in sets:
            if s.writer is None and s.copies is not None and s.copies.mask.all():
                with self._alone(s):
                    self._create(s, facts_of(s.copies))
        sets = [s for s in sets if s.outcome.state == "missing" and not s.busy]
        jobs = [replace(s.wanted.job, split=s.part, n_rows=len(self.parts[s.part][1])) for s in sets]
        tasks = plan(
            jobs,
            {s.wanted.job.fingerprint: s.pending(self.parts[s.part][1].rows) for s in sets if s.writer is not None},
            backbones_per_pass=self.execution.backbones_per_pass,
        )
        self.meter.begin(tasks)
        for _, group in itertools.groupby(tasks, key=lambda task: task.group):
            self.compute.forget()
            for part, some in itertools.groupby(group, key=lambda task: task.split):
                self._pass(part, list(some))

    def _pass(self, part: int, tasks: Sequence[Task]) -> None:
        """One walk over a part of a split, for the backbones of a group."""
        wanting = {fingerprint for task in tasks for fingerprint in task.fingerprints}
        members = [s for s in self.sets if s.wanted.job.fingerprint in wanting]
        for s in members:
            with self._alone(s), after_others(s, self.sets, self.compute, self.postponed):
                self._prepare(s)
        ready = [s for s in members if s.assembler is not None and s.outcome.state == "missing"]
        ended: BaseException | None = None
        if ready:
            with self._alone(*ready):
                ended = self._walk(part, tasks, ready)
        if ended is not None:
            raise ended
        for s in ready:
            if s.assembler is not None and s.assembler.complete:
                with self._alone(s):
                    self._seal(s)

    def _prepare(self, s: Making) -> None:
        """The network, and the file laid out; a backbone that fails here fails alone."""
        recipe = self._recipe(s)
        measuring = recipe.precision != "float32" and recipe.kept is None
        built = self.compute.built(recipe)
        doing = "building" + " and compiling" * recipe.compiled + " and packing" * recipe.packed
        doing += f", {recipe.precision} against float32:" * measuring
        if not built:
            self.meter.show(f"{doing} {s.outcome.backbone}", force=True)
        images = sample(self.splits[s.wanted.request.split], s.spec.preprocessing) if measuring else None
        facts = self.compute.facts(recipe, images)
        s.recipe = replace(
            recipe,
            compiled=bool(facts.execution["compiled"]),
            packed=bool(facts.execution.get("packed")),
            kept=facts.execution.get("float32", recipe.kept),
        )
        if s.writer is None:
            self._create(s, facts)
        s.outcome.execution = described(facts)
        if (warning := s.precision_told(facts)) and warning not in self.said:
            self.said.add(warning)
            log.warning("%s", warning)

    def _recipe(self, s: Making) -> Recipe:
        precision = s.wanted.key["precision"]
        execution = {} if precision == "float32" else s.execution or self._execution_of_others(s)
        return Recipe(
            spec=s.spec,
            precision=precision,
            dtype=s.wanted.key["dtype"],
            batch_size=int(s.execution.get("batch_size", self.batch_size)),
            compiled=bool(s.execution.get("compiled", self.execution.compile == "always")),
            packed=bool(s.execution.get("packed")) if s.execution else self._wants_packing(s),
            # What was begun before this was measured goes on as it began.
            kept=execution.get("float32", "nothing") if execution else None,
        )

    def _execution_of_others(self, s: Making) -> dict[str, Any]:
        """How the same backbone was begun on another split: all of its sets are made alike."""
        job = s.wanted.job.backbone
        return next((t.execution for t in self.sets if t.wanted.job.backbone == job and t.execution), {})

    def _wants_packing(self, s: Making) -> bool:
        """Decided by the number of images alone, not by timings, so that two runs decide alike."""
        rows = sum(t.wanted.job.n_rows for t in self.sets if t.wanted.job.backbone == s.wanted.job.backbone)
        return self.execution.compile == "auto" and rows >= PACK_FROM_ROWS and can_pack(self.execution.device)

    def _create(self, s: Making, facts: Facts) -> None:
        """Lays the file out, unless another run has just done so."""
        split = self.splits[s.wanted.request.split]
        dtype = s.wanted.key["dtype"]
        if s.wanted.contents.whole:
            s.wanted.settle()
        known = self._execution_of_others(s)
        s.execution = {name: known[name] for name in ("float32", "agreement") if name in known} | dict(facts.execution)
        try:
            s.writer = FeatureSetWriter.create(
                s.outcome.path,
                key=s.wanted.key,
                outputs=[Output(name=name, shape=facts.shapes[name], dtype=dtype) for name in s.spec.outputs],
                records=Records(
                    ids=split.ids, labels=split.labels, content_hash=s.wanted.contents.hashes, columns=split.columns
                ),
                head=facts.head,
                provenance=self.compute.provenance(s.execution, split, s.spec),
            )
        except ExistsError:
            s.busy = True
            return
        self._assemble(s, s.writer)

    def _walk(self, part: int, tasks: Sequence[Task], ready: Sequence[Making]) -> BaseException | None:
        """Rows of a part through the networks of some sets; the answer is what ended the writing, if something did."""
        split, records = self.parts[part]
        earlier = [s.assembler.computed for s in ready if s.assembler is not None]
        before = self.clock.seconds()
        sink = Sink(self.clock, capacity=2 * self.compute.lanes + 4, commit_seconds=self.execution.commit_seconds)
        ranges = [(t.start, t.stop) for t in tasks]
        walk = Walk(split=split, part=records, ranges=ranges, feeds=[self._feed(s, records) for s in ready])
        with self.meter.measure() as measured, sink:
            images = self.compute.run(walk, sink, self.clock, lambda rows: self._poll(rows, split))
        if sink.error is not None:
            return sink.error
        for s, done in zip(ready, earlier, strict=True):
            assert s.assembler is not None  # noqa: S101 - ready sets have one
            s.outcome.seconds = self.clock.since(before)
            s.outcome.images_per_second = measured.rate(images)
            s.outcome.computed = s.assembler.computed - done
            s.outcome.failed = dict(s.assembler.failed)
            if s.copies is not None:
                s.outcome.copied += s.copies.compared
                s.outcome.computed -= s.copies.compared
            if isinstance(error := s.assembler.error, DonorError):
                log.warning("%s; its rows are computed", error)
                self.refused.add(error.donor.path)
                s.begin_anew()
            elif s.assembler.error is not None:
                s.fail(s.assembler.error)
        return None

    def _feed(self, s: Making, records: Part) -> Feed:
        assert s.assembler is not None  # noqa: S101 - ready sets have both
        assert s.recipe is not None  # noqa: S101
        rows = s.assembler if s.copies is None else Compared(s.assembler, s.copies)
        target = rows if records.rows is None else Scattered(rows, records.rows)
        return Feed(recipe=s.recipe, pending=s.pending(records.rows), target=target)

    def _seal(self, s: Making) -> None:
        assert s.writer is not None  # noqa: S101 - an assembler has a writer
        made = self.compute.provenance(s.execution, self.splits[s.wanted.request.split], s.spec)
        if donors := s.donors():
            made[DONORS] = donors
        made["seconds"] = {name: round(value, 3) for name, value in s.outcome.seconds.items()}
        made["images_per_second"] = round(s.outcome.images_per_second, 2)
        try:
            s.identify()
            with s.writer.seal(made) as sealed:
                s.outcome.failed = dict(sealed.reasons)
            s.outcome.state = "sealed"
        except ExistsError:  # another run had the same contents under another name
            s.begin_anew()
            look(s.outcome)
        s.assembler = s.copies = None

    # -- for a display -----------------------------------------------------------------------------------------------

    def _poll(self, rows: int, split: int) -> None:
        self.meter.show(rows=rows)
        self.contents[split].save(every=SAVE_SECONDS)

    def _progress(self) -> tuple[JobProgress, ...]:
        return tuple(s.progress("" if s.recipe is None else self.compute.note(s.recipe)) for s in self.sets)
