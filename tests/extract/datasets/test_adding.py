"""The page about a dataset of one's own: its code is under twenty lines and does what the page says."""

from __future__ import annotations

import csv
import importlib.metadata
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from command_line import featurebank_

from featurebank.extract.datasets import DatasetSpec, dataset_digest, label_of, named, names, open_split, splits
from featurebank.extract.datasets import _named as naming
from featurebank.extract.errors import DatasetError
from featurebank.pipelines.extracting.config import RunConfig

Draw = Callable[[Path, int], Path]

PAGE = (Path(__file__).parents[3] / "docs" / "adding-a-dataset.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL))
NAME = "python:birds.py:BIRDS"


@pytest.fixture
def data(tmp_path: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that the page speaks of, made the working one."""
    (tmp_path / "birds.py").write_text(BLOCKS["python"])
    folder = tmp_path / "data"
    folder.mkdir()
    for split, n in (("train", 6), ("test", 3)):
        with (folder / f"{split}.csv").open("w") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "species", "site"])
            for k in range(n):
                draw(folder / "images" / f"{split}-{k}.png", k)
                writer.writerow([f"{split}-{k}.png", k % 3, f"site {k % 2}"])
    (folder / "species.txt").write_text("crow\ngull\nwren\n")
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield folder
    for module in set(sys.modules) - before:
        del sys.modules[module]


def test_it_is_short() -> None:
    assert len([line for line in BLOCKS["python"].splitlines() if line.strip()]) < 20


def test_it_opens_and_is_checked(data: Path) -> None:
    train = open_split(DatasetSpec(name=NAME, split="train", root=data))
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert list(train.class_names) == ["crow", "gull", "wren"]
    assert train.columns["site"][1] == "site 1"
    assert list(splits(NAME)) == ["train", "test"]
    assert label_of(train.spec) == "birds"
    assert label_of(DatasetSpec(name=f"{NAME}@partial", split="train")) == "birds@partial"
    assert len(open_split(DatasetSpec(name=f"{NAME}@per_class=1", split="train", root=data))) == 3
    (data / "images" / "train-4.png").unlink()
    with pytest.raises(
        DatasetError, match=rf"1 of them missing: images/train-4\.png; `featurebank datasets {NAME} --root"
    ):
        open_split(DatasetSpec(name=NAME, split="train", root=data))
    (data / "test.csv").write_text("file,species,site\ntest-0.png,1,a\n")
    with pytest.raises(DatasetError, match="'test': expected 3 records"):
        open_split(DatasetSpec(name=NAME, split="test", root=data))


@pytest.mark.usefixtures("data")
def test_the_command_of_the_page() -> None:
    done = featurebank_(*BLOCKS["sh"].split()[1:])
    assert done.code == 0, done.err
    assert "train: complete, 6 records" in done.out
    Path("data/species.txt").unlink()
    done = featurebank_(*BLOCKS["sh"].split()[1:])
    assert done.code == 1
    assert "species.txt" in done.out


def test_the_configuration_of_the_page(data: Path) -> None:
    run = {"backbones": ["efficientnet_lite0"], **yaml.safe_load(BLOCKS["yaml"])}
    (data.parent / "run.yaml").write_text(yaml.safe_dump(run))
    (dataset,) = RunConfig.read(data.parent / "run.yaml").datasets
    assert dataset.name == f"python:{data.parent}/birds.py:BIRDS"
    assert len(open_split(DatasetSpec(name=dataset.name, split="test", root=dataset.root))) == 3


def test_an_entry_point(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(data.parent))
    value = re.search(r'birds = "(.*)"', BLOCKS["toml"])
    assert value
    assert f'"{naming.GROUP}"' in BLOCKS["toml"]
    point = importlib.metadata.EntryPoint(name="birds", value=value[1], group=naming.GROUP)
    monkeypatch.setattr(naming, "_entry_points", lambda: {"birds": point})
    found = open_split(DatasetSpec(name="birds", split="test", root=data))
    by_path = open_split(DatasetSpec(name=NAME, split="test", root=data))
    assert dataset_digest(found) == dataset_digest(by_path)
    assert "birds" in names()
    assert named("birds").classes == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("python:nowhere.py:BIRDS", "there is no file"),
        ("python:birds.py:CROWS", "has no attribute 'CROWS'"),
        ("python:birds.py:load", "expected a featurebank.extract.datasets.NamedDataset, found function"),
        ("python:nowhere_module:BIRDS", "No module named"),
        ("python:birds", "expected python:MODULE:NAME"),
    ],
)
@pytest.mark.usefixtures("data")
def test_what_is_none(name: str, message: str) -> None:
    with pytest.raises(DatasetError, match=re.escape(message)):
        open_split(DatasetSpec(name=name, split="train"))
