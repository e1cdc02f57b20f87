"""``~`` and ``$NAME`` mean the same wherever a path is written; a store is named without ``--store``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import featurebank_
from PIL import Image
from probe_sets import clusters, write_set

from featurebank.extract.backbones import resolve
from featurebank.extract.datasets import DatasetSpec, open_split
from featurebank.pipelines.asking.places import Place, note_place, place_of
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.extracting.config import RunConfig
from featurebank.store import FeatureStore, StoreError
from featurebank.store.places import expanded

WRITTEN = """
store: {0}/out
backbones: [{{name: "onnx:{0}/net.onnx", checkpoint: "{0}/w.pth"}}]
datasets:
  - {{name: "folder:{0}/pets", splits: [all], root: "{0}/data"}}
  - {{name: "manifest:{0}/pets.csv", splits: [all]}}
extraction: {{pixel_cache: "{0}/cache"}}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("PLACE", str(folder))
    monkeypatch.setenv("BELOW", "home")
    monkeypatch.delenv("NOWHERE", raising=False)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize("text", ["~", "$HOME", "${PLACE}", "$BELOW"])
def test_d4_every_path_of_a_configuration_is_expanded(home: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(WRITTEN.format(text), "utf-8")
    run = RunConfig.read(path)
    assert run.store == home / "out"
    assert (run.backbones[0].name, run.backbones[0].checkpoint) == (f"onnx:{home}/net.onnx", home / "w.pth")
    assert (run.datasets[0].name, run.datasets[0].root) == (f"folder:{home}/pets", home / "data")
    assert run.datasets[1].name == f"manifest:{home}/pets.csv"
    assert run.extraction.pixel_cache == home / "cache"


@pytest.mark.usefixtures("home")
def test_d4_each_variable_that_is_not_set_is_a_fault_of_its_place(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(WRITTEN.format("$NOWHERE"), "utf-8")
    with pytest.raises(ConfigError) as caught:
        RunConfig.read(path)
    _, *lines = str(caught.value).splitlines()
    places = "store backbones.0.name backbones.0.checkpoint datasets.0.name datasets.0.root datasets.1.name"
    assert [line.split(":")[0].strip() for line in lines] == [*places.split(), "extraction.pixel_cache"]
    assert all("$NOWHERE must be set in the environment, found it unset; export NOWHERE=" in line for line in lines)


def test_d4_names_and_places_of_the_library_are_expanded(home: Path) -> None:
    (home / "pets").mkdir()
    Image.new("L", (4, 4)).save(home / "pets/a.png")
    for name, root in (("folder:~/pets", None), ("folder:$PLACE/pets", None), ("folder:pets", Path("~"))):
        assert list(open_split(DatasetSpec(name=name, split="all", root=root)).ids) == ["a.png"]
    assert FeatureStore("$PLACE/x").root == home / "x"
    with pytest.raises(ValueError, match=r"\$NOWHERE must be set"):
        resolve("mobilenetv2", checkpoint=Path("$NOWHERE/w.pth"))


def test_d4_paths_of_the_command_line_are_expanded(home: Path, tmp_path: Path) -> None:
    write_set(FeatureStore(home / "store"), "pets/train", "net", *clusters(6))
    for text in ("~/store", "$PLACE/store", "$BELOW/store"):
        assert featurebank_("ls", f"--store={text}", "--json").json["sets"][0]["dataset"] == "pets"
    assert featurebank_("pack", "--store=~/store", "$PLACE/packed").code == 0
    assert (home / "packed").is_dir()
    done = featurebank_("ls", "--store", "$NOWHERE/store")
    assert done.code != 0
    assert "$NOWHERE must be set" in done.err
    assert not [path for path in tmp_path.iterdir() if path.name[0] in "~$"]


def test_d4_what_is_there_keeps_its_dollar(tmp_path: Path) -> None:
    odd = tmp_path / "$NOWHERE"
    odd.mkdir()
    assert expanded(odd / "a$") == odd / "a$"
    assert expanded(expanded(tmp_path / "x")) == tmp_path / "x"
    with pytest.raises(StoreError, match="must be set"):
        expanded("$NOWHERE")
    with pytest.raises(StoreError, match="~ must be of a user with a home"):
        expanded("~no-such-user/x")


def test_d12_a_store_is_named_once_in_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(FeatureStore(home / "store"), "pets/train", "net@random", *clusters(6))
    monkeypatch.setenv("FEATUREBANK_STORE", "~/store")
    assert featurebank_("ls", "--json").json["sets"][0]["dataset"] == "pets"
    shown = featurebank_("show", "pets/train@net@random", "--json")
    assert shown.json == featurebank_("show", "pets/train", "net@random", "--json").json
    done = featurebank_("show", "pets/train")
    assert done.code == 2
    assert "DATASET/SPLIT@BACKBONE" in done.err
    assert featurebank_("ls", "-h").out == featurebank_("ls", "--help").out


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("featurebank ver", {"verify"}),
        ("featurebank kn", {"knn"}),
        ("featurebank show --f", {"--fingerprint"}),
        ("featurebank knn --te", {"--temperature"}),
        ("featurebank knn --", {"--k", "--store", "--json", "--help"}),
    ],
)
def test_d12_shells_can_complete_verbs_and_options(typed: str, completed: set[str]) -> None:
    place = str(len(typed.split()) - 1)
    asked = {"_FEATUREBANK_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": place}
    code = "import sys; sys.argv[0] = 'featurebank'; from featurebank.__main__ import main; main()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, check=False, timeout=60)
    words = {*done.stdout.split()}
    assert words >= completed, done.stderr
    assert typed.endswith("--") or words == completed


@pytest.mark.parametrize("name", ["folder:pets", "manifest:pets.csv", "list:pets.txt", "python:pets.py:PETS"])
def test_d8_where_images_are_is_remembered_of_what_runs_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("FEATUREBANK_CACHE", str(home / "cache"))
    monkeypatch.chdir(home)
    with FeatureStore(home / "store").add("pets/all", "net", np.eye(3)) as feature_set:
        note_place(DatasetSpec(name=name, split="all"), feature_set.key["dataset"])
        kind, _, path = name.partition(":")
        assert place_of(feature_set) == (None if kind == "python" else Place(f"{kind}:{home / path}"))
