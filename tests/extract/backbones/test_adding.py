"""The page about a backbone of one's own: its code is under twenty lines and does what the page says."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from command_line import featurebank_
from runs import make_images, open_folder, run

from featurebank.extract.backbones import build, own_source, resolve
from featurebank.pipelines.extracting.config import RunConfig
from featurebank.store import FeatureStore

PAGE = (Path(__file__).parents[3] / "docs" / "adding-a-backbone.md").read_text(encoding="utf-8")
FENCED: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
BLOCKS = dict(reversed(FENCED))  # the first of each language
CONFIGURATIONS = [yaml.safe_load(text) for language, text in FENCED if language == "yaml"]
NAME = "python:nets.py:tiny"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the page speaks of, made the working one."""
    (tmp_path / "nets.py").write_text(BLOCKS["python"])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    import nets  # type: ignore[import-not-found]

    torch.manual_seed(0)
    torch.save(nets.network().state_dict(), tmp_path / "tiny.pt")
    return tmp_path


def test_it_is_short() -> None:
    assert len([line for line in BLOCKS["python"].splitlines() if line.strip()]) < 20


def test_it_computes_and_is_stored(folder: Path) -> None:
    split = open_folder(make_images(folder / "pictures", 5))
    (outcome,) = run(folder / "features", split, [NAME])
    assert outcome.state == "sealed"
    with FeatureStore(folder / "features").open("pictures/all", NAME) as found:
        assert found["pooled"].shape == (5, 64)
        assert np.isfinite(found["pooled"]).all()
    assert resolve(f"{NAME}@random").weights.sha256 == "random:0"


@pytest.mark.usefixtures("folder")
def test_the_command_of_the_page() -> None:
    done = featurebank_(*BLOCKS["sh"].split()[1:])
    assert done.code == 0, done.err
    assert "nets.py:tiny" in done.out


def test_the_entry_point_of_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del folder
    value = re.search(r'tiny = "(.*)"', BLOCKS["toml"])
    assert value
    assert f'"{own_source.GROUP}"' in BLOCKS["toml"]
    point = importlib.metadata.EntryPoint(name="tiny", value=value[1], group=own_source.GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [point] if group == point.group else [])
    by_name, by_file, by_module = (resolve(name) for name in ("tiny", NAME, "python:nets:tiny"))
    assert by_name.weights == by_file.weights == by_module.weights
    assert by_name.adapter == by_file.adapter == by_module.adapter


def test_the_configuration_names_a_file_beside_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_ = {**CONFIGURATIONS[1], "datasets": [{"name": "folder:pictures", "splits": ["all"]}]}
    (folder / "run.yaml").write_text(yaml.safe_dump(run_))
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    (backbone,) = RunConfig.read(folder / "run.yaml").backbones
    assert backbone.name == f"python:{folder}/nets.py:tiny"
    spec = resolve(backbone.name)
    assert (spec.name, spec.architecture) == (NAME, "nets.py:tiny"), "no path in the key"
    network: Any = build(spec)
    assert network.dimension == 64


def test_the_configuration_of_a_checkpoint(folder: Path) -> None:
    run_ = {**CONFIGURATIONS[0], "datasets": [{"name": "folder:pictures", "splits": ["all"]}]}
    (folder / "run.yaml").write_text(yaml.safe_dump(run_))
    (backbone,) = RunConfig.read(folder / "run.yaml").backbones
    assert backbone.checkpoint is not None
    backbone.checkpoint.parent.mkdir()
    torch.save(timm.create_model("resnet18").state_dict(), backbone.checkpoint)
    network: Any = build(resolve(backbone.name, checkpoint=backbone.checkpoint, outputs=backbone.outputs))
    assert network.dimension == 512
