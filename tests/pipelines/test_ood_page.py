"""The page of ``featurebank ood``, read back with a parser: curves, shares, names, and nothing from outside."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from answers import by_score
from command_line import PATIENCE, featurebank_, words
from numpy.typing import NDArray
from ood_sets import HEAD, OTHERS, outside, write_backbone, write_ood_set
from PIL import Image
from probe_sets import clusters, write_set
from retrieval_sets import make_pictures, write_split
from runs import RESNET, make_images

from featurebank.extract.datasets import open_split
from featurebank.extract.datasets.contract import DatasetSpec
from featurebank.pipelines.asking.images import open_images, thumbnail
from featurebank.pipelines.asking.kept_arrays import packed
from featurebank.pipelines.asking.results import Results
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.extracting.config import RunConfig
from featurebank.pipelines.extracting.run import run_features
from featurebank.pipelines.questions.ood.section import BINS, HEIGHT, SIDE, WIDTH, histogram, roc_curve
from featurebank.store import FeatureStore

RANDOM = "timm:net@random:0"


class Page(HTMLParser):
    """What stands in a page: headings, the points of each line of each picture, all text, and links."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.headings: list[tuple[str, str]] = []
        self.pictures: list[tuple[str, list[NDArray[np.float64]]]] = []
        self.text: list[str] = []
        self.links: list[str] = []
        self.tags: Counter[str] = Counter()
        self._heading = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags[tag] += 1
        if tag in ("h2", "h3"):
            self._heading = tag
            self.headings.append((tag, ""))
        if tag == "svg":
            self.pictures.append((found["aria-label"], []))
        if tag in ("polyline", "polygon"):
            points = [[float(number) for number in point.split(",")] for point in found["points"].split()]
            self.pictures[-1][1].append(np.array(points))
        self.links += [found[name] for name in ("href", "src") if name in found]

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._heading:
            self.headings[-1] = (self._heading, self.headings[-1][1] + data)

    def handle_endtag(self, tag: str) -> None:
        if tag == self._heading:
            self._heading = ""


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    made = FeatureStore(tmp_path / "features")
    write_backbone(made, "good", head=HEAD)
    write_backbone(made, RANDOM, noise=0.9)
    return made


def make(store: FeatureStore, *arguments: Any, sets: tuple[str, ...] = OTHERS) -> tuple[Page, Any, Path]:
    path = store.root.parent / "page.html"
    keys = [word for name in sets for word in ("--ood", name)]
    chosen = ("--score", "msp", "--score", "mds", "--resamples", 0, *arguments)
    done = featurebank_("ood", "pets", *keys, *chosen, "--html", path, "--json", "--store", store.root)
    assert done.code == 0, done.err
    return Page(path.read_text(encoding="utf-8")), done.json, path


def test_sections_and_scores_are_in_order(store: FeatureStore) -> None:
    page, found, _ = make(store)
    ranked = sorted(by_score(found), key=lambda one: -one["scores"][0]["mean_auroc"])
    wanted = [("h2", "Scores")]
    for one in ranked:
        wanted.append(("h2", one["backbone"] + (" (random weights)" if one["random_weights"] else "")))
        wanted += [("h3", entry["score"]) for entry in one["scores"]]
    assert page.headings == wanted
    text = "".join(page.text)
    for one in ranked:
        for entry in one["scores"]:
            for place in OTHERS:
                cells = entry["sets"][place]
                shown = ", ".join(
                    f"{title} {cells[name]['value']:.3f}{ends(cells[name]['interval'])}"
                    for title, name in (("AUROC", "auroc"), ("FPR@95", "fpr_at_95"))
                )
                assert f"{place}: {shown}" in text


def ends(interval: list[float] | None) -> str:
    """An interval in brackets, without zeros before the point."""
    return "" if interval is None else f" ({'-'.join(f'{end:.3f}' for end in interval)})".replace("0.", ".")


def test_curves_enclose_the_auroc_and_histograms_all_rows(store: FeatureStore) -> None:
    page, found, _ = make(store, "--backbone", "good")
    entries = {entry["score"]: entry for entry in by_score(found)[0]["scores"]}
    assert len(page.pictures) == 2 * len(entries)
    for label, lines in page.pictures:
        score, _, kind = label.partition(": ")
        if kind == "ROC curves":
            assert len(lines) == len(OTHERS)
            for place, points in zip(OTHERS, lines, strict=True):
                x, y = points[:, 0] / SIDE, 1 - points[:, 1] / SIDE
                assert (points[0].tolist(), points[-1].tolist()) == ([0, SIDE], [SIDE, 0])
                assert np.trapezoid(y, x) == pytest.approx(entries[score]["sets"][place]["auroc"]["value"], abs=0.01)
        else:
            assert len(lines) == 1 + len(OTHERS)
            assert min(points[:, 1].min() for points in lines) == 0
            for points in lines:
                assert points[:, 0].min() >= 0
                assert points[:, 0].max() <= WIDTH
                assert points[:, 1].max() <= HEIGHT


def test_a_curve_is_its_definition_with_ties() -> None:
    generator = np.random.default_rng(0)
    inside, others = generator.integers(2, 9, 40).astype(float), generator.integers(0, 7, 30).astype(float)
    x, y = roc_curve(inside, others)
    thresholds = [np.inf, *np.unique(np.concatenate([inside, others]))[::-1]]
    np.testing.assert_allclose(x, [(others >= t).mean() for t in thresholds])
    np.testing.assert_allclose(y, [(inside >= t).mean() for t in thresholds])


def test_histograms_gather_the_tails() -> None:
    inside = np.concatenate([np.linspace(0, 1, 999), [1e9]])
    edges, own, others = histogram(inside, {"far": np.linspace(-1, 0, 500)})
    assert edges[-1] < 2
    assert own.sum() == pytest.approx(1)
    assert others["far"].sum() == pytest.approx(1)
    edges, own, _ = histogram(np.full(5, 3.0), {"same": np.full(7, 3.0)})
    assert len(edges) == BINS + 1
    assert own.max() == 1


def test_the_page_needs_nothing_and_runs_nothing(store: FeatureStore) -> None:
    hostile = "<script>alert(1)</script>&x"
    write_ood_set(store, f"{hostile}/test", "good", outside(50, near=False, seed=3), np.full(50, -1))
    page, _, _ = make(store, sets=(hostile,))
    assert page.tags["script"] == 1, "other scripts than our own"
    assert page.links == []
    assert any(hostile in text for text in page.text)


def write_folder(store: FeatureStore, folder: Path, split: str, rows: int) -> None:
    """Images of a folder, those of pets with features in three clusters, others with features elsewhere."""
    make_pictures(folder if split == "all" else folder / split, rows, seed=rows)
    opened = open_split(DatasetSpec(name=f"folder:{folder}", split=split))
    values, _ = clusters(rows, seed=rows, noise=0.3)
    write_split(store, opened, "good", values if folder.name == "pets" else (1 - values).astype(np.float16))


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[FeatureStore, Path]:
    store = FeatureStore(tmp_path / "features")
    for split, rows in (("train", 60), ("test", 30)):
        write_folder(store, tmp_path / "pets", split, rows)
    write_folder(store, tmp_path / "cars", "all", 24)
    return store, tmp_path


def figures(path: Path) -> dict[str, list[tuple[str, bytes]]]:
    """Heading to the id and the image of each figure below it."""
    found = {}
    for part in path.read_text(encoding="utf-8").split("<h4>")[1:]:
        heading, _, rest = part.partition("</h4>")
        pairs = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]*)" loading="lazy">', rest)
        found[heading.replace("<wbr>", "")] = [(name, base64.b64decode(data)) for data, name in pairs]
    return found


def test_the_most_wrongly_scored_images_are_shown(pictures: tuple[FeatureStore, Path]) -> None:
    store, folder = pictures
    images = [word for name in ("pets", "cars") for word in ("--images", f"{name}=folder:{folder / name}")]
    _, found, path = make(store, *images, "--id-classes", "0,2", sets=("cars",))
    best = by_score(found)[0]["scores"][0]["score"]
    every = Results(store.root).rows()
    whole, kept = (Results(store.root).arrays(next(r for r in every if r.score == name)) for name in ("", best))
    shown = figures(path)
    assert list(shown) == [
        f"pets/test: the lowest {best}",
        f"pets/test:held-out: the highest {best}",
        f"cars/all: the highest {best}",
    ]
    for (place, below, sign), figure in zip(
        (
            ("pets/test", folder / "pets" / "test", 1),
            ("pets/test:held-out", folder / "pets" / "test", -1),
            ("cars/all", folder / "cars", -1),
        ),
        shown.values(),
        strict=True,
    ):
        order = np.argsort(sign * kept[place], kind="stable")[:8]
        ids = whole[f"{place} ids"][order].tolist()
        assert figure == [(name, thumbnail((below / name).read_bytes())) for name in ids]


def test_images_that_are_not_known_are_told_and_wrong_ones_refused(pictures: tuple[FeatureStore, Path]) -> None:
    store, folder = pictures
    page, _, _ = make(store, sets=("cars",))
    assert "img" not in page.tags
    assert sum("No images: --html needs the images of" in text for text in page.text) == 2
    wrong = ("--images", f"cars=folder:{folder / 'pets'}")
    done = featurebank_("ood", "pets", "--ood", "cars", "--html", folder / "a.html", *wrong, "--store", store.root)
    assert (done.code, done.out) == (2, "")
    assert "--html needs the images of cars/all" in words(done.err)
    assert "name where they are with --images cars=folder:PATH" in words(done.err)


def test_known_results_are_shown_too(store: FeatureStore) -> None:
    first, _, path = make(store)
    before = path.read_bytes()
    again, found, _ = make(store)
    assert all(one["known"] for one in by_score(found))
    assert path.read_bytes() == before
    assert first.text == again.text


def test_without_a_result_there_is_no_page(store: FeatureStore) -> None:
    path = store.root.parent / "page.html"
    arguments = ("--ood", "noise", "--backbone", RANDOM, "--head", "own", "--html", path)
    assert featurebank_("ood", "pets", *arguments, "--store", store.root).code == 1
    assert not path.exists()


@pytest.mark.parametrize(("scheme", "ink"), [(1, (0, 114, 178)), (0, (86, 180, 233))], ids=["light", "dark"])
def test_a_browser_shows_the_colours(store: FeatureStore, tmp_path: Path, scheme: int, ink: tuple[int, ...]) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no Chromium")
    _, _, path = make(store, "--backbone", "good")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--blink-settings=preferredColorScheme={scheme}"]
    places = [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'page.png'}"]
    command = [browser, *options, *places, "--window-size=900,2400", path.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).reshape(-1, 3)
    assert (pixels == ink).all(1).sum() > 50


@pytest.mark.parametrize(
    "name", ["python:trap.py:TRAP", "folder:trap", "torchvision:CIFAR10", "manifest:trap.csv", "url:trap", "unheard-of"]
)
def test_c2_the_dataset_that_a_store_names_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap.py").write_text("import pathlib\npathlib.Path('sprung').touch()\n", encoding="utf-8")
    store = FeatureStore(tmp_path / "features")
    values, labels = clusters(60, seed=1)
    for split in ("train", "test"):
        write_set(store, f"{name}/{split}", "good", values, labels)
    write_ood_set(store, "noise/test", "good", outside(50, near=False, seed=3), np.full(50, -1))
    opened: list[object] = []
    monkeypatch.setattr("featurebank.extract.datasets.open_split", opened.append)
    page = ("--html", tmp_path / "page.html", "--store", store.root)
    done = featurebank_("ood", name, "--ood", "noise", "--score", "msp", "--resamples", "0", *page)
    assert done.code == 0, done.err
    told = f"No images: --html needs the images of {name}/test, which is no dataset known by name"
    assert told in (tmp_path / "page.html").read_text(encoding="utf-8")
    done = featurebank_("retrieve", f"{name}/test@good", *page)
    assert done.code == 2
    assert f"which is no dataset known by name; name where they are with --images {name}=folder:PATH" in words(done.err)
    assert opened == []
    assert not (tmp_path / "sprung").exists()


def test_d8_the_page_finds_the_images_that_were_extracted_from_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of sets that this store sealed and this user extracted; a stranger's store opens nothing, secret or not."""
    monkeypatch.setenv("FEATUREBANK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for seed, split in enumerate(("train", "test")):
        make_images(Path("birds", split), 6, seed=seed)
    wish = {"name": RESNET, "outputs": ["pooled"]}
    dataset = {"name": "folder:birds", "label": "mine", "splits": ["train", "test"]}
    extraction = {"device": "cpu", "compile": "never", "precision": "float32", "workers": 1}
    run_features(
        RunConfig.model_validate(
            {"store": tmp_path / "own", "backbones": [wish], "datasets": [dataset], "extraction": extraction}
        )
    )
    path = next((tmp_path / "own").glob("mine/test/*/*.h5"))
    monkeypatch.chdir("/")
    assert len(open_images(path, None)) == 6
    assert str(tmp_path).encode() not in b"".join(
        file.read_bytes() for file in (tmp_path / "own").rglob("*") if file.is_file()
    )
    refused = "which is no dataset known by name"
    shutil.copytree(tmp_path / "own", tmp_path / "copied", ignore=shutil.ignore_patterns(".origin"))
    with pytest.raises(ConfigError, match=refused):
        open_images(next((tmp_path / "copied").glob("mine/test/*/*.h5")), None)
    monkeypatch.setenv("FEATUREBANK_CACHE", str(tmp_path / "another user's"))
    shutil.copytree(tmp_path / "cache" / "places", tmp_path / "own" / "places")
    with pytest.raises(ConfigError, match=refused):
        open_images(path, None)


@pytest.mark.parametrize(
    "change",
    [
        {"details": {"head": "<form action=//x><input name=q><script>alert(1)</script>"}},
        {"details": "<b>"},
        {"details": {"head": ["own"]}},
        {"score": "<img src=//x>"},
        {"score": ["msp"]},
        {"details": {"parameters": "<b>"}},
    ],
)
def test_c11_what_a_kept_result_says_is_never_markup(store: FeatureStore, change: dict[str, Any]) -> None:
    before, _, _ = make(store, sets=("noise",))
    for path in (store.root / "results" / "ood").glob("*.json"):
        document = json.loads(path.read_bytes())
        document["rows"] = [row | change for row in document["rows"]]
        path.write_text(json.dumps(document), encoding="utf-8")
    page, _, path = make(store, sets=("noise",))
    assert all(page.tags[tag] <= before.tags[tag] for tag in ("script", "form", "input", "img", "b"))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', path.read_text(encoding="utf-8"))
    assert policy is not None
    assert {"default-src 'none'", "form-action 'none'", "base-uri 'none'"} <= {*policy[1].split("; ")}


def test_c11_kept_scores_that_do_not_fit_are_one_clear_error(store: FeatureStore) -> None:
    make(store, sets=("noise",))
    results = Results(store.root)
    for task_row in {row.result: row for row in results.rows()}.values():
        path = store.root / "results" / "ood" / f"{task_row.result}.json"
        document = json.loads(path.read_bytes())
        data = packed({"noise/test ids": np.array(["a"])})
        document["arrays"] = xxhash.xxh3_128_hexdigest(data)
        path.write_text(json.dumps(document), encoding="utf-8")
        path.with_suffix(".npz").write_bytes(data)
    arguments = ("pets", "--ood", "noise", "--score", "msp", "--score", "mds", "--resamples", "0")
    done = featurebank_("ood", *arguments, "--html", store.root.parent / "page.html", "--store", store.root)
    assert done.code == 1
    assert "must have all that a page shows; use --force" in words(done.err)


@pytest.mark.parametrize("verb", ["ood", "retrieve"])
def test_b7_numbers_are_shown_where_their_page_cannot_be_written(
    pictures: tuple[FeatureStore, Path], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    store, folder = pictures
    path = folder / "page.html"

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    images = f"folder:{folder / 'pets'}"
    asked = {
        "ood": ("ood", "pets", "--ood", "cars", "--score", "msp", "--resamples", "0"),
        "retrieve": ("retrieve", "pets/test@good", "--images", images),
    }
    done = featurebank_(*asked[verb], "--html", path, "--store", store.root)
    assert done.code == 1
    assert "good" in done.out
    assert f"page on {path}: not written: No space left on device" in words(done.out)
