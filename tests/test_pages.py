"""The README and every page of the site: what they say to do is done, in a folder of its own.

A page is followed by `benchmarks/newcomer.py`. Tutorials begin in an empty folder; the other pages stand beside a store
of the demo's shape, whose features are made up. Blocks that cannot run here are at least read.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from checkout import ROOT, loaded
from numpy.typing import NDArray
from PIL import Image

from featurebank.pipelines.cli import _command
from featurebank.pipelines.extracting.config import RunConfig
from featurebank.store import FeatureStore

README = ROOT / "README.md"
NEWCOMER = ROOT / "benchmarks" / "newcomer.py"
DEMO = yaml.safe_load((ROOT / "pipelines" / "extracting" / "demo.yaml").read_text(encoding="utf-8"))
N_ROWS, N_FEATURES, N_CLASSES = 120, 32, 10
AT_MOST = 600  # seconds of one page, beside everything else that runs


newcomer = loaded(ROOT / "benchmarks" / "newcomer.py")
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [block for page in PAGES for block in newcomer.blocks_of(page)]


def name(value: Any) -> str | None:
    """What a page, or a block, is called in the list of tests."""
    if isinstance(value, Path):
        return value.relative_to(ROOT).as_posix()
    return f"{name(value.page)}:{value.line}" if isinstance(value, newcomer.Block) else None


# Blocks that run.


def _features(split: str) -> NDArray[np.float64]:
    """Features (N, D) that tell the classes apart, so that whatever reads them has something to find."""
    noise = np.random.default_rng(sum(map(ord, split))).normal(scale=0.1, size=(N_ROWS, N_FEATURES))
    features: NDArray[np.float64] = np.eye(N_CLASSES, N_FEATURES)[_labels()] + noise
    return features


def _labels() -> NDArray[np.int64]:
    return np.arange(N_ROWS) % N_CLASSES


@pytest.fixture(scope="module")
def demo_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that has each backbone of the demo on each of its splits."""
    store = FeatureStore(tmp_path_factory.mktemp("demo") / "features")
    for backbone in DEMO["backbones"]:
        for dataset in DEMO["datasets"]:
            for split in dataset["splits"]:
                key = f"{dataset['name']}/{split['split']}"
                ids = [f"{split['split']}/{row:05d}" for row in range(N_ROWS)]
                store.add(key, backbone, _features(key), labels=_labels(), ids=ids, class_names=list("abcdefghij"))
    return Path(store.root)


def birds(folder: Path) -> None:
    """The images and lists of the dataset that `docs/adding-a-dataset.md` declares."""
    (folder / "data" / "images").mkdir(parents=True)
    (folder / "data" / "species.txt").write_text("robin\nwren\ntit\n", "utf-8")
    for split, rows in (("train", 6), ("test", 3)):
        lines = [f"{split}{row}.png,{row % 3},pond\n" for row in range(rows)]
        (folder / "data" / f"{split}.csv").write_text("file,species,site\n" + "".join(lines), "utf-8")
        for row in range(rows):
            Image.new("RGB", (8, 8), (row, 0, 0)).save(folder / "data" / "images" / f"{split}{row}.png")


def arrays(folder: Path) -> None:
    """A folder of arrays, with the names of the images."""
    (folder / "old").mkdir()
    for split in ("train", "test"):
        np.save(folder / "old" / f"X_{split}.npy", _features(split).astype(np.float32))
        np.save(folder / "old" / f"y_{split}.npy", _labels())
        names = "".join(f"{split}/{row}.jpg\n" for row in range(N_ROWS))
        (folder / "old" / f"files_{split}.txt").write_text(names, "utf-8")


def clip_benchmark(folder: Path) -> None:
    """What CLIP_benchmark 1.6.2 leaves of a linear probe."""
    place = folder / "clip_features" / "ViT-B-32-laion2b-cifar10"
    place.mkdir(parents=True)
    for split in ("train", "test"):
        torch.save(torch.from_numpy(_features(split)).half(), place / f"features_{split}.pt")
        torch.save(torch.from_numpy(_labels()), place / f"targets_{split}.pt")


def thingsvision(folder: Path) -> None:
    """What thingsvision 2.7.3 leaves of a folder of images."""
    (folder / "things_features").mkdir()
    np.save(folder / "things_features" / "features.npy", _features("all").astype(np.float32))
    names = "".join(f"images/class{label}/{row}.jpg\n" for row, label in enumerate(_labels()))
    (folder / "things_features" / "file_names.txt").write_text(names, "utf-8")


def clip_retrieval(folder: Path) -> None:
    """What clip-retrieval 2.45.0 leaves of two parts."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    for kind in ("img_emb", "metadata"):
        (folder / "laion_part" / kind).mkdir(parents=True)
    for part in range(2):
        np.save(folder / "laion_part" / "img_emb" / f"img_emb_{part}.npy", _features(f"{part}").astype(np.float16))
        paths = [f"{part}/{row}.jpg" for row in range(N_ROWS)]
        table = pa.table({"image_path": paths, "caption": [f"a picture of {path}" for path in paths]})
        pq.write_table(table, folder / "laion_part" / "metadata" / f"metadata_{part}.parquet")


BEFORE: dict[str, Callable[[Path], None]] = {
    "docs/adding-a-dataset.md": birds,
    "docs/how-to/from-npy.md": arrays,
    "docs/how-to/from-clip-benchmark.md": clip_benchmark,
    "docs/how-to/from-thingsvision.md": thingsvision,
    "docs/how-to/from-clip-retrieval.md": clip_retrieval,
}
"""What lies in the folder of a reader of that page, beside the store."""


@pytest.mark.parametrize("page", [page for page in PAGES if any(b.runs for b in newcomer.blocks_of(page))], ids=name)
def test_what_a_page_says_can_be_done(page: Path, demo_store: Path, tmp_path: Path) -> None:
    if page.parent.name != "tutorials":
        shutil.copytree(demo_store, tmp_path / "features", copy_function=os.link)
        if lay_out := BEFORE.get(str(name(page))):
            lay_out(tmp_path)
    done = subprocess.run(
        [sys.executable, str(NEWCOMER), str(page), "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=AT_MOST,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]


def test_a_tutorial_ends_with_a_printed_result() -> None:
    tutorials = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
    assert len(tutorials) == 4
    for page in tutorials:
        blocks = newcomer.blocks_of(page)
        assert sum(block.runs for block in blocks) >= 4, page
        assert any(block.language == "text" for block in blocks), f"{page}: a tutorial must show what is printed"


# Blocks that are only read.


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=name)
def test_python_compiles(block: Any) -> None:
    compile(block.text, f"{block.page}:{block.line}", "exec")


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "toml"], ids=name)
def test_toml_is_toml(block: Any) -> None:
    assert tomllib.loads(block.text)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=name)
def test_yaml_is_a_configuration(block: Any, tmp_path: Path) -> None:
    """A block that has a part of one is completed."""
    file = tmp_path / "run.yaml"
    rest = {"backbones": "[mobilenetv2]\n", "datasets": "[{name: digits, splits: [all]}]\n"}
    there = yaml.safe_load(block.text)
    file.write_text(block.text + "".join(f"{key}: {value}" for key, value in rest.items() if key not in there), "utf-8")
    RunConfig.read(file)


def commands(text: str) -> list[list[str]]:
    """The calls of featurebank in a block of shell: the verb and its words."""
    calls = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        lexer.commenters = "#"
        for call in re.split(r"\s(?:[&|;<>()]+)(?:\s|$)", "\t".join(lexer).replace("\t", "\n")):
            words = call.split("\n")
            if "featurebank" in words[:-1]:
                calls.append(words[words.index("featurebank") + 1 :])
    return calls


def test_the_calls_in_a_block_of_shell_are_found() -> None:
    text = (
        "timeout 1 featurebank ls --json || echo 'a b'  # featurebank gc\nA=1 featurebank knn \\\n  pets --k 1 > out\n"
    )
    assert commands(text) == [["ls", "--json"], ["knn", "pets", "--k", "1"]]


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "sh"], ids=name)
def test_commands_have_the_options_that_they_are_given(block: Any) -> None:
    for verb, *words in commands(block.text):
        if verb in own_verbs():
            continue
        known = {option for parameter in _command(verb).params for option in parameter.opts + parameter.secondary_opts}
        given = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert given <= known | {"--help"}, f"{verb} has no {sorted(given - known)}"


def own_verbs() -> set[str]:
    """The questions that a page declares."""
    return {made for block in BLOCKS for made in re.findall(r'^    name: ClassVar\[str\] = "(\w+)"$', block.text, re.M)}


def test_nothing_escapes_by_having_no_language() -> None:
    for block in BLOCKS:
        assert block.language in ("", "python", "sh", "yaml", "toml", "text", "eval", "toctree", "include"), name(block)
        if block.language in ("", "text"):
            assert not re.search(r"^\s*(\$ |featurebank |python |import |from )", block.text, re.M), name(block)
        if block.mark == "not run":
            assert len(block.value.split()) >= 2, f"{name(block)}: why is it not run?"


# What the README is.


def test_the_readme_is_short_and_its_figures_name_their_benchmark() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    _, _, figures = text.partition("## How fast\n")
    rows = [line for line in figures.partition("\n## ")[0].splitlines() if line.startswith("| ")][1:]
    assert rows
    for row in rows:
        (script,) = re.findall(r"`(benchmarks/\w+\.py)` \|$", row)
        assert (ROOT / script).is_file(), script


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page: Path) -> None:
    """As GitHub reads them; Sphinx proves its own, with their headings."""
    for target in re.findall(
        r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    ):
        if "://" not in target and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), f"{name(page)}: {target}"
