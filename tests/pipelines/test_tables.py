"""Tables of answers at the widths people have, and on pages."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from featurebank.pipelines.asking.cases import Case
from featurebank.pipelines.asking.compare import _compare_sheet, _group_sheet
from featurebank.pipelines.asking.page import sheet_html
from featurebank.pipelines.asking.register import find_question
from featurebank.pipelines.asking.results import Result, Row
from featurebank.pipelines.asking.run import Asked, Report
from featurebank.pipelines.asking.sheet import Sheet
from featurebank.pipelines.asking.table import render, render_sheet, sheets_of
from featurebank.pipelines.questions.knn import KNN
from featurebank.pipelines.questions.shift import Shift
from featurebank.store import Entry

LONG = "timm:swinv2_base_window12to24_192to384.ms_in22k_ft_in1k"
TRAIN, TEST = "fashion_mnist/train", "fashion_mnist/test"
METRICS: dict[str, list[tuple[str, str]]] = {
    "linear": [(name, "") for name in ("accuracy", "balanced_accuracy", "nll", "brier", "ece", "ece_unscaled")],
    "knn": [(name, "") for name in ("accuracy", "balanced_accuracy", "top5_accuracy")],
    "fewshot": [("accuracy", "10"), ("accuracy", "1%"), ("accuracy", "10%")],
}


def row(backbone: str, metric: str, value: float, **more: Any) -> Row:
    settings: dict[str, Any] = {"set": TEST, "train": TRAIN, "test": TEST, "question": "linear"}
    ends = {"low": value - 0.02, "high": value + 0.02, "interval": "test rows, Wilson"}
    return Row(backbone=backbone, metric=metric, value=value, **(settings | ends | more))


def case(backbone: str) -> Case:
    sets = {
        place.rpartition("/")[2]: Entry(
            dataset="fashion_mnist", split=place.rpartition("/")[2], backbone=backbone, fingerprint="", state="sealed",
            path=Path(place),
        )
        for place in (TRAIN, TEST)
    }  # fmt: skip
    return Case(backbone=backbone, sets={role: (entry,) for role, entry in sets.items()})


def asked(backbone: str, name: str, value: float | None, *, notes: tuple[str, ...] = ()) -> Asked:
    one = Asked(question=find_question(name)(), case=case(backbone))
    if value is None:
        one.error = "a probe needs at least two classes"
        return one
    rows = [
        row(
            backbone, metric, value - 0.001 * index, question=name, shots=shots, primary=metric == "accuracy",
            **({"low": None} if "top5" in metric else {}),
        )
        for index, (metric, shots) in enumerate(METRICS[name])
    ]  # fmt: skip
    one.results = (Result(question=name, name="0" * 16, rows=tuple(rows), notes=notes),)
    return one


def console(width: int) -> Console:
    return Console(file=io.StringIO(), record=True, width=width)


def shown(*parts: RenderableType, width: int = 150) -> str:
    made = console(width)
    for part in parts:
        made.print(part)
    return made.export_text()


def everything(names: tuple[str, ...] = ("low", "high", "broken")) -> list[Asked]:
    values = dict(zip(names, (0.71, 0.93, None), strict=True))
    return [asked(name, task, value) for name, value in values.items() for task in METRICS]


def sheet_of(some: list[Asked]) -> Sheet:
    return sheets_of(Report(asked=some))[0]


def test_several_questions_make_one_table_of_their_main_numbers_best_first() -> None:
    (table,) = render_sheet(sheet_of(everything()), console(150))
    lines = shown(table).splitlines()
    assert lines[0].strip() == f"accuracy: {TRAIN} -> {TEST}"
    assert lines[1].split() == ["fewshot"] * 3
    assert lines[2].split() == ["backbone", "linear", "knn", "10-shot", "1%", "10%"]
    assert [line.split()[0] for line in lines[4:7]] == ["high", "low", "broken"]
    assert lines[4].split()[1:3] == [".930", ".910-.950"]
    assert lines[6].split()[1:] == ["failed"] * 5


def test_a_backbone_asked_with_other_options_has_a_table_for_each() -> None:
    some = [asked("net", "knn", 0.9), asked("net", "knn", 0.8), asked("other", "knn", 0.7)]
    some[1].question = KNN(k=(1,))
    first, second = sheets_of(Report(asked=some))
    assert first.title.endswith(f"{TEST}, k 5 10 20 50 100 200")
    assert [names for names, _ in first.lines] == [("net",), ("other",)]
    assert second.title.endswith(f"{TEST}, k 1")
    assert [row.value for row in second.rows if row.primary] == [0.8]


def test_one_question_shows_all_its_numbers() -> None:
    (table,) = render_sheet(sheet_of([asked("net", "linear", 0.9)]), console(150))
    text = shown(table)
    assert text.splitlines()[0].strip() == f"linear: {TRAIN} -> {TEST}"
    for word in ("accuracy", "balanced", "nll", "brier", "ece", "unscaled"):
        assert word in text


@pytest.mark.parametrize("width", [60, 80, 100, 150])
@pytest.mark.parametrize("tasks", [("linear",), ("knn",), ("linear", "knn", "fewshot")])
def test_nothing_is_cut_at_any_width(width: int, tasks: tuple[str, ...]) -> None:
    some = [one for one in everything(("efficientnet_lite0", LONG, "squeezenet1_1")) if one.question.name in tasks]
    tables = render_sheet(sheet_of(some), console(width))
    text = shown(*tables, width=width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert LONG[:17] in text
    for index in range(5 if len(tasks) == 3 else len(METRICS[tasks[0]])):
        value = 0.93 - 0.001 * (0 if len(tasks) == 3 and index < 2 else index % 3 if len(tasks) == 3 else index)
        assert f"{value:.3f}".removeprefix("0") in text
    if width == 150:
        assert len(tables) == 1


def test_the_main_table_fits_into_80_columns() -> None:
    tables = render_sheet(sheet_of(everything(("efficientnet_lite0", "mobilenetv2", "squeezenet1_1"))), console(80))
    lines = shown(*tables, width=80).splitlines()
    assert len(tables) == 1
    first = next(index for index, line in enumerate(lines) if line.startswith("mobilenetv2"))
    assert lines[first].split()[1:3] == [".930", ".930"]
    assert lines[first + 1].split()[:2] == [".910-.950", ".910-.950"]


def test_failures_notes_and_counts_stand_below() -> None:
    note = f"{TEST}: 3 of 60 rows left out: 3 failed"
    report = Report(
        asked=[asked("a", "knn", 0.9, notes=(note, "odd [red]x[/]")), asked("b", "knn", 0.8, notes=(note,))],
        failed={("c", TEST): "not made the same way"},
        passed_over=["d has no test"],
    )
    report.asked.append(asked("e", "knn", None))
    made = console(100)
    render(report, made, seconds=1.25)
    text = made.export_text()
    assert text.count(note) == 1
    assert "a: odd [red]x[/]" in text
    assert "knn of e: a probe needs at least two classes" in text
    assert f"c on {TEST}: not made the same way" in text
    assert "passed over: d has no test" in text
    assert text.splitlines()[-1] == "Answers: 2 computed, 0 known already, 2 failed (1.2 s)."


def shift(backbone: str, own: float, other: float) -> Asked:
    nothing = {"low": None, "high": None}
    rows = (
        row(backbone, "accuracy", own, question="shift", primary=True),
        row(backbone, "accuracy", other, question="shift", set="sketch/test", primary=True),
        row(backbone, "accuracy_lost", own - other, question="shift", set="sketch/test", **nothing),
        row(backbone, "mce", 87.6, question="shift", **nothing),
    )
    one = Asked(question=Shift(on=("sketch/test",)), case=case(backbone))
    one.results = (Result(question="shift", name="0" * 16, rows=rows),)
    return one


def test_shift_is_a_table_of_sets_with_what_is_lost_and_effective_robustness() -> None:
    some = [shift("a", 0.6, 0.3), shift("b", 0.7, 0.5), shift("c", 0.8, 0.5)]
    broken = Asked(question=Shift(on=("sketch/test",)), case=case("broken"), error="no head")
    main, robust = sheets_of(Report(asked=[*some, broken]))
    text = shown(*render_sheet(main, console(80)), width=80)
    line = next(line for line in text.splitlines() if line.startswith("b") and "sketch/test" in line)
    assert line.split()[:5] == ["b", "sketch/test", ".500", ".480-.520", ".200"]
    assert "87.6" in text
    assert "failed" in text
    assert "…" not in text
    (found,) = [line for line in shown(*render_sheet(robust, console(80)), width=80).splitlines() if line[:2] == "b "]
    assert found.split()[1].startswith("+.")


def test_comparisons_mark_what_holm_leaves() -> None:
    details = {"first": LONG, "second": "net", "p": 0.0012, "p_holm": 0.0036}
    rows = (
        row("x", "r2", 0.04, details=details),
        row("y", "r2", -0.01, low=-0.03, high=0.01, details=details | {"p": 0.3, "p_holm": 0.6}),
    )
    result = Result(question="compare", name="0" * 16, rows=rows)
    text = shown(*render_sheet(_compare_sheet(result, "regression", "r2"), console(80)), width=80)
    assert f"{TEST}, regression: differences in r2" in " ".join(text.split())
    assert "+.040" in text
    assert "+.020 +.060" in text
    assert "0.0036 *" in text
    assert "-.030 +.010" in text
    assert "0.6 *" not in text
    assert "…" not in text


def test_groups_come_worst_first_then_the_gaps() -> None:
    rows = (
        row("net", "accuracy", 0.9, group="north", n=1200),
        row("net", "accuracy", 0.7, group="[south]", n=9),
        row("net", "worst_group_accuracy", 0.7, group="[south]"),
        row("net", "accuracy_gap", 0.2),
    )
    result = Result(question="groups", name="0" * 16, rows=rows)
    text = shown(*render_sheet(_group_sheet(result, rows[0], "place"), console(80)), width=80)
    body = [line.split() for line in text.splitlines()[3:] if line.strip(" ─")]
    assert body[0][:3] == ["[south]", "9", ".700"]
    assert body[1][:3] == ["north", "1,200", ".900"]
    assert body[2][:3] == ["accuracy", "gap", ".200"]
    assert len(body) == 3


def test_a_sheet_as_html_has_a_caption_scopes_and_escaped_names() -> None:
    text = sheet_html(sheet_of([asked("<b>net", "linear", 0.9), asked("low", "linear", 0.5)]))
    assert "<caption>linear:<wbr>" in text
    assert '<th scope="row">&lt;b&gt;net</th>' in text
    assert '<span class="best">.900</span><small>.880-.920</small>' in text
    assert "<b>net" not in text


@pytest.mark.parametrize(("rivals", "best"), [(True, [".70"]), (False, [".60", ".70"])])
def test_the_best_is_among_all_scores_or_of_each(rivals: bool, best: list[str]) -> None:
    values = {("one", "box"): 0.5, ("one", "mask"): 0.7, ("two", "box"): 0.6, ("two", "mask"): 0.4}
    lines = [
        (place, (Row(question="detect", backbone=place[0], metric="ap", value=value, score=place[1]),))
        for place, value in values.items()
    ]
    sheet = Sheet(title="detect", names=["backbone", "score"], columns=["ap"], lines=[*lines], rivals=rivals)
    assert sorted(re.findall(r'class="best">(\.\d\d)', sheet_html(sheet))) == best
