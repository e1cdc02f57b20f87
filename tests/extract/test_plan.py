"""The planner: pure, complete, idempotent, and bounded in memory."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurebank.extract.batches import batches
from featurebank.extract.plan import Job, Rows, merge, plan, task_rows
from featurebank.extract.preprocessing import Decode

DECODES = (Decode(), Decode(exif=False))
ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda p: (min(p), max(p))), max_size=5).map(
    tuple
)


def job(index: int, backbone: str, split: int = 0, n_rows: int = 60, decode: Decode = DECODES[0]) -> Job:
    return Job(fingerprint=f"f{index}", backbone=backbone, split=split, decode=decode, n_rows=n_rows)


def cells(rows: Rows) -> set[int]:
    return {i for start, stop in rows for i in range(start, stop)}


@given(st.lists(ranges, max_size=4))
def test_merge_is_the_union_of_disjoint_ascending_ranges(parts: list[Rows]) -> None:
    merged = merge(*parts)
    assert cells(merged) == set().union(*(cells(p) for p in parts)) if parts else merged == ()
    assert all(a[1] < b[0] for a, b in itertools.pairwise(merged))


@given(ranges, st.integers(0, 60), st.integers(0, 60))
def test_task_rows_is_the_intersection(rows: Rows, start: int, stop: int) -> None:
    assert cells(task_rows(merge(rows), start, stop)) == cells(merge(rows)) & set(range(start, stop))


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[Job], dict[str, Rows]]:
    sizes = draw(st.lists(st.integers(1, 60), min_size=1, max_size=3))
    jobs: list[Job] = []
    for net in range(draw(st.integers(1, 5))):
        decode = draw(st.sampled_from(DECODES))
        for split, n_rows in enumerate(sizes):
            if draw(st.booleans()):
                jobs.append(job(len(jobs), f"net{net}", split, n_rows, decode))
    pending = {
        j.fingerprint: tuple((min(a, j.n_rows), min(b, j.n_rows)) for a, b in draw(ranges))
        for j in jobs
        if draw(st.booleans())
    }
    return jobs, pending


@given(runs(), st.integers(1, 30), st.integers(1, 3))
def test_every_pending_row_is_in_exactly_one_task_of_its_set(
    run: tuple[list[Job], dict[str, Rows]], rows_per_task: int, backbones_per_pass: int
) -> None:
    jobs, pending = run
    tasks = plan(jobs, pending, rows_per_task=rows_per_task, backbones_per_pass=backbones_per_pass)
    by_fingerprint = {j.fingerprint: j for j in jobs}
    for j in jobs:
        covered = Counter(row for t in tasks if j.fingerprint in t.fingerprints for row in range(t.start, t.stop))
        needed = cells(merge(pending.get(j.fingerprint, ((0, j.n_rows),))))
        assert needed <= set(covered)
        assert set(covered.values()) <= {1}
    for t in tasks:
        members = [by_fingerprint[f] for f in t.fingerprints]
        assert members
        assert len({m.decode for m in members}) == 1
        assert len({m.backbone for m in members}) <= backbones_per_pass
        assert {m.split for m in members} == {t.split}
        assert t.start % rows_per_task == 0
        assert t.stop <= members[0].n_rows
        for m in members:
            needed = cells(merge(pending.get(m.fingerprint, ((0, m.n_rows),))))
            assert needed & set(range(t.start, t.stop)), "a task names a set that needs nothing of it"


@given(runs(), st.integers(1, 3))
def test_a_backbone_is_in_one_group_and_groups_follow_one_another(
    run: tuple[list[Job], dict[str, Rows]], backbones_per_pass: int
) -> None:
    jobs, pending = run
    tasks = plan(jobs, pending, backbones_per_pass=backbones_per_pass)
    assert [t.group for t in tasks] == sorted(t.group for t in tasks)
    owner = {j.fingerprint: (j.backbone, j.decode) for j in jobs}
    groups: dict[tuple[str, Decode], set[int]] = {}
    for t in tasks:
        for f in t.fingerprints:
            groups.setdefault(owner[f], set()).add(t.group)
    assert all(len(g) == 1 for g in groups.values())


@given(runs())
def test_planning_is_deterministic_and_what_is_done_is_not_planned(run: tuple[list[Job], dict[str, Rows]]) -> None:
    jobs, pending = run
    assert plan(jobs, pending) == plan(jobs, dict(reversed(pending.items())))
    assert plan(jobs, {j.fingerprint: () for j in jobs}) == []


def test_one_decode_serves_all_backbones() -> None:
    tasks = plan([job(0, "a"), job(1, "b"), job(2, "c")], {}, rows_per_task=30)
    assert [(t.start, t.stop, t.fingerprints) for t in tasks] == [
        (0, 30, ("f0", "f1", "f2")),
        (30, 60, ("f0", "f1", "f2")),
    ]


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="must lie in \\[0, 60\\)"):
        plan([job(0, "a")], {"f0": ((0, 61),)})
    with pytest.raises(ValueError, match="its own fingerprint"):
        plan([job(0, "a"), job(0, "b")], {})
    with pytest.raises(ValueError, match="at least 1"):
        plan([], {}, rows_per_task=0)


@given(st.lists(ranges.map(merge), min_size=1, max_size=3), st.sampled_from([1, 2, 4, 8, 16]))
def test_batches_are_cells_of_one_grid_and_cover_what_is_pending(pending: list[Rows], size: int) -> None:
    made = list(batches([(0, 32), (32, 60)], pending, size))
    for batch in made:
        assert batch.start % size == 0
        assert batch.stop == min(batch.start + size, 32 if batch.start < 32 else 60)
    for index, rows in enumerate(pending):
        covered = {row for b in made if index in b.members for row in range(b.start, b.stop)}
        assert cells(rows) <= covered
        assert all(task_rows(rows, b.start, b.stop) for b in made if index in b.members)
