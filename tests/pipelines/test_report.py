"""``featurebank report``: its numbers are those of results, its names stay text, its gaps say what would fill them."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import PATIENCE, featurebank_, words
from ood_sets import OTHERS, write_backbone
from probe_sets import clusters, write_pair, write_set
from retrieval_sets import make_pictures, write_split

from featurebank.extract.datasets import open_split
from featurebank.extract.datasets.contract import DatasetSpec
from featurebank.pipelines.asking.results import Computed, Results, Row
from featurebank.pipelines.summaries.report.board import Board, boards_of
from featurebank.pipelines.summaries.report.holdings import Failure, holdings_of
from featurebank.pipelines.summaries.report.mistakes import explains
from featurebank.pipelines.summaries.report.pictures import Point, scatter_svg
from featurebank.pipelines.summaries.report.prices import Price, prices_of
from featurebank.store import FeatureStore

HOSTILE = '<script>alert("x")</script>'


def report(store: Path, *arguments: Any) -> str:
    page = store.parent / "report.html"
    done = featurebank_("report", store, "-o", page, *arguments)
    assert done.code == 0, done.err
    assert f"page: {page}" in words(done.out)
    return page.read_text(encoding="utf-8")


def section(page: str, name: str) -> str:
    return page.partition(f'<section id="{name}">')[2].partition("</section>")[0]


def plain(text: str) -> str:
    return words(html.unescape(re.sub(r"<[^>]+>", "", text)))


def row(backbone: str, value: float, **more: Any) -> Row:
    given: dict[str, Any] = {
        "question": "linear", "train": "pets/train", "test": "pets/test", "set": "pets/test", "metric": "accuracy",
        "primary": True, "n": 100,
    }  # fmt: skip
    return Row(backbone=backbone, value=value, **(given | more))


def keep(root: Path, *rows: Row) -> None:
    results = Results(root)
    for one in rows:
        key = {"of": repr(one)}
        results.once(one.question, key, [], lambda one=one: Computed(rows=[one]), version=1)  # type: ignore[misc]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three backbones with answers, of which one lacks a set, with a failed row, a partial and a damaged file."""
    made = FeatureStore(tmp_path_factory.mktemp("report") / "features")
    names = ["ant", "bee", HOSTILE]
    for name, noise in (("good", 0.3), ("fair", 0.5), (HOSTILE, 0.9)):
        write_pair(made, "pets", name, noise=noise, failed=[2], class_names=names)
    values, labels = clusters(12)
    write_set(made, "cars/test", "good", values, labels)
    write_set(made, "cars/test", "fair", values, labels)
    (broken,) = (made.root / "cars" / "test" / "fair").glob("*.h5")
    broken.write_bytes(b"nothing of ours")
    done = featurebank_(
        "probe", "pets", "--task", "linear", "--task", "knn", "--k", "5", "--compare", "--store", made.root
    )
    assert done.code == 0, done.err
    counted = {"question": "efficiency", "metric": "parameters", "direction": "lower", "primary": False, "n": None}
    nowhere = dict.fromkeys(("train", "test", "set"), "")
    keep(made.root, *(row(name, 1e6 * at, **counted, **nowhere) for at, name in enumerate(("good", "fair"), 1)))
    return made.root


@pytest.fixture(scope="module")
def page(store: Path) -> str:
    return report(store)


def cells(page: str) -> list[tuple[str, list[str]]]:
    """The attributes of each value in the table of every number, behind its backbone."""
    lines = re.findall(r'<tr data-item[^>]*><th scope="row">(.*?)</th>(.*?)</tr>', section(page, "numbers"))
    return [(plain(name), re.findall(r'data-(?:v|low|high)="([^"]*)"', text)) for name, text in lines]


def test_every_number_is_that_of_results(store: Path, page: str) -> None:
    rows = Results(store).rows()
    assert len(rows) > 30
    ends = [(one.backbone, [end for end in (one.value, one.low, one.high) if end is not None]) for one in rows]
    shown = [(name, [float(value) for value in values]) for name, values in cells(page)]
    assert sorted(shown) == sorted(ends)
    table = section(page, "numbers")
    for one in rows:
        assert {one.result, *(text[:16] for text in one.fingerprints)} <= {*re.findall("[0-9a-f]{16}", table)}


def test_the_leaderboard_is_of_one_question_best_first(store: Path, page: str) -> None:
    board = section(page, "answer")
    names = [plain(name) for name in re.findall(r'<th scope="row">(.*?)</th>', board)]
    best = sorted(
        (one for one in Results(store).rows() if one.question == "linear" and one.primary), key=lambda one: -one.value
    )
    assert names == [one.backbone for one in best]
    assert board.count("≈") >= 1
    assert "not told apart from the best: by a paired test" in plain(board)
    lead = plain(page.partition("<header>")[2].partition("</p>")[0])
    assert f"On pets/test, {best[0].backbone} is best at" in lead


def test_the_same_store_gives_the_same_bytes_and_is_not_written_to(store: Path, page: str, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    assert report(store) == page
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before
    copy = tmp_path / "features"
    shutil.copytree(store, copy)
    done = featurebank_("report", "--store", copy, "--html", tmp_path / "page.html", "--json")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    found = done.json
    assert (found["nbytes"], found["numbers"], found["failed"]) == (len(page.encode()), len(Results(store).rows()), 6)


def test_names_from_files_stay_text(page: str) -> None:
    assert HOSTILE not in page
    assert page.count("<script") == 1
    assert html.escape(HOSTILE, quote=True) in page.replace("<wbr>", "")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert re.fullmatch(
        r"default-src 'none'; img-src data:; style-src 'sha256-[\w+/]+='; script-src 'sha256-[\w+/]+='; "
        r"form-action 'none'; base-uri 'none'",
        policy[1],
    )
    assert not re.search(r'https?://|\sstyle=|\son\w+="', page)


def test_coverage_has_four_states_and_failed_rows_their_reason(store: Path, page: str) -> None:
    coverage = section(page, "coverage")
    line = dict(re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', coverage))
    assert re.findall(r'<td class="(\w+)"', line["good"]) == ["sealed"] * 3
    assert re.findall(r'<td class="(\w+)"', line["fair"]) == ["damaged", "sealed", "sealed"]
    assert re.findall(r'<td class="(\w+)"', line[html.escape(HOSTILE).replace("/", "/<wbr>")]) == [
        "missing",
        "sealed",
        "sealed",
    ]
    assert "fair on cars/test:" in plain(coverage)
    assert "7 of 9 sets sealed" in plain(page)
    failed = plain(section(page, "failures"))
    assert "2 rows of 2 sets" in failed
    assert "pets/test/00002truncated file" in failed
    assert "no image of pets/test: --html needs the images of pets/test, which is no dataset known by name" in failed
    assert holdings_of(FeatureStore(store)).sealed[0].failures == (
        Failure(place="pets/test", row=2, id="pets/test/00002", reason="truncated file"),
    )


def test_a_partial_is_told_by_how_far_it_is(tmp_path: Path) -> None:
    from featurebank.store import FeatureSetWriter, Output, Records
    from featurebank.store.fingerprint import fingerprint

    store = FeatureStore(tmp_path / "features")
    key = {"backbone": {"name": "net"}, "dataset": {"name": "pets", "split": "test"}}
    records = Records(ids=["a", "b"], labels=np.array([0, 1]), content_hash=np.ones((2, 16), np.uint8))
    path = store.path_for("pets", "test", "net", fingerprint(key))
    with FeatureSetWriter.create(path, key=key, outputs=[Output(name="pooled", shape=(4,))], records=records):
        pass
    page = report(store.root)
    assert '<td class="partial"' in section(page, "coverage")
    assert "0 of 1 sets sealed" in plain(page)


def test_an_empty_store_says_what_would_fill_it(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    text = plain(report(tmp_path / "features"))
    for command in ("featurebank features CONFIG", "featurebank probe DATASET", "featurebank probe DATASET --compare"):
        assert command in text
    done = featurebank_("report", tmp_path / "nothing")
    assert (done.code, "expected a store's folder" in words(done.err)) == (2, True)
    done = featurebank_("report", tmp_path / "features", "-o", tmp_path / "none" / "page.html")
    assert (done.code, "expected a folder at" in words(done.err)) == (2, True)


def test_the_command_and_the_python_give_the_number_again(store: Path, page: str) -> None:
    texts = [
        html.unescape(text) for text in re.findall(r"<code data-copy>(.*?)</code>", section(page, "again"), re.DOTALL)
    ]
    best = max(
        (one for one in Results(store).rows() if one.question == "linear" and one.primary), key=lambda one: one.value
    )
    command, python = texts[0], texts[1]
    here = Path.cwd()
    os.chdir(store.parent)
    try:
        (answer,) = featurebank_(*command.split()[1:], "--json").json["answers"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run([sys.executable, "-c", python], check=True, capture_output=True, text=True,
                              env=environment, timeout=PATIENCE)  # fmt: skip
    finally:
        os.chdir(here)
    assert answer["known"]
    assert answer["rows"][0]["value"] == best.value
    first, last = done.stdout.splitlines()
    assert float(first.split()[0]) == float(last) == best.value


def test_mistakes_are_the_surest_ones_with_the_images_that_were_extracted(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "features")
    for split, rows in (("train", 60), ("test", 30)):
        folder = make_pictures(tmp_path / "pets" / split, rows, seed=rows)
        opened = open_split(DatasetSpec(name=f"folder:{tmp_path / 'pets'}", split=split))
        write_split(store, opened, "net", clusters(rows, seed=rows, noise=1.2)[0])
        assert folder.is_dir()
    assert featurebank_("linear", "pets", "--store", store.root).code == 0
    kept = Results(store.root).arrays(Results(store.root).rows()[0])
    wrong = np.flatnonzero(kept["predictions"] != kept["labels"])
    order = wrong[np.argsort(-kept["log_confidence"][wrong].astype(float), kind="stable")]
    assert len(order) > 3
    text = report(store.root)
    assert "No images: --html needs the images of pets/test" in plain(section(text, "mistakes"))
    text = section(report(store.root, "--images", f"folder:{tmp_path / 'pets'}"), "mistakes")
    names = re.findall(r'alt="([^":]*): ', text)
    assert names == kept["ids"][order][:24].tolist()
    assert f"{len(order)} of 30 wrong" in plain(text)
    done = featurebank_(
        "report", store.root, "-o", tmp_path / "a.html", "--images", f"folder:{tmp_path / 'pets' / 'train'}"
    )
    assert (done.code, "--html needs the images of pets/test" in words(done.err)) == (2, True)


@pytest.mark.parametrize(
    "change", [{"seconds": "x"}, {"seconds": {"read": "1", "forward": -1}}, {"versions": [1]}, {"device": 3}]
)
def test_what_a_stranger_s_provenance_says_breaks_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    store = FeatureStore(tmp_path / "features")
    store.add("pets/test", "net", np.eye(4, 8), labels=[0, 1, 0, 1], provenance=change)
    (held,) = holdings_of(store).sealed
    assert (held.seconds, held.versions, held.device) in [({}, held.versions, held.device), ({}, {}, "")]
    assert "1 sealed set" in plain(report(store.root))


def test_what_questions_show_of_kept_answers_is_there(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "features")
    for name, noise in (("good", 0.3), ("fair", 0.9)):
        write_backbone(store, name, noise=noise)
    others = [word for name in OTHERS for word in ("--ood", name)]
    for words_ in (
        ("ood", "pets", *others, "--score", "msp", "--score", "mds", "--resamples", "0"),
        ("linear", "pets"),
    ):
        assert featurebank_(*words_, "--store", store.root).code == 0
    page = report(store.root)
    shown = page.partition('<section id="outsiders">')[2].partition('<section id="ranks">')[0]
    means: dict[tuple[str, str], list[float]] = {}
    for one in Results(store.root).rows():
        if one.metric == "auroc" and one.set in OTHERS:
            means.setdefault((one.backbone, one.score), []).append(one.value)
    best = max(means, key=lambda of: np.mean(means[of]))[0]
    assert re.findall("<h2>(.*?)</h2>", shown) == ["Scores", best]
    assert sorted(re.findall("<article data-item><h3>(.*?)</h3>", shown)) == ["mds", "msp"]
    assert "No images: --html needs the images of pets/test" in plain(shown)
    diagrams = page.partition('<section id="reliability">')[2].partition("</section>")[0]
    assert sorted(re.findall("<h3>(.*?)</h3>", diagrams)) == ["fair", "good"]
    for path in (store.root / "results" / "ood").glob("*.npz"):
        path.write_bytes(b"damaged")
    assert "use --force" in plain(report(store.root).partition('<section id="outsiders">')[2])


# Who is best, and what is as good.


def boards(*rows: Row) -> list[Board]:
    return boards_of(rows)


def tied(board: Board) -> list[str]:
    return [line.row.backbone for line in board.lines if line.tied]


def test_a_paired_test_decides_before_intervals_do() -> None:
    ends = [("a", 0.9, 0.88, 0.92), ("b", 0.89, 0.87, 0.91), ("c", 0.7, 0.65, 0.75)]
    rows = [row(name, value, low=low, high=high) for name, value, low, high in ends]
    assert tied(boards(*rows)[0]) == ["b"]
    about = {"question": "compare", "low": 0.001, "high": 0.02}
    told = row("a - b", 0.01, details={"of": "linear", "first": "a", "second": "b", "p_holm": 0.01}, **about)
    assert tied(boards(*rows, told)[0]) == []
    assert "the other 2 are told apart from it" in boards(*rows, told)[0].answer(None)
    other = row("a - c", 0.2, details={"of": "linear", "first": "a", "second": "c", "p_holm": 0.2}, **about)
    assert tied(boards(*rows, other)[0]) == ["b", "c"]


def test_less_is_better_where_a_metric_says_so() -> None:
    ends = [("a", 2.0, 1.8, 2.2), ("b", 1.0, 0.9, 1.1), ("c", 1.2, 1.05, 1.3)]
    rows = [row(name, v, low=low, high=high, metric="mae", direction="lower") for name, v, low, high in ends]
    (board,) = boards(*rows)
    assert [line.row.backbone for line in board.lines] == ["b", "c", "a"]
    assert tied(board) == ["c"]
    price = Price(name="gmacs", title="GMACs", about="", values={"a": 1.0, "b": 4.0, "c": 2.0})
    assert board.front(price) == {"a", "b", "c"}
    assert board.answer(price).endswith("c is not told apart and takes 50 % of the multiply-adds.")
    dear = Price(name="gmacs", title="GMACs", about="", values={"a": 1.0, "b": 4.0, "c": 5.0})
    assert board.front(dear) == {"a", "b"}
    assert board.cheapest(dear) is None


def test_the_board_is_the_question_that_most_backbones_answered() -> None:
    every = [
        row("a", 0.9, question="knn"),
        row("b", 0.8, question="knn"),
        row("a", 0.5),
        row("a", 0.1, question="efficiency"),
    ]
    assert [board.setting.question for board in boards(*every)] == ["knn", "linear"]
    both = [*every, row("b", 0.6)]
    assert [board.setting.question for board in boards(*both)] == ["linear", "knn"]


def test_predictions_of_another_variant_explain_no_number() -> None:
    kept = {"labels": np.array([0, 1, 1, 0]), "predictions": np.array([0, 1, 0, 0])}
    assert explains(row("a", 0.75), kept)
    assert not explains(row("a", 0.5), kept)
    assert not explains(row("a", 0.75, metric="auroc"), kept)
    tuned = [row("a", 0.5, question="finetune", score=score) for score in ("alpha 0 seed 0", "tuned")]
    assert boards(*tuned)[0].setting.score == "tuned"


def test_times_of_one_way_alone_are_compared(tmp_path: Path) -> None:
    def timed(name: str, value: float, way: str) -> Row:
        about = {
            "question": "efficiency",
            "metric": "latency_p50",
            "direction": "lower",
            "train": "",
            "test": "",
            "set": "",
        }
        return row(name, value, score=way, details={"processor": "this"}, **about)

    keep(tmp_path, timed("a", 3.0, "cpu"), timed("b", 2.0, "cpu"), timed("a", 0.1, "cuda"))
    (price,) = prices_of(holdings_of(FeatureStore(tmp_path)), {})
    assert price.values == {"a": 3.0, "b": 2.0}


def points(*of: tuple[str, float, float, bool]) -> Sequence[Point]:
    return [Point(name=name, number=at, x=x, y=y, said="", front=front) for at, (name, x, y, front) in enumerate(of)]


def test_a_picture_draws_cheap_to_the_left_and_better_above() -> None:
    drawn = scatter_svg(
        points(("cheap", 1.0, 0.5, True), ("dear", 100.0, 0.9, True), ("bad", 50.0, 0.4, False)), "ms", "accuracy"
    )
    of = {
        name: (float(x), float(y))
        for name, x, y in re.findall(r"<title>(\w+): </title><circle.*?cx=\"(.*?)\" cy=\"(.*?)\"", drawn)
    }
    assert of["cheap"][0] < of["bad"][0] < of["dear"][0]
    assert of["dear"][1] < of["cheap"][1] < of["bad"][1]
    assert re.findall(r'class="tip"[^>]*>(\w+)<', drawn) == ["bad"]
    (steps,) = re.findall(r'class="front" d="M([^"]*)"', drawn)
    assert steps.startswith(f"{of['cheap'][0]} {of['cheap'][1]}H{of['dear'][0]}V{of['dear'][1]}")
