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
from featurebank.pipelines.features import ProbeOutcome, Report

__all__ = ["live", "outcome_table", "probe_table", "render_report", "render_snapshot"]

STATES = {
    "present": "[dim]sealed already[/]",
    "sealed": "[green]sealed[/]",
    "missing": "waiting",
    "failed": "[red]failed[/]",
    "interrupted": "[yellow]interrupted[/]",
}
PLAIN_EVERY_SECONDS = 10.0


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
        text = snapshot.note or _speed(snapshot)
        self._console.print(f"{done:,} of {total:,} rows  {text}", highlight=False, soft_wrap=True)


def render_snapshot(snapshot: Snapshot) -> RenderableType:
    """One line per feature set that is not finished, and one about speed and what limits it."""
    table = Table.grid(padding=(0, 2))
    waiting = 0
    for job in snapshot.jobs:
        if job.state in ("present", "sealed"):
            continue
        if job.done == 0 and job.state == "missing":
            waiting += 1
            continue
        failed = f"[yellow]{job.failed_rows} failed[/]" if job.failed_rows else ""
        table.add_row(
            job.backbone,
            job.dataset,
            ProgressBar(total=max(job.total, 1), completed=job.done, width=30),
            f"{job.done:,}/{job.total:,}",
            failed,
            f"[yellow]{job.note}[/]" if job.note else "",
        )
    finished = sum(job.state in ("present", "sealed") for job in snapshot.jobs)
    counts = f"{finished} of {len(snapshot.jobs)} feature sets sealed, {waiting} waiting"
    return Group(table, Text(f"{counts}  {snapshot.note or _speed(snapshot)}"))


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


def outcome_table(outcomes: Sequence[Outcome]) -> Table:
    """One row per feature set: what it is, what became of it, how fast, and where the time went."""
    table = Table(title="Feature sets", title_justify="left")
    for name in ("backbone", "dataset", "key", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("rows", "failed", "images/s"):
        table.add_column(name, justify="right")
    table.add_column("decode+transform / forward / write")
    for o in outcomes:
        table.add_row(
            o.backbone,
            f"{o.dataset}/{o.split}",
            o.fingerprint[:8],
            STATES[o.state],
            f"{o.n_rows:,}",
            str(len(o.failed)) if o.failed else "-",
            f"{o.images_per_second:,.0f}" if o.images_per_second else "",
            _where(o.seconds),
        )
    return table


def _where(seconds: Mapping[str, float]) -> str:
    total = sum(seconds.values())
    if not total:
        return ""
    prepare = seconds["read"] + seconds["decode"] + seconds["transform"]
    return f"{prepare / total:.0%} / {seconds['forward'] / total:.0%} / {seconds['write'] / total:.0%}"


def probe_table(probes: Sequence[ProbeOutcome]) -> Table:
    """One row per backbone and probe, best first."""
    table = Table(title="Linear probes: accuracy on the test split, C chosen on validation rows", title_justify="left")
    for name in ("backbone", "train", "test"):
        table.add_column(name, no_wrap=True)
    for name in ("accuracy", "95 % interval", "C"):
        table.add_column(name, justify="right")
    for p in sorted(probes, key=lambda p: -(p.row.value if p.row else -1.0)):
        if p.row is None:
            table.add_row(p.backbone, p.probe.train, p.probe.test, "[red]failed[/]", p.error)
            continue
        interval = f"{p.row.low:.3f} - {p.row.high:.3f}" if p.row.low is not None else ""
        chosen = str((p.row.settings or {}).get("C", ""))
        table.add_row(p.backbone, p.probe.train, p.probe.test, f"{p.row.value:.3f}", interval, chosen)
    return table


def render_report(report: Report, console: Console, *, seconds: float) -> None:
    """The closing tables of ``featurebank features``."""
    console.print(outcome_table(report.outcomes))
    for outcome in report.outcomes:
        for row, reason in list(outcome.failed.items())[:10]:
            console.print(f"  [yellow]{outcome.dataset}/{outcome.split} row {row}[/]: {reason}", highlight=False)
        if len(outcome.failed) > 10:
            console.print(f"  … {len(outcome.failed) - 10} more: featurebank show {outcome.path}", highlight=False)
        if outcome.error:
            console.print(f"  [red]{outcome.backbone} on {outcome.dataset}/{outcome.split}[/]: {outcome.error}")
    for name, reason in report.unavailable.items():
        console.print(f"  [red]{name}[/]: {reason}", highlight=False)
    if report.probes:
        console.print(probe_table(report.probes))
    if report.nothing_to_do:
        console.print(f"Everything is sealed already: nothing was computed or fetched ({seconds:.1f} s).")
    else:
        made = sum(o.state == "sealed" for o in report.outcomes)
        console.print(f"{made} feature sets made in {_duration(seconds)}.")
