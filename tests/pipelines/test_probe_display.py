"""Tables of probes at the widths people have."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from featurebank.pipelines.probing.analysis import CompareTable, GroupTable
from featurebank.pipelines.probing.display import ProbeGrid, compare_table, group_table, render_probes, shift_table
from featurebank.pipelines.probing.run import Probed, ProbeReport
from featurebank.pipelines.asking.results import Result, Row

LONG = "timm:swinv2_base_window12to24_192to384.ms_in22k_ft_in1k"
TRAIN, TEST = "fashion_mnist/train", "fashion_mnist/test"
METRICS = {
    "linear": ["accuracy", "balanced_accuracy", "nll", "brier", "ece", "ece_unscaled"],
    "knn": ["accuracy", "balanced_accuracy", "top5_accuracy"],
    "fewshot": ["accuracy 10-shot", "accuracy 1%", "accuracy 10%"],
}


def row(backbone: str, metric: str, value: float, **more: Any) -> Row:
    settings: dict[str, Any] = {"dataset": TEST, "task": "linear", "low": value - 0.02, "high": value + 0.02}
    return Row(backbone=backbone, metric=metric, value=value, **(settings | more))


def probed(backbone: str, task: str, value: float | None, *, notes: tuple[str, ...] = ()) -> Probed:
    if value is None:
        return Probed(task=task, backbone=backbone, train=TRAIN, test=TEST, error="a probe needs at least two classes")
    rows = [
        row(backbone, metric, value - 0.001 * index, task=task, **({"low": None} if "top5" in metric else {}))
        for index, metric in enumerate(METRICS[task])
    ]
    result = Result(name="0" * 16, rows=tuple(rows), notes=notes)
    return Probed(task=task, backbone=backbone, train=TRAIN, test=TEST, result=result)


def console(width: int) -> Console:
    return Console(file=io.StringIO(), record=True, width=width)


def shown(*parts: RenderableType, width: int = 150) -> str:
    made = console(width)
    for part in parts:
        made.print(part)
    return made.export_text()


def everything(names: tuple[str, ...] = ("low", "high", "broken")) -> list[Probed]:
    values = dict(zip(names, (0.71, 0.93, None), strict=True))
    return [probed(name, task, value) for name, value in values.items() for task in METRICS]


def test_several_tasks_make_one_table_of_their_main_numbers_best_first() -> None:
    (table,) = ProbeGrid.of(everything()).tables(console(150))
    text = shown(table)
    lines = text.splitlines()
    assert lines[0].strip() == f"accuracy: {TRAIN} -> {TEST}"
    assert lines[1].split() == ["backbone", "linear", "knn", "10-shot", "1%", "10%"]
    assert [line.split()[0] for line in lines[3:6]] == ["high", "low", "broken"]
    assert lines[3].split()[1:3] == ["0.930", ".910-.950"]
    assert lines[5].split()[1:] == ["failed"] * 5


def test_one_task_shows_all_its_numbers() -> None:
    (table,) = ProbeGrid.of([probed("net", "linear", 0.9)]).tables(console(150))
    text = shown(table)
    assert text.splitlines()[0].strip() == f"linear: {TRAIN} -> {TEST}"
    for word in ("accuracy", "balanced", "nll", "brier", "ece", "unscaled"):
        assert word in text


@pytest.mark.parametrize("width", [60, 80, 100, 150])
@pytest.mark.parametrize("tasks", [("linear",), ("knn",), ("linear", "knn", "fewshot")])
def test_nothing_is_cut_at_any_width(width: int, tasks: tuple[str, ...]) -> None:
    some = [one for one in everything(("efficientnet_lite0", LONG, "squeezenet1_1")) if one.task in tasks]
    tables = ProbeGrid.of(some).tables(console(width))
    text = shown(*tables, width=width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert LONG[:17] in text
    for index in range(5 if len(tasks) == 3 else len(METRICS[tasks[0]])):
        value = (
            f"{0.93 - 0.001 * (0 if len(tasks) == 3 and index < 2 else index % 3 if len(tasks) == 3 else index):.3f}"
        )
        assert value in text
    if width == 150:
        assert len(tables) == 1


def test_the_main_table_fits_into_80_columns() -> None:
    tables = ProbeGrid.of(everything(("efficientnet_lite0", "mobilenetv2", "squeezenet1_1"))).tables(console(80))
    lines = shown(*tables, width=80).splitlines()
    assert len(tables) == 1
    first = next(index for index, line in enumerate(lines) if line.startswith("mobilenetv2"))
    assert lines[first].split()[1:3] == ["0.930", "0.930"]
    assert lines[first + 1].split()[:2] == [".910-.950", ".910-.950"]


def test_failures_notes_and_counts_stand_below() -> None:
    note = f"{TEST}: 3 of 60 rows left out: 3 failed"
    report = ProbeReport(
        probed=[probed("a", "knn", 0.9, notes=(note, "odd [red]x[/]")), probed("b", "knn", 0.8, notes=(note,))],
        failed={("c", TEST): "not made the same way"},
        passed_over=["d has no test"],
    )
    report.probed.append(probed("e", "knn", None))
    made = console(100)
    render_probes(report, made, seconds=1.25)
    text = made.export_text()
    assert text.count(note) == 1
    assert "a: odd [red]x[/]" in text
    assert "knn of e: a probe needs at least two classes" in text
    assert f"c on {TEST}: not made the same way" in text
    assert "passed over: d has no test" in text
    assert text.splitlines()[-1] == "Probes: 2 computed, 0 known already, 2 failed (1.2 s)."


def shift(backbone: str, own: float, other: float) -> Probed:
    rows = (
        row(backbone, "accuracy", own, task="shift"),
        row(backbone, "accuracy", other, task="shift", dataset="sketch/test"),
        row(backbone, "accuracy_lost", own - other, task="shift", dataset="sketch/test", low=None, high=None),
        row(backbone, "mce", 87.6, task="shift", low=None, high=None),
    )
    return Probed(task="shift", backbone=backbone, train=TRAIN, test=TEST, result=Result(name="0" * 16, rows=rows))


def test_shift_is_a_table_of_sets_with_what_is_lost_and_effective_robustness() -> None:
    some = [shift("a", 0.6, 0.3), shift("b", 0.7, 0.5), shift("c", 0.8, 0.5)]
    text = shown(shift_table([*some, probed("broken", "knn", None)]), width=80)
    line = next(line for line in text.splitlines() if line.startswith("b") and "sketch/test" in line)
    assert line.split()[:5] == ["b", "sketch/test", "0.500", ".480-.520", "0.200"]
    assert line.split()[5].startswith("+0.")
    assert "87.6 %" in text
    assert "failed" in text
    assert "robustness" in text
    assert "…" not in text


def test_comparisons_mark_what_holm_leaves() -> None:
    settings = {"first": LONG, "second": "net", "p": 0.0012, "p_holm": 0.0036}
    rows = (
        row("x", "difference in r2", 0.04, settings=settings),
        row("y", "difference in r2", -0.01, low=-0.03, high=0.01, settings=settings | {"p": 0.3, "p_holm": 0.6}),
    )
    result = Result(name="0" * 16, rows=rows)
    text = shown(compare_table(CompareTable(task="regression", test=TEST, metric="r2", result=result)), width=80)
    assert f"{TEST}, regression: differences in r2" in " ".join(text.split())
    assert "+.040  +.020 +.060" in text
    assert "0.0036 *" in text
    assert "-.010  -.030 +.010" in text
    assert "0.6 *" not in text
    assert "…" not in text


def test_groups_come_worst_first_then_the_gaps() -> None:
    rows = (
        row("net", "accuracy", 0.9, settings={"group": "north", "rows": 1200}),
        row("net", "accuracy", 0.7, settings={"group": "[south]", "rows": 9}),
        row("net", "worst_group_accuracy", 0.7, settings={"group": "[south]"}),
        row("net", "accuracy_gap", 0.2, settings={}),
    )
    result = Result(name="0" * 16, rows=rows)
    text = shown(
        group_table(GroupTable(task="knn", test=TEST, backbone="net", column="place", result=result)), width=80
    )
    body = [line.split() for line in text.splitlines()[3:] if line.strip(" ─")]
    assert body[0][:3] == ["[south]", "9", "0.700"]
    assert body[1][:3] == ["north", "1,200", "0.900"]
    assert body[2][:3] == ["accuracy", "gap", "0.200"]
    assert len(body) == 3
