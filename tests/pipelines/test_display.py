"""What a person sees, at the widths people have."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console, RenderableType

from featurebank.extract.progress import JobProgress, Snapshot
from featurebank.extract.wanted import Outcome
from featurebank.pipelines.asking.cases import Case
from featurebank.pipelines.asking.results import Result, Row
from featurebank.pipelines.asking.run import Asked
from featurebank.pipelines.asking.run import Report as Answers
from featurebank.pipelines.extracting import display
from featurebank.pipelines.extracting.display import live, outcome_table, render_report, render_snapshot
from featurebank.pipelines.extracting.run import Report
from featurebank.pipelines.keeping.doctor import Finding, doctor_table
from featurebank.pipelines.keeping.inspection import entries_table, verify_table
from featurebank.pipelines.questions.linear import Linear
from featurebank.store import Entry, VerifyReport

LONG = "timm:vit_small_patch14_reg4_dinov2.lvd142m@random:0"
SECONDS = {"read": 0.5, "decode": 1.5, "transform": 1.0, "forward": 16.0, "write": 1.0}


def shown(*parts: RenderableType, width: int = 100) -> str:
    console = Console(file=io.StringIO(), record=True, width=width)
    for part in parts:
        console.print(part)
    return console.export_text()


def outcome(**changes: Any) -> Outcome:
    settings: dict[str, Any] = {
        "backbone": "efficientnet_lite0",
        "dataset": "fashion_mnist",
        "split": "train",
        "fingerprint": "0123456789abcdef" * 4,
        "path": Path("features/0123456789abcdef.h5"),
        "state": "sealed",
        "n_rows": 60000,
        "seconds": SECONDS,
        "images_per_second": 1234.5,
    }
    return Outcome(**(settings | changes))


def asked(
    value: float | None, backbone: str = "efficientnet_lite0", error: str = "", notes: tuple[str, ...] = ()
) -> Asked:
    sets = {
        split: (Entry(dataset="pets", split=split, backbone=backbone, fingerprint="", state="sealed", path=Path()),)
        for split in ("train", "test")
    }
    one = Asked(question=Linear(), case=Case(backbone=backbone, sets=sets), error=error)
    if value is not None:
        row = Row(
            question="linear",
            backbone=backbone,
            train="pets/train",
            test="pets/test",
            set="pets/test",
            metric="accuracy",
            primary=True,
            value=value,
            low=value - 0.01,
            high=value + 0.01,
            interval="test rows, Wilson",
        )
        one.results = (Result(question="linear", name="0" * 16, rows=(row,), notes=notes),)
    return one


def test_a7_a9_what_is_known_of_an_answer_stands_below_its_table() -> None:
    note = "on the edge of what was tried, so that the best may lie beyond: C = 1 (highest of 11)"
    text = rendered(report(asked(0.9, notes=(note,)), asked(0.8, "other")), width=200)
    assert "linear: pets/train -> pets/test" in text
    assert "  95 % intervals: test rows, Wilson\n" in text
    assert f"  efficientnet_lite0: {note}\n" in text


def report(*answers: Asked, **changes: Any) -> Report:
    settings: dict[str, Any] = {"outcomes": [outcome()], "precision": "float32", "device": "cpu"}
    return Report(**(settings | changes), answers=Answers(asked=[*answers]))


def rendered(made: Report, *, width: int = 100) -> str:
    console = Console(file=io.StringIO(), record=True, width=width)
    render_report(made, console, seconds=75.0)
    return console.export_text()


def joined(text: str, column: int) -> str:
    """One column of a table, its folded lines put together; columns begin where their titles do."""
    lines = text.splitlines()
    head = next(line for line in lines if line.lstrip().startswith(("backbone", "dataset", "file", "check")))
    starts = [word.start() for word in re.finditer(r"(?:^|(?<=  ))\S", head)]
    stop = starts[column + 1] if column + 1 < len(starts) else None
    return "".join(line[starts[column] : stop].strip() for line in lines[lines.index(head) + 2 :])


def test_the_demo_fits_into_80_columns_on_one_line_each() -> None:
    text = shown(outcome_table([outcome(), outcome(split="test", n_rows=10000)]), width=80)
    row = next(line for line in text.splitlines() if "fashion_mnist/train" in line)
    assert row.split() == ["efficientnet_lite0", "fashion_mnist/train", "sealed", "60,000", "1,234", "15/80/5"]
    assert "…" not in text


@pytest.mark.parametrize("width", [80, 100, 150])
def test_long_names_are_folded_and_nothing_is_cut(width: int) -> None:
    outcomes = [
        outcome(backbone=LONG, dataset="torchvision:FGVCAircraft", failed={3: "truncated"}),
        outcome(state="interrupted", seconds={}, images_per_second=0.0),
    ]
    text = shown(outcome_table(outcomes), width=width)
    assert "…" not in text
    assert joined(text, 0).startswith(LONG)
    assert joined(text, 1).startswith("torchvision:FGVCAircraft/train")
    for part in ("sealed", "interrupted", "60,000", "1,234", "15/80/5"):
        assert part in text
    assert max(map(len, text.splitlines())) <= width


def test_a_column_that_nothing_fills_is_left_out() -> None:
    present = outcome(state="present", seconds={}, images_per_second=0.0)
    head = next(line for line in shown(outcome_table([present])).splitlines() if line.startswith("backbone"))
    assert head.split() == ["backbone", "dataset", "state", "rows"]
    assert "sealed already" in shown(outcome_table([present]))
    assert "failed" in shown(outcome_table([present, outcome(failed={0: "x"})]))


@pytest.mark.parametrize("state", ["present", "sealed", "missing", "failed", "interrupted"])
def test_every_state_has_a_word(state: str) -> None:
    assert joined(shown(outcome_table([outcome(state=state)])), 2)


def test_names_in_brackets_are_names_and_not_markup() -> None:
    odd = "[red]x[/] [/bold]"
    outcomes = [outcome(dataset=odd, state="failed", error=odd, failed={1: odd})]
    text = rendered(report(asked(None, odd, error=odd), outcomes=outcomes, unavailable={odd: odd}))
    assert text.count(odd) == 10
    entry = Entry(dataset=odd, split="s", backbone=odd, fingerprint="0" * 16, state="damaged", path=Path(), message=odd)
    assert shown(entries_table([entry], Path(odd)), width=150).count(odd) == 4
    assert odd in shown(verify_table([VerifyReport(path=Path("a/b"), chunks={}, error=odd)], Path("a")))
    assert shown(doctor_table([Finding(check="x", found=odd, ok=False, advice=odd)])).count(odd) == 2
    job = JobProgress(backbone=LONG, dataset="d/s", done=1, total=2, state="missing", note=odd)
    assert odd in shown(render_snapshot(Snapshot(jobs=(job,))), width=150)


def test_answers_are_ordered_by_accuracy_and_failed_ones_come_last() -> None:
    answers = [asked(0.71, "low"), asked(None, "broken", error="no labels"), asked(0.93, "high")]
    text = rendered(report(*answers), width=80)
    names = [line.split()[0] for line in text.splitlines() if line.startswith(("high", "low", "broken"))]
    assert names == ["high", "low", "broken"]
    assert ".930" in text
    assert ".920-.940" in text
    assert "failed" in text
    assert "…" not in text


def test_the_report_says_what_failed_and_why() -> None:
    failed = {row: f"reason {row}" for row in range(13)}
    text = rendered(
        report(
            asked(None, error="a probe needs at least two classes"),
            outcomes=[outcome(failed=failed), outcome(state="failed", split="test", error="RuntimeError: no memory")],
            unavailable={"mobilenetv3": "unknown backbone 'mobilenetv3'"},
        )
    )
    assert "fashion_mnist/train row 9: reason 9" in text
    assert "reason 10" not in text
    assert "fashion_mnist/train: 3 more: featurebank show fashion_mnist/train efficientnet_lite0" in text
    assert "efficientnet_lite0 on fashion_mnist/test: RuntimeError: no memory" in text
    assert "mobilenetv3: unknown backbone 'mobilenetv3'" in text
    assert "linear of efficientnet_lite0: a probe needs at least two classes" in text
    assert "Feature sets made: 1, in 1m15s." in text


def test_the_report_of_a_run_with_nothing_to_do() -> None:
    text = rendered(report(outcomes=[outcome(state="present")]))
    assert text.splitlines()[-1] == "Everything is sealed already: nothing was computed or fetched (75.0 s)."


def test_without_feature_sets_there_is_no_empty_table() -> None:
    text = rendered(report(outcomes=[], unavailable={"x": "unknown"}))
    assert "Feature sets\n" not in text
    assert "x: unknown" in text


JOBS = (
    JobProgress(backbone="sealed_one", dataset="d/train", done=10, total=10, state="sealed"),
    JobProgress(backbone=LONG, dataset="d/train", done=2500, total=10000, state="missing", failed_rows=2),
    JobProgress(backbone="waiting_one", dataset="d/train", done=0, total=10, state="missing"),
    JobProgress(backbone="broken", dataset="d/train", done=0, total=10, state="failed", note="no memory"),
)
SNAPSHOT = Snapshot(
    jobs=JOBS, images_per_second=41.6, seconds_left=200.0, shares={"decode": 0.25, "forward": 0.75}, limit="forward"
)


@pytest.mark.parametrize("width", [80, 100])
def test_the_live_display_shows_what_moves_and_what_failed(width: int) -> None:
    text = shown(render_snapshot(SNAPSHOT), width=width)
    assert "…" not in text
    assert "2,500/10,000" in text
    assert "2 failed" in text
    assert "no memory" in text
    assert "sealed_one" not in text
    assert "waiting_one" not in text
    status = " ".join(text.split())
    assert "1 of 4 feature sets sealed, 1 waiting 42 images/s 3m20s left limited by forward" in status
    assert "(decode 25% forward 75%)" in status


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: now[0]))
    console = Console(file=io.StringIO(), record=True, width=150)
    with live(console) as observer:
        for now[0] in (100.0, 101.0, 109.9, 110.0, 111.0):
            observer(SNAPSHOT)
        observer(Snapshot(jobs=JOBS, note="compiling"))
        observer(Snapshot(jobs=JOBS, note="compiling"))
    lines = console.export_text().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("2,510 of 10,030 rows  42 images/s  3m20s left  limited by forward")
    assert lines[2] == "2,510 of 10,030 rows  compiling"


def test_on_a_terminal_progress_leaves_nothing_behind() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, height=20)
    with live(console) as observer:
        observer(SNAPSHOT)
    assert "2,500/10,000" in file.getvalue()
    assert file.getvalue().endswith("\x1b[2K")
