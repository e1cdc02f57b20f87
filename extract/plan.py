"""Pure planning: from what is wanted and what is there to a list of tasks. No I/O, no model, no image.

A task is (backbones that share a decode) x (a range of rows). Tasks are idempotent and in an order that builds each
network once; the same list serves one process, many processes or a cluster.
"""

from __future__ import annotations

import bisect
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from featurebank.extract.preprocessing import Decode

__all__ = ["Job", "Rows", "Task", "merge", "plan", "task_rows"]

Rows = tuple[tuple[int, int], ...]
"""Half-open row ranges, ascending, not touching."""

ROWS_PER_TASK = 2048


@dataclass(frozen=True, kw_only=True)
class Job:
    """One feature set that is wanted.

    Attributes:
        fingerprint: its key's.
        backbone: the backbone's name; jobs of one name share a network.
        split: index of the dataset split in the run.
        decode: how its images are decoded; only jobs that agree share a task.
        n_rows: records in the split.
    """

    fingerprint: str
    backbone: str
    split: int
    decode: Decode
    n_rows: int


@dataclass(frozen=True, kw_only=True)
class Task:
    """Rows [start, stop) of one split through several backbones.

    Attributes:
        split: index of the dataset split in the run.
        start: first row.
        stop: one past the last row.
        fingerprints: the feature sets that still need rows of this range.
        group: the backbones that are in memory together; all tasks of a group follow one another.
    """

    split: int
    start: int
    stop: int
    fingerprints: tuple[str, ...]
    group: int


def plan(
    jobs: Sequence[Job],
    pending: Mapping[str, Rows],
    *,
    rows_per_task: int = ROWS_PER_TASK,
    backbones_per_pass: int = 8,
) -> list[Task]:
    """Which rows go through which backbones, and in what order.

    Backbones are taken in groups of at most ``backbones_per_pass`` that share a decode, so that memory is bounded;
    within a group, every split is walked once, decoding each image once for all backbones that still need it.

    Args:
        jobs: what is wanted, in the user's order.
        pending: fingerprint to the rows not yet in the store. A job that is not mentioned needs all of its rows; one
            with no rows is done.
        rows_per_task: length of a task's range; ranges begin at multiples of it.
        backbones_per_pass: how many networks are in memory at once.

    Raises:
        ValueError: two jobs with one fingerprint, or ranges outside the split.

    >>> job = Job(fingerprint="a", backbone="net", split=0, decode=Decode(), n_rows=5000)
    >>> [(t.start, t.stop) for t in plan([job], {})]
    [(0, 2048), (2048, 4096), (4096, 5000)]
    >>> plan([job], {"a": ()})
    []
    """
    if rows_per_task < 1 or backbones_per_pass < 1:
        raise ValueError("rows_per_task and backbones_per_pass must be at least 1")
    needed = {job.fingerprint: _checked(job, pending.get(job.fingerprint, ((0, job.n_rows),))) for job in jobs}
    if len(needed) != len(jobs):
        raise ValueError("every job must have its own fingerprint; two jobs of this run have the same")
    tasks: list[Task] = []
    for index, group in enumerate(_groups([job for job in jobs if needed[job.fingerprint]], backbones_per_pass)):
        for split in sorted({job.split for job in group}):
            members = [job for job in group if job.split == split]
            tasks += [
                Task(split=split, start=start, stop=stop, fingerprints=wanting, group=index)
                for start, stop, wanting in _ranges(members, needed, rows_per_task)
            ]
    return tasks


def merge(*ranges: Rows) -> Rows:
    """The union of several sets of ranges.

    >>> merge(((0, 4), (10, 12)), ((4, 6), (11, 20)))
    ((0, 6), (10, 20))
    """
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(r for rows in ranges for r in rows if r[0] < r[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, stop))
    return tuple(merged)


def task_rows(rows: Rows, start: int, stop: int) -> Rows:
    """The part of ``rows`` inside [start, stop).

    >>> task_rows(((0, 6), (10, 20)), 4, 12)
    ((4, 6), (10, 12))
    """
    first = bisect.bisect_right(rows, start, key=operator.itemgetter(1))
    last = bisect.bisect_left(rows, stop, lo=first, key=operator.itemgetter(0))
    return tuple((max(a, start), min(b, stop)) for a, b in rows[first:last])


def _groups(jobs: Sequence[Job], size: int) -> list[list[Job]]:
    by_decode: dict[Decode, dict[str, list[Job]]] = {}
    for job in jobs:
        by_decode.setdefault(job.decode, {}).setdefault(job.backbone, []).append(job)
    groups: list[list[Job]] = []
    for backbones in by_decode.values():
        names = list(backbones)
        parts = (names[first : first + size] for first in range(0, len(names), size))
        groups += [[job for name in part for job in backbones[name]] for part in parts]
    return groups


def _ranges(
    members: Sequence[Job], needed: Mapping[str, Rows], rows_per_task: int
) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    n_rows = members[0].n_rows
    for start in range(0, n_rows, rows_per_task):
        stop = min(start + rows_per_task, n_rows)
        wanting = tuple(job.fingerprint for job in members if task_rows(needed[job.fingerprint], start, stop))
        if wanting:
            yield start, stop, wanting


def _checked(job: Job, rows: Rows) -> Rows:
    rows = merge(rows)
    if rows and (rows[0][0] < 0 or rows[-1][1] > job.n_rows):
        raise ValueError(f"pending rows of {job.fingerprint[:16]} must lie in [0, {job.n_rows}), got {rows}")
    return rows
