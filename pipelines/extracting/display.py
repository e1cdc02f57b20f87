"""What a person sees: the live progress of a run, and its tables. Progress goes to stderr, tables to stdout."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from featurebank.extract.progress import Observer, Snapshot
from featurebank.extract.wanted import Outcome
from featurebank.pipelines.asking.table import render
from featurebank.pipelines.extracting.estimate import Estimate
from featurebank.pipelines.extracting.run import Report
from featurebank.pipelines.keeping.inspection import size_text
from featurebank.pipelines.tables import line, titled_table
from featurebank.store.text import shown

__all__ = ["live", "outcome_table", "render_report", "render_snapshot"]

STATES = {
    "present": Text("sealed already", "dim"),
    "sealed": Text("sealed", "green"),
    "missing": Text("waiting"),
    "failed": Text("failed", "red"),
    "interrupted": Text("interrupted", "yellow"),
}
PLAIN_EVERY_SECONDS = 10.0
SHOWN = 10  # failed images of one split


@contextmanager
def live(console: Console) -> Iterator[Observer]:
    """An observer that redraws on a terminal, and prints a line every ten seconds anywhere else."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    with Live(console=console, refresh_per_second=5, transient=True) as display:
        yield lambda snapshot: display.update(render_snapshot(snapshot))


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = 0.0
        self._note = ""

    def __call__(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        news = snapshot.note not in ("", self._note)
        if not news and (snapshot.note or now - self._last < PLAIN_EVERY_SECONDS):
            return
        self._last, self._note = now, snapshot.note
        done, total = sum(j.done for j in snapshot.jobs), sum(j.total for j in snapshot.jobs)
        text = shown(snapshot.note) or _speed(snapshot)
        self._console.print(f"{done:,} of {total:,} rows  {text}", highlight=False, soft_wrap=True)


def render_snapshot(snapshot: Snapshot) -> RenderableType:
    """One line per feature set that is being made, and one about speed and what limits it."""
    table = Table.grid(padding=(0, 2))
    for fixed in (False, False, False, True):
        table.add_column(no_wrap=fixed, overflow="fold")
    waiting = 0
    for job in snapshot.jobs:
        if job.state in ("present", "sealed"):
            continue
        if job.done == 0 and job.state == "missing":
            waiting += 1
            continue
        table.add_row(
            line(job.backbone),
            line(job.dataset),
            ProgressBar(total=max(job.total, 1), completed=job.done, width=20),
            f"{job.done:,}/{job.total:,}",
            Text(f"{job.failed_rows} failed" if job.failed_rows else "", style="yellow"),
            line(job.note, "yellow"),
        )
    finished = sum(job.state in ("present", "sealed") for job in snapshot.jobs)
    counts = f"{finished} of {len(snapshot.jobs)} feature sets sealed, {waiting} waiting"
    return Group(table, Text(f"{counts}  {shown(snapshot.note) or _speed(snapshot)}"))


def _speed(snapshot: Snapshot) -> str:
    shares = "  ".join(f"{name} {share:.0%}" for name, share in snapshot.shares.items())
    left = "" if snapshot.seconds_left is None else f"  {_duration(snapshot.seconds_left)} left"
    limit = f"  limited by {snapshot.limit}" if snapshot.limit else ""
    return f"{snapshot.images_per_second:,.0f} images/s{left}{limit}  ({shares})"


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds as a person says them.

    >>> _duration(75), _duration(3700)
    ('1m15s', '1h01m')
    """
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 60}m{whole % 60:02}s" if whole >= 60 else f"{whole}s"


def _planned(plan: Sequence[Estimate]) -> str:
    """What a dry run says at its end; a sum of what is known."""
    sizes, times = [one.nbytes for one in plan if one.nbytes], [one.seconds for one in plan if one.seconds is not None]
    known = [f"features of {size_text(sum(sizes))}"] if sizes else []
    devices = " and ".join(sorted({one.device for one in plan if one.seconds is not None}))
    known += [f"at most {_duration(sum(times))}, as earlier on {devices}"] if times else []
    if copied := sum(one.copied for one in plan):
        known.append(f"{copied:,} rows copied from sets of the same images")
    few = min(len(sizes), len(times))
    unknown = f"; not all is known of {len(plan) - few}" if few < len(plan) else ""
    text = ", ".join(known) or "size unknown"
    return f"Dry run: nothing was extracted. {len(plan)} feature sets to make: {text}{unknown}."


def outcome_table(outcomes: Sequence[Outcome], plan: Mapping[str, Estimate] | None = None) -> Table:
    """One row per feature set: what it is, what became of it, how fast, and where the time went, in percent.

    What no feature set has, such as failed rows, gets no column.
    """

    def made(outcome: Outcome) -> Estimate:
        return (plan or {}).get(outcome.fingerprint, Estimate())

    names = {"backbone": [o.backbone for o in outcomes], "dataset": [f"{o.dataset}/{o.split}" for o in outcomes]}
    numbers: dict[str, Sequence[str | Text]] = {
        "rows": [f"{o.n_rows:,}" for o in outcomes],
        "size": [size_text(e.nbytes) if (e := made(o)).nbytes else "" for o in outcomes],
        "copied": [f"{e.copied:,}" if (e := made(o)).copied else "" for o in outcomes],
        "time": [_duration(e.seconds) if (e := made(o)).seconds else "" for o in outcomes],
        "failed": [Text(f"{len(o.failed):,}" if o.failed else "", "yellow") for o in outcomes],
        "images/s": [f"{o.images_per_second:,.0f}" if o.images_per_second else "" for o in outcomes],
        "decode,\nforward,\nwrite %": [_where(o.seconds) for o in outcomes],
    }
    table = titled_table("Feature sets", *names)
    table.add_column("state", no_wrap=True)
    filled = {name: cells for name, cells in numbers.items() if any(cells)}
    for name in filled:
        table.add_column(Text(name), justify="right", no_wrap=True)
    for index, outcome in enumerate(outcomes):
        described = (cells[index] for cells in names.values())
        table.add_row(
            *described,
            STATES[outcome.state] if plan is None else _state(outcome),
            *(cells[index] for cells in filled.values()),
        )
    return table


def _state(outcome: Outcome) -> Text:
    return Text("to make") if outcome.state == "missing" else STATES[outcome.state]


def _where(seconds: Mapping[str, float]) -> str:
    """Shares of reading, decoding and transforming; of the networks; of writing.

    >>> _where({"read": 1, "decode": 2, "transform": 1, "forward": 15, "write": 1})
    '20/75/5'
    """
    total = sum(seconds.values())
    if not total:
        return ""
    prepare = seconds["read"] + seconds["decode"] + seconds["transform"]
    return "/".join(f"{100 * part / total:.0f}" for part in (prepare, seconds["forward"], seconds["write"]))


def render_report(report: Report, console: Console, *, seconds: float) -> None:
    """The closing tables of ``featurebank features``, and below each what failed and why."""
    if report.outcomes:
        console.print(outcome_table(report.outcomes, report.plan))
        _render_failed(report.outcomes, console)
    for outcome in report.outcomes:
        if outcome.error:
            _line(console, f"{outcome.backbone} on {outcome.dataset}/{outcome.split}", "red", outcome.error)
    for name, reason in report.unavailable.items():
        _line(console, name, "red", reason)
    if report.answers.asked or report.answers.failed:
        console.print()
        render(report.answers, console)
    console.print()
    if report.plan is not None:
        console.print(_planned([*report.plan.values()]), highlight=False, soft_wrap=True)
    elif report.nothing_to_do:
        console.print(f"Everything is sealed already: nothing was computed or fetched ({seconds:.1f} s).")
    else:
        made = sum(o.state == "sealed" for o in report.outcomes)
        console.print(f"Feature sets made: {made}, in {_duration(seconds)}.")


def _render_failed(outcomes: Sequence[Outcome], console: Console) -> None:
    """The images of each split that could not be decoded, each once, whatever backbones they were for."""
    splits: dict[str, dict[int, tuple[str, str]]] = {}
    backbones: dict[str, str] = {}
    for outcome in outcomes:
        images = splits.setdefault(f"{outcome.dataset}/{outcome.split}", {})
        for row, reason in outcome.failed.items():
            images.setdefault(row, (outcome.failed_ids.get(row, ""), reason))
            backbones.setdefault(f"{outcome.dataset}/{outcome.split}", outcome.backbone)
    for place, images in splits.items():
        for row in sorted(images)[:SHOWN]:
            name, reason = images[row]
            about = f"{place} row {row}" + (f", {name}" if name else "")
            _line(console, about, "yellow", shown(reason).removeprefix(f"{shown(name)}: "))
        if (more := len(images) - SHOWN) > 0:
            _line(console, place, "yellow", f"{more} more: featurebank show {place} {backbones[place]}")


def _line(console: Console, what: str, style: str, why: str) -> None:
    why = why.removeprefix(f"{what}: ").removeprefix(f"{what.rpartition('/')[0]}: ")
    console.print(Text.assemble("  ", (shown(what), style), f": {why}"), soft_wrap=True)
