"""``featurebank retrieve --html`` on real image files, and the tables at the widths people have."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Done, featurebank_, words
from PIL import Image
from probe_sets import clusters, write_set
from retrieval_sets import cosine_lists, make_pictures, write_pictures, write_split
from rich.console import Console

from featurebank.extract.datasets import open_split
from featurebank.extract.datasets.contract import DatasetSpec, Subset
from featurebank.pipelines.asking.cases import Case
from featurebank.pipelines.asking.images import SIDE, thumbnail
from featurebank.pipelines.asking.results import Result, Row
from featurebank.pipelines.asking.run import Asked, Report
from featurebank.pipelines.asking.sheet import Sheet
from featurebank.pipelines.asking.table import render_sheet, sheets_of
from featurebank.pipelines.questions.retrieve import Retrieve
from featurebank.retrieval import evaluate
from featurebank.store import Entry, FeatureStore


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return make_pictures(tmp_path / "pictures")


@pytest.fixture
def store(tmp_path: Path, pictures: Path) -> FeatureStore:
    made = FeatureStore(tmp_path / "features")
    write_pictures(made, pictures)
    return made


def retrieve(store: FeatureStore, *arguments: Any) -> Done:
    return featurebank_("retrieve", *arguments, "--store", store.root)


def queries(page: Path) -> list[list[tuple[str, bytes, str]]]:
    """Kind, image and name of every figure, query by query; the query itself comes first."""
    figure = r'<figure class="(\w*)"><img src="data:image/\w+;base64,([^"]+)" alt="([^"]*)"'
    return [
        [(kind, base64.b64decode(data), name) for kind, data, name in re.findall(figure, part)]
        for part in page.read_text(encoding="utf-8").split("<h3>")[1:]
    ]


def test_the_page_shows_the_worst_queries_first_with_their_images(
    store: FeatureStore, pictures: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    done = retrieve(store, "pictures/all", "--html", page, "--images", f"folder:{pictures}", "--shown", 4)
    assert done.code == 0, done.err
    assert f"page: {page}" in "".join(done.out.split("\n"))
    opened = store.open("pictures/all", "colours")
    order = np.argsort(evaluate(opened["pooled"], None, opened.labels).per_query["map"], kind="stable")
    shown, lists, ids, labels = queries(page), cosine_lists(opened["pooled"]), opened.ids, opened.labels
    assert len(shown) == 18
    for query, (asked, *found) in zip(order.tolist(), shown, strict=True):
        assert asked[:2] == ("", thumbnail((pictures / ids[query]).read_bytes()))
        assert asked[2] == f"class{labels[query]} · {ids[query]}"
        near = lists[query][:4]
        assert [image for _, image, _ in found] == [thumbnail((pictures / ids[row]).read_bytes()) for row in near]
        right = [labels[row] == labels[query] for row in near]
        assert [kind for kind, _, _ in found] == ["right" if one else "wrong" for one in right]
    text = page.read_text(encoding="utf-8")
    assert "<h2>colours · pictures/<wbr>all · labels</h2>" in text
    assert "<caption>retrieve (labels):<wbr> pictures/<wbr>all</caption>" in text
    assert "18 of 18 queries" in text


def test_a_known_result_and_another_ranking_give_pages_too(store: FeatureStore, pictures: Path, tmp_path: Path) -> None:
    page, images = tmp_path / "page.html", ("--images", f"folder:{pictures}")
    assert retrieve(store, "pictures/all").code == 0
    done = retrieve(store, "pictures/all", "--html", page, *images, "--json")
    assert done.json["answers"][0]["known"]
    assert done.json["page"] == str(page)
    assert {len(figures) for figures in queries(page)} == {11}
    for more in ("--rerank k-reciprocal", "--rerank diffusion", "--whiten pictures/all --expand 3"):
        assert retrieve(store, "pictures/all", "--html", page, *images, *more.split()).code == 0
        assert len(queries(page)) == 18


def test_a4_the_page_of_cut_lists_says_how_deep_they_are(store: FeatureStore, pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    page, images = tmp_path / "page.html", ("--images", f"folder:{pictures}")
    for depth, called, lowest in ((9, "AP@9", "AP@9"), (17, "AP", "average precision")):
        done = retrieve(store, "pictures/all", "--html", page, *images, "--index", "Flat", "--depth", depth)
        assert done.code == 0, done.err
        text = page.read_text(encoding="utf-8")
        assert f"<h3>{called} " in text
        assert f"lowest {lowest} first" in text


def test_queries_and_gallery_are_read_from_their_own_splits(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "features")
    for seed, split in enumerate(("query", "gallery")):
        make_pictures(tmp_path / "both" / split, 9, seed=seed)
        write_pictures(store, tmp_path / "both", split)
    page = tmp_path / "page.html"
    done = retrieve(store, "pictures/query:gallery", "--html", page, "--images", f"folder:{tmp_path / 'both'}")
    assert done.code == 0, done.err
    every = {
        split: {thumbnail(file.read_bytes()) for file in (tmp_path / "both" / split).rglob("*.png")}
        for split in ("query", "gallery")
    }
    for asked, *found in queries(page):
        assert asked[1] in every["query"]
        assert {image for _, image, _ in found} == every["gallery"]


def test_a_dataset_known_by_name_is_opened_again_with_its_subset(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "features")
    split = open_split(DatasetSpec(name="digits", split="all", subset=Subset(size=40, seed=3)))
    values = np.array([np.asarray(split.read(row), np.float64).reshape(-1) for row in range(40)])
    write_split(store, split, "pixels", values.astype(np.float16))
    page = tmp_path / "page.html"
    done = retrieve(store, "digits/all", "--html", page)
    assert done.code == 0, done.err
    assert thumbnail(split.read(0)) in {figures[0][1] for figures in queries(page)}


def test_images_that_cannot_be_opened_are_wrong_use(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "features")
    write_set(store, "pets/test", "net", *clusters(12), failed=[2])
    done = retrieve(store, "pets/test", "--html", tmp_path / "page.html")
    assert (done.code, done.out) == (2, "")
    expected = "--html needs the images of pets/test, which is no dataset known by name"
    assert expected in words(done.err)
    assert "name where they are with --images pets=folder:PATH or --images pets=manifest:FILE" in words(done.err)
    assert not (store.root / "results").exists()


def test_other_images_are_refused(store: FeatureStore, pictures: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    others = make_pictures(tmp_path / "others", 9)
    done = retrieve(store, "pictures/all", "--html", page, "--images", f"folder:{others}")
    assert done.code == 2
    assert "needs the images of pictures/all, 18 with its ids; found 9 others" in words(done.err)
    Image.new("RGB", (40, 40)).save(pictures / "class1" / "001.png")
    done = retrieve(store, "pictures/all", "--html", page, "--images", f"folder:{pictures}")
    assert done.code == 1
    assert "class1/001.png of pictures/all must be the image that the features were made from" in words(done.err)
    assert not page.exists()


def test_a_page_is_of_rankings_with_an_average_precision(store: FeatureStore, pictures: Path, tmp_path: Path) -> None:
    images = ("--images", f"folder:{pictures}")
    write_pictures(store, pictures, backbone="more")
    for arguments, message in (
        (("pictures/all@more", "--protocol", "disc21"), "needs a protocol with an average precision of each query"),
        (
            ("pictures/all@more", "--shown", 18),
            "--shown must be at most 17, the rows of pictures/all that can be found",
        ),
    ):
        done = retrieve(store, *arguments, "--html", tmp_path / "page.html", *images)
        assert (done.code, done.out) == (2, "")
        assert message in words(done.err)
    done = retrieve(store, "pictures/all@more", "--html", tmp_path / "none" / "page.html", *images)
    assert (done.code, done.out) == (2, "")
    assert "--html: expected a folder at" in words(done.err)


def test_each_backbone_has_a_section_and_they_share_the_queries(
    store: FeatureStore, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurebank.pipelines.questions.retrieve.section.QUERIES", 10)
    write_pictures(store, pictures, backbone="more")
    page = tmp_path / "page.html"
    done = retrieve(store, "pictures/all", "--html", page, "--images", f"folder:{pictures}")
    assert done.code == 0, done.err
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"<h2>(\w+) ·", text) == ["colours", "more"]
    assert text.count("5 of 18 queries") == 2
    assert len(queries(page)) == 10


def test_a_question_without_an_answer_has_no_page(tmp_path: Path, pictures: Path) -> None:
    store, page = FeatureStore(tmp_path / "features"), tmp_path / "page.html"
    split = open_split(DatasetSpec(name=f"folder:{pictures}", split="all", label="pictures"))
    write_split(store, split, "net", np.ones((18, 2, 2), np.float16))
    done = retrieve(store, "pictures/all", "--html", page, "--images", f"folder:{pictures}", "--json")
    assert (done.code, done.json["page"]) == (1, None)
    assert not page.exists()


def test_thumbnails_are_small() -> None:
    small = np.zeros((28, 20), np.uint8)
    assert Image.open(io.BytesIO(thumbnail(small))).size == (20, 28)
    large = Image.open(io.BytesIO(thumbnail(np.zeros((500, 1000, 3), np.uint8))))
    assert (large.format, large.size) == ("JPEG", (SIDE, SIDE // 2))


# tables


def retrieved(backbone: str, value: float | None, question: Retrieve) -> Asked:
    sets = {
        role: (Entry(dataset="pets", split=split, backbone=backbone, fingerprint="", state="sealed", path=Path(split)),)
        for role, split in (("queries", "query"), ("gallery", "gallery"))
    }
    one = Asked(question=question, case=Case(backbone=backbone, sets=sets))
    if value is None:
        one.error = "expected labelled rows"
        return one
    metrics = ("map", "hit_rate@1", "hit_rate@10", "recall@1000", "map@r", "r_precision", "mrr", "ndcg")
    ends: dict[str, Any] = {"value": value, "low": value - 0.02, "high": value + 0.02}
    rows = tuple(Row(backbone=backbone, question="retrieve", metric=name, **ends) for name in metrics)
    one.results = (Result(question="retrieve", name="0" * 16, rows=rows),)
    return one


def sheet_of(values: dict[str, float | None], question: Retrieve) -> Sheet:
    (sheet,) = sheets_of(Report(asked=[retrieved(name, value, question) for name, value in values.items()]))
    return sheet


@pytest.mark.parametrize("width", [60, 80, 100, 150])
def test_nothing_is_cut_at_any_width(width: int) -> None:
    values = {"low": 0.5, "timm:swinv2_base_window12to24_192to384": 0.9, "none": None}
    console = Console(file=io.StringIO(), record=True, width=width)
    for table in render_sheet(sheet_of(values, Retrieve(protocol="cub", rerank="diffusion")), console):
        console.print(table)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    whole = words(text)
    assert "retrieve (cub, diffusion): pets/query in pets/gallery" in whole
    assert whole.index("timm") < whole.index("low") < whole.index("none")
    assert text.count(".880-.920") == text.count(".480-.520") == text.count("failed") == 8


def test_a_table_of_failures_alone() -> None:
    console = Console(file=io.StringIO(), record=True, width=80)
    (table,) = render_sheet(sheet_of({"none": None}, Retrieve()), console)
    console.print(table)
    assert "failed" in console.export_text()
