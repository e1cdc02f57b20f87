"""A race from images to a pick: extracts rung after rung, and hands what was right to `race`, which decides."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featurebank.extract import datasets
from featurebank.extract.device import Execution, cpu_cores
from featurebank.extract.engine import extract
from featurebank.extract.key import Precision
from featurebank.extract.progress import Observer
from featurebank.extract.wanted import Request, want
from featurebank.pipelines.asking.results import Results, Row
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.jobs.choose.clock import Clock, TimeUp
from featurebank.pipelines.jobs.choose.field import Field
from featurebank.pipelines.jobs.choose.finals import Held, Watch
from featurebank.pipelines.jobs.choose.pool import Images, Pool
from featurebank.pipelines.jobs.choose.race import (
    Rules,
    Standing,
    compared,
    cut_to_fit,
    is_out,
    picked,
    rows_to_tell,
    rungs,
    settled,
)
from featurebank.pipelines.jobs.choose.scoring import Scored, alike, beside, features_of, scored
from featurebank.pipelines.jobs.finetune.question import Finetune
from featurebank.pipelines.questions.linear import Linear
from featurebank.store import FeatureStore

__all__ = ["Choice", "Line", "Race"]

log = logging.getLogger("featurebank")

FINALISTS, TUNED = 4, 3
SLACK = 1.5  # of the first guess at a time: networks are built, images read
PROBE = 5.0  # seconds of a backbone's exact probe, about, however many rows there are


@dataclass(kw_only=True)
class Line:
    """What became of a backbone.

    Attributes:
        rows: of the last rung that it was on; 0 where it was on none.
        standing: on that rung.
        scores: on that rung, see `scoring.SCORES`.
        curve: accuracy by rows.
        state: ``pick``, ``not told apart``, ``worse``, ``cut by time alone`` or ``failed``.
        final: accuracy on the rows set aside.
        tuned: the same of the tuned network.
    """

    rows: int = 0
    standing: Standing | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    curve: dict[int, float] = field(default_factory=dict)
    state: str = "not told apart"
    final: Row | None = None
    tuned: Row | None = None


@dataclass(kw_only=True)
class Choice:
    """What came of a race.

    Attributes:
        pick: the backbone.
        stopped: why it ended.
        rows: of the last rung that all who were left have.
        lines: by backbone, the best first.
        finalists: the pick, then those that are not told apart from the leader and trained.
        notes: for people.
        interrupted: whether a person ended it.
    """

    pick: str
    stopped: str
    rows: int
    lines: dict[str, Line]
    finalists: list[str]
    notes: list[str]
    interrupted: bool = False


class Race:
    """A race over a pool of images.

    Args:
        pool: the images.
        who: takes part.
        store: where features and results go.
        tolerance: see `Rules`.
        confidence: likewise.
        limit: rows that decide at most; `race.LARGEST` if None.
        clock: of the budget.
        device: a resolved one.
        precision: of networks.
        observer: of extractions.
        say: is told a line at a time.
    """

    def __init__(
        self,
        pool: Pool,
        who: Field,
        store: FeatureStore,
        *,
        tolerance: float,
        confidence: float,
        limit: int | None,
        clock: Clock,
        device: str,
        precision: Precision,
        observer: Observer | None = None,
        say: Callable[[str], None] = log.info,
    ) -> None:
        self.pool, self.who, self.store, self.clock, self.say = pool, who, store, clock, say
        self.sizes = rungs(len(pool.order), pool.classes, limit)
        n = len(who.candidates)
        self.rules = Rules(
            tolerance=tolerance, confidence=confidence, comparisons=max(n * (n - 1), 1) * len(self.sizes)
        )
        self.costs = {name: one.ms for name, one in who.candidates.items()}
        self.untrained = {name for name in self.costs if "@random" in name}
        if len(self.untrained) == len(self.costs):  # they are what the race is about
            self.untrained = set()
        self.results = Results(store.root)
        self.lines = {name: Line() for name in who.candidates}
        self.notes = list(pool.notes)
        self.computed = 0
        self._device, self._precision, self._observer = device, precision, observer
        self._lanes = 1 if device.startswith("cuda") else cpu_cores()
        self._slower = SLACK
        self._aside: Images | None = None

    def planned(self) -> list[tuple[int, float]]:
        """Each rung with the seconds that it takes if nobody is dropped, by the speed of the networks alone."""
        return [(size, sum(self._seconds(self.costs, new).values())) for size, new in self._steps()]

    def run(self) -> Choice:
        """The race.

        Raises:
            ConfigError: the budget is too small for the first rung, or no backbone can be extracted.
        """
        first = sum(self._seconds(self.costs, self.sizes[0]).values())
        if first > self.clock.left:
            raise self._too_short(first)
        alive, rows, stopped, interrupted = list(self.costs), 0, self._used_up(), False
        for size, new in self._steps():
            if rows and not self._fits(alive, new):
                stopped = "time"
                break
            alive = [name for name in alive if self.lines[name].state == "not told apart"]
            start, wished = time.monotonic(), sum(self._seconds(dict.fromkeys(alive), new).values()) / self._slower
            try:
                found = self._rung(alive, size)
            except KeyboardInterrupt as end:
                interrupted, stopped = not isinstance(end, TimeUp), "time" if isinstance(end, TimeUp) else "interrupted"
                if not rows:
                    if interrupted:
                        raise
                    raise self._too_short(2 * first) from None
                break
            self._slower = max((time.monotonic() - start) / max(wished, 1e-9), 1.0) if self.computed else self._slower
            rows = size
            alive = self._decide(size, found)
            self.say(f"{size:,} rows: {len(alive)} of {len(self.costs)} left, {alive[0]} leads")
            if stopped_by := settled({name: self._standing(name) for name in alive}, self.rules):
                stopped = stopped_by
                break
        kept = {name: self._standing(name) for name in alive if self.lines[name].state == "not told apart"}
        pick = picked(kept, self.costs, self.rules, untrained=self.untrained)
        self.lines[pick].state = "pick"
        self._say_what_is_open(pick, kept, rows)
        finalists = [pick, *(name for name in kept if name not in self.untrained | {pick})]
        if not interrupted:
            self._finish(finalists, rows)
        if self.results.changed:
            self.results.write_table()
        order = sorted(self.lines, key=lambda name: (-self.lines[name].rows, -self.lines[name].scores.get("ridge", 0)))
        lines = {name: self.lines[name] for name in order}
        return Choice(
            pick=pick,
            stopped=stopped,
            rows=rows,
            lines=lines,
            finalists=finalists,
            notes=self.notes,
            interrupted=interrupted,
        )

    def tune(self, choice: Choice, watch: Watch) -> None:
        """The finalists of a choice tuned on the rows that decided, by the default recipe; the budget does not count.

        What is interrupted goes on where it was when the same is asked again.
        """
        self.clock = Clock(None)
        try:
            held = self._held(choice.finalists[:TUNED], choice.rows)
            if held is None:
                return
            for name in held.names:
                workshop = held.workshop(self.who.candidates[name].spec, device=self._device, watch=watch)
                asked = held.ask(Finetune(), name, workshop)
                if asked.error:
                    self.notes.append(f"{name}: not tuned: {asked.error}")
                    continue
                self.lines[name].tuned = next(row for row in asked.rows if row.primary and row.score == "tuned")
                self.notes.append(f"{name}, tuned: {'; '.join(asked.notes)}")
        except KeyboardInterrupt:
            choice.interrupted = True
            self.notes.append("tuning was interrupted: the same command goes on where it was")

    def _used_up(self) -> str:
        last, every = self.sizes[-1], len(self.pool.order)
        return "all rows are used" if last == every else f"{last:,} of {every:,} rows are used, as many as may decide"

    def _steps(self) -> list[tuple[int, int]]:
        return [(size, size - before) for before, size in zip([0, *self.sizes], self.sizes, strict=False)]

    def _seconds(self, names: Mapping[str, object], new: int) -> dict[str, float]:
        return {name: self.costs[name] / 1000 * new / self._lanes * self._slower for name in names}

    def _standing(self, name: str) -> Standing:
        standing = self.lines[name].standing
        assert standing is not None  # noqa: S101 - asked of those that were on a rung
        return standing

    def _too_short(self, needed: float) -> ConfigError:
        spent = self.clock.budget - self.clock.left
        return ConfigError(
            f"--budget must be enough for the first rung, {self.sizes[0]:,} images of {len(self.costs)} backbones; "
            f"found {self.clock.budget:g} s; about {math.ceil(spent + needed)}s would do, or fewer backbones"
        )

    def _fits(self, alive: Sequence[str], new: int) -> bool:
        """Whether two or more can go on to the next rung in what is left, the others marked as cut by time alone.

        Behind the rung, the leader's final number has to fit too.
        """
        left = self.clock.left - self._last(alive[:1])[alive[0]]
        kept = cut_to_fit(alive, self._seconds(dict.fromkeys(alive), new), left)
        if len(kept) < 2:
            return False
        for name in alive[len(kept) :]:
            self.lines[name].state = "cut by time alone"
        return True

    def _last(self, names: Sequence[str]) -> dict[str, float]:
        """Seconds of final numbers."""
        return {name: own + PROBE for name, own in self._seconds(dict.fromkeys(names), len(self.pool.aside)).items()}

    def _rung(self, alive: Sequence[str], size: int) -> dict[str, Scored]:
        """What each backbone has right on a rung."""
        paths = self._extracted(alive, self.pool.rung(size))
        usable = np.logical_and.reduce([features_of(path)[1] for path in paths.values()])
        found = {name: self._scored(name, path, usable, None) for name, path in paths.items()}
        leader = max(found, key=lambda name: (name not in self.untrained, int(found[name].correct.sum())))
        groups = alike(paths[leader], usable)
        if len(np.unique(groups)) < len(groups):
            found = {name: self._scored(name, path, usable, groups) for name, path in paths.items()}
        return {name: Scored(correct=one.correct[usable], values=one.values) for name, one in found.items()}

    def _scored(self, name: str, path: Path, usable: NDArray[np.bool_], groups: NDArray[np.int64] | None) -> Scored:
        with self.clock.timing():
            return scored(self.results, name, path, usable, groups)

    def _extracted(self, names: Sequence[str], part: Images) -> dict[str, Path]:
        """The feature set of each backbone on a part; one that fails is out of the race."""
        digest = datasets.dataset_digest(part)
        of = {self.who.candidates[name].spec: name for name in names}
        requests = [Request(backbone=spec, split=0) for spec in of]
        wanted = want(requests, [part], self.store, precision=self._precision, digests={0: digest})
        if any(one.outcome.state == "missing" for one in wanted):
            execution = Execution(device=self._device)
            extract(wanted, [part], execution=execution, observer=self.clock.watch(self._observer))
        self.computed += sum(one.outcome.computed for one in wanted)
        paths = {}
        for one in wanted:
            name = of[one.request.backbone]
            if one.outcome.state in ("present", "sealed"):
                paths[name] = one.outcome.path
            else:
                self.lines[name].state = "failed"
                self.notes.append(f"{name}: {one.outcome.error or one.outcome.state}")
        if not paths:
            raise ConfigError(f"at least one backbone must be extracted; found none: {self.notes[-1]}")
        if failed := max(len(one.outcome.failed) for one in wanted):
            said = f"{part.spec.split}: {failed:,} images could not be decoded, and decide nothing"
            self.notes += [said] if said not in self.notes else []
        return paths

    def _decide(self, size: int, found: Mapping[str, Scored]) -> list[str]:
        """Who is left, the leader first."""
        standings = compared(
            {name: one.correct for name, one in found.items()}, self.costs, self.rules, untrained=self.untrained
        )
        for name, standing in standings.items():
            line = self.lines[name]
            line.rows, line.standing, line.scores = size, standing, found[name].values
            line.curve[size] = standing.accuracy
            if is_out(standing, self.rules):
                line.state = "worse"
        return [name for name in standings if self.lines[name].state == "not told apart"]

    def _say_what_is_open(self, pick: str, kept: Mapping[str, Standing], rows: int) -> None:
        for name in self.untrained & kept.keys():
            self.notes.append(f"{name}, which nothing has trained, is not told apart from the leader: it is not picked")
        rivals = [name for name in kept if name != pick]
        if not rivals:
            return
        leader = next(iter(kept))
        differs = kept[rivals[0] if pick == leader else pick].differs
        needed = rows_to_tell(differs, self.rules)
        self.notes.append(
            f"about {max(needed - rows, 0):,} more rows would tell {pick} and {rivals[0]} apart if one point lay "
            f"between them: they differ on {differs:.1%} of the rows"
        )

    def _finish(self, finalists: Sequence[str], rows: int) -> None:
        """The exact probe of finalists, fitted on the rows that decided."""
        kept = cut_to_fit(finalists[:FINALISTS], self._last(finalists[:FINALISTS]), self.clock.left)
        if not kept:
            self.notes.append("no final number: no time is left")
            return
        try:
            held = self._held(kept, rows)
            if held is None:
                return
            for name in held.names:
                with self.clock.timing():
                    asked = held.ask(Linear(), name)
                if asked.error:
                    self.notes.append(f"{name}: no final number: {asked.error}")
                else:
                    self.lines[name].final = next(row for row in asked.rows if row.metric == "accuracy")
        except KeyboardInterrupt as end:
            why = "no time is left" if isinstance(end, TimeUp) else "interrupted"
            self.notes.append(f"no final number of all finalists: {why}")

    def _held(self, finalists: Sequence[str], rows: int) -> Held | None:
        """The rows set aside that have no near duplicate among those that decided, and these, by all finalists."""
        decided = self.pool.rung(rows)
        if self._aside is None:
            self._aside = self._without_duplicates(finalists[0], decided)
        if not len(self._aside):
            said = "no final number: no row set aside is left"
            self.notes += [said] if said not in self.notes else []
            return None
        aside, decided_by = self._extracted(finalists, self._aside), self._extracted(finalists, decided)
        fingerprints = [path.stem for path in (*aside.values(), *decided_by.values())]
        names = [name for name in finalists if name in aside and name in decided_by]
        return Held(names=names, store=self.store, decided=decided, aside=self._aside, fingerprints=fingerprints)

    def _without_duplicates(self, leader: str, decided: Images) -> Images:
        aside = self.pool.part(self.pool.aside, "aside")
        if not len(aside):
            return aside
        near = beside(self._extracted([leader], aside)[leader], self._extracted([leader], decided)[leader])
        if not near.any():
            return aside
        self.notes.append(f"{near.sum():,} rows set aside are near duplicates of rows that decided, and left out")
        return self.pool.part(self.pool.aside[~near], f"aside-{(~near).sum()}")
