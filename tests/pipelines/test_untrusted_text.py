"""Every verb over a store whose names, ids, columns, classes and reasons are a stranger's (C12)."""

from __future__ import annotations

import io
import json
import logging
import sys
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import featurebank_
from probe_sets import clusters
from rich.table import Table
from rich.text import Text

from featurebank.extract.progress import JobProgress, Snapshot
from featurebank.extract.wanted import Outcome
from featurebank.pipelines import cli
from featurebank.pipelines.asking.cases import Case
from featurebank.pipelines.asking.run import Asked
from featurebank.pipelines.asking.run import Report as Answers
from featurebank.pipelines.extracting.display import live, render_report
from featurebank.pipelines.extracting.run import Report
from featurebank.pipelines.questions.linear import Linear
from featurebank.pipelines.streams import Screen
from featurebank.pipelines.tables import titled_table
from featurebank.store import Entry, FeatureSetWriter, FeatureStore, Output, Records
from featurebank.store.fingerprint import fingerprint

MARK = "[red]"
EVIL = f"{MARK}e[/]\x1b]52;c;AA\x07\x1b[31m\x9b1m\u202e\u200b\x7f\r\ny:smile:"


def name(kind: str) -> str:
    return f"{kind}{EVIL}"


def write(store: FeatureStore, place: tuple[str, str], backbone: str, n_rows: int, seed: int) -> None:
    values, labels = clusters(n_rows, seed=seed)
    hashes = np.random.default_rng(seed // 2).integers(0, 256, (n_rows, 16), dtype=np.uint8)
    records = Records(
        ids=[name(f"id{row} ") for row in range(n_rows)],
        labels=labels,
        content_hash=hashes,
        columns={"place": np.array([name("south"), name("north")])[np.arange(n_rows) % 2]},
    )
    classes = [name(f"class{k} ") for k in range(3)]
    key: dict[str, Any] = {
        "dataset": {"name": place[0], "split": place[1], "class_names": classes, name("field"): name("value")},
        "backbone": {"name": backbone},
    }
    outputs = [Output(name="pooled", shape=(values.shape[1],), dtype="float16")]
    path = store.path_for(*place, backbone, fingerprint(key))
    provenance = {"class_names": classes, name("made"): name("by")}
    with FeatureSetWriter.create(path, key=key, outputs=outputs, records=records, provenance=provenance) as writer:
        for chunk, start in enumerate(range(0, n_rows, writer.chunk_rows("pooled"))):
            writer.write_chunk("pooled", chunk, values[start : start + writer.chunk_rows("pooled")])
        writer.mark_ok(0, n_rows)
        writer.mark_failed(3, name("because "))
        writer.seal()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = FeatureStore(tmp_path_factory.mktemp("untrusted") / "features")
    for backbone in (name("net"), name("other")):
        for seed, (dataset, split) in enumerate(
            ((name("pets"), "train"), (name("pets"), "test"), (name("far"), "test"))
        ):
            write(store, (dataset, split), backbone, 40, seed)
    damaged = next(store.root.glob("far*/*/other*/*.h5"))
    damaged.write_bytes(damaged.read_bytes()[:5000])
    return store.root


def check(text: str) -> None:
    """Nothing in it orders, hides or is one of rich's codes."""
    bad = {hex(ord(c)) for c in text if not (c.isprintable() or c == "\n" or unicodedata.category(c) == "Zs")}
    assert not bad
    assert "\U0001f604" not in text


PAIR = name("pets")
VERBS: list[tuple[Sequence[str], int]] = [
    (("ls",), 0),
    (("ls", "--json"), 0),
    (("duplicates", f"{PAIR}/test", "--gallery", f"{PAIR}/train", "--exact"), 0),
    (("ls", "--dataset", "unknown"), 2),
    (("show", f"{PAIR}/test", name("net")), 0),
    (("show", f"{PAIR}/test", name("net"), "--json"), 0),
    (("show", f"{PAIR}/test", "unknown"), 2),
    (("verify",), 1),
    (("probe", PAIR, "--task", "knn", "--compare", "--group", "place"), 0),
    (("probe", PAIR, "--task", "knn", "--compare", "--group", "place", "--json"), 0),
    (("probe", PAIR, "--task", "shift", "--on", name("far")), 1),
    (("retrieve", f"{PAIR}/test", "--by", "place"), 0),
    (("linear", PAIR), 0),
    (("linear", PAIR, "--html", "{tmp}/page.html"), 0),
    (("duplicates", f"{PAIR}/train:test", "--threshold", "0.5", "--html", "{tmp}/page.html"), 0),
    (("results",), 0),
    (("results", "--all", "--pivot"), 0),
    (("results", "--csv", "-"), 0),
    (("results", "--json"), 0),
    (("results", "--where", f"backbone={name('net')}"), 0),
    (("results", "--where", EVIL), 2),
    (("results", "--where", f"{EVIL}=1"), 2),
    (("retrieve", f"{PAIR}/test@{name('net')}", "--recipes"), 0),
    (("ood", PAIR, "--ood", name("far"), "--score", "msp", "--resamples", "0"), 1),
    (("ood", PAIR, "--ood", name("far"), "--score", "msp", "--resamples", "0", "--html", "{tmp}/page.html"), 1),
    (("ood", PAIR, "--id-classes", "1,2", "--score", "mds", "--resamples", "0", "--html", "{tmp}/page.html"), 0),
    (("ood", PAIR, "--ood", name("far"), "--score", EVIL), 2),
    (("shift", PAIR, "--on", f"{PAIR}/train", "--html", "{tmp}/page.html"), 0),
    (("shift", PAIR, "--on", EVIL), 2),
    (("fewshot", PAIR, "--shots", "2", "--protocol", "ncm", "--html", "{tmp}/page.html"), 0),
    (("gc", "--hours", "0"), 0),
    (("duplicates", f"{PAIR}/train:test", "--threshold", "0.5"), 0),
    (("duplicates", f"{PAIR}/train:test", "--threshold", "0.5", "--json"), 0),
    (("export", f"{PAIR}/test", name("net"), "{tmp}/out", "--format", "npy"), 0),
    (("export", f"{PAIR}/test", name("net"), "{tmp}/out", "--output", "unknown"), 2),
    (("datasets", f"unknown{EVIL}"), 2),
    (("backbones", f"unknown{EVIL}"), 2),
    (("merge", "{root}", "--store", "{tmp}/merged"), 1),
    (("pack", "{tmp}/packed", "--dataset", name("far")), 1),
    (("features", "{tmp}/config.yaml"), 2),
]
PATHS_ONLY = ("verify", "gc", "export", "merge", "pack")  # names in them are percent-encoded


@pytest.mark.parametrize(("words", "code"), VERBS, ids=lambda value: value[0] if isinstance(value, tuple) else "")
def test_c12_no_verb_lets_a_name_act(root: Path, tmp_path: Path, words: Sequence[str], code: int) -> None:
    config = {"backbones": [EVIL], "datasets": [], EVIL: EVIL}
    (tmp_path / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    given = [word.replace("{tmp}", str(tmp_path)).replace("{root}", str(root)) for word in words]
    elsewhere = "--store" in given or given[0] in ("datasets", "backbones", "features")
    done = featurebank_(*given, *([] if elsewhere else ["--store", str(root)]))
    check(done.out)
    check(done.err)
    assert done.code == code, done.err
    if (page := tmp_path / "page.html").exists():
        check(text := page.read_text("utf-8"))
        assert MARK in text
    assert given[0] in PATHS_ONLY or MARK in done.out + done.err


def test_c12_a_name_with_line_breaks_makes_no_line_of_the_progress(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    for seed, split in enumerate(("train", "test")):
        write(store, ("pets", split), "net\r\nerror: all is lost\n1 of 1", 40, seed)
    done = featurebank_("knn", "pets", "--k", "3", "--store", tmp_path)
    assert done.code == 0, done.err
    first, *others = done.err.splitlines()
    assert first.split()[:2] == ["1", "of"]
    assert not any(line.strip().startswith(("error", "1 of 1")) for line in others)


def test_c12_progress_and_reports_of_extraction_show_names_as_they_are() -> None:
    job = JobProgress(
        backbone=name("net"), dataset=name("pets"), done=1, total=2, state="missing", failed_rows=1, note=name("note")
    )
    file = io.StringIO()
    with live(Screen(file=file, width=150)) as observer:
        observer(Snapshot(jobs=(job,), note=name("compiling")))
    terminal = Screen(file=io.StringIO(), width=200, force_terminal=True, color_system=None, record=True)
    with live(terminal) as observer:
        observer(Snapshot(jobs=(job,)))
    outcome = Outcome(
        dataset=name("pets"), split="test", backbone=name("net"), fingerprint="ab" * 32, n_rows=2, path=Path("x"),
        state="failed", failed={0: name("because")}, error=name("error"),
    )  # fmt: skip
    sets = {
        split: (Entry(dataset=name("a"), split=split, backbone="", fingerprint="", state="sealed", path=Path()),)
        for split in ("train", "test")
    }
    asked = Asked(question=Linear(), case=Case(backbone=name("net"), sets=sets), error=name("why"))
    report = Report(
        outcomes=[outcome],
        unavailable={name("gone"): name("reason")},
        answers=Answers(asked=[asked], failed={(name("net"), name("b")): name("cause")}, passed_over=[name("lacks")]),
        precision="",
        device="",
    )
    render_report(report, Screen(file=file, width=150), seconds=1.0)
    check(file.getvalue())
    assert file.getvalue().count(MARK) >= 14
    check(terminal.export_text())


def test_c12_strings_in_tables_stay_on_their_line_and_texts_keep_theirs() -> None:
    table = titled_table(EVIL, EVIL)
    table.add_column(Text("two\nlines"))
    table.add_row(EVIL, Text("also\ntwo", "red"))
    inner = Table(EVIL)
    inner.add_row(EVIL)
    file = io.StringIO()
    screen = Screen(file=file, width=200)
    screen.print(table)
    assert len(file.getvalue().splitlines()) == len(["title", "two", "lines", "rule", "also", "two"])
    screen.print(EVIL, inner, Text(EVIL))
    check(file.getvalue())


def test_c12_markup_stands_nowhere() -> None:
    """So that a string that is not escaped cannot be markup, there is none to escape."""
    for path in (Path(__file__).parents[2] / "pipelines").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "rich.markup" not in text, path
        assert "[/]" not in text, path


def test_c12_a_fault_and_a_warning_quote_a_file_without_its_orders(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(logging, "lastResort", logging.StreamHandler())

    def fail() -> None:
        sys.stderr.write(warnings.formatwarning(UserWarning(EVIL), UserWarning, "decode.py", 1))
        assert logging.lastResort is not None
        logging.lastResort.handle(logging.LogRecord("timm", logging.WARNING, "", 1, "keys %s", (EVIL,), None))
        raise RuntimeError(EVIL)

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr().err
    check(told)
    assert (ended.value.code, told.count(MARK)) == (1, 3)


def test_an_error_that_quotes_a_name_with_line_breaks_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a\nerror: all is well\r\nb"
    for words in (("ls", "--store", path), ("export", "a\nb/c", "d", tmp_path / "e")):
        done = featurebank_(*words)
        assert done.code != 0
        assert done.err.startswith("error: ")
        assert done.err.count("\n") == 1
