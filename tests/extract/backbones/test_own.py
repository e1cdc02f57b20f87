"""Backbones of one's own: a function, an entry point, and what keeps their keys honest."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from featurebank.extract.backbones import build, describe, names, own_source, resolve
from featurebank.extract.errors import WeightsError
from featurebank.extract.key import DatasetKey, feature_key
from featurebank.store.errors import UnknownNameError

DATASET = DatasetKey(name="pets", split="train", digest="cd" * 32)
MODULE = """
from pathlib import Path
from torch import nn
from featurebank.extract.backbones import OwnBackbone
from featurebank.extract.preprocessing import Preprocessing

RECORD = Preprocessing(height=16, width=16, resize_height=16, resize_width=16, interpolation="bilinear",
                       mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

class Levels(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
    def forward(self, x):
        features = self.conv(x)
        return {"pooled": features.mean((2, 3)), "features": features}

def tiny():
    return OwnBackbone(build=network, preprocessing=RECORD, weights=Path(__file__).with_name("tiny.pt"))

def levels():
    return OwnBackbone(build=Levels, preprocessing=RECORD, outputs=("pooled", "features"))

def unpooled():
    return OwnBackbone(build=lambda: nn.Conv2d(3, 8, 3), preprocessing=RECORD)

def nothing():
    return None
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module with backbones on the path, and weights of one of them; returns its folder."""
    (tmp_path / "own_nets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    torch.manual_seed(0)
    state = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).state_dict()
    torch.save(state, tmp_path / "tiny.pt")
    return tmp_path


def test_a_function_gives_a_backbone(module: Path) -> None:
    spec = resolve("python:own_nets:tiny")
    network: Any = build(spec)
    images = torch.randn(2, 3, 16, 16)
    state = torch.load(module / "tiny.pt")
    expected = nn.functional.conv2d(images, state["0.weight"], state["0.bias"]).mean((2, 3))
    torch.testing.assert_close(network(images)["pooled"], expected)
    assert network.dimension == 8
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert describe("python:own_nets:tiny") == {"origin": "own_nets:tiny"}


def test_several_outputs(module: Path) -> None:
    del module
    network: Any = build(resolve("python:own_nets:levels@random:2"))
    found = network(torch.randn(2, 3, 16, 16))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "pooled": (2, 8),
        "features": (2, 8, 14, 14),
    }
    with pytest.raises(UnknownNameError, match="unknown output 'tokens'"):
        build(resolve("python:own_nets:levels@random", outputs=["tokens"]))


def test_an_entry_point_has_a_plain_name(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del module
    point = importlib.metadata.EntryPoint("my_net", "own_nets:tiny", own_source.GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [point] if group == point.group else [])
    assert "my_net" in names()
    assert resolve("my_net").architecture == "own_nets:tiny"
    assert build(resolve("my_net")).spec.name == "my_net"
    with pytest.raises(UnknownNameError, match="did you mean 'my_net'"):
        resolve("my_nett")


def test_changed_code_is_another_spec_and_never_another_network(module: Path) -> None:
    first = resolve("python:own_nets:tiny")
    (module / "own_nets.py").write_text(MODULE.replace("Conv2d(3, 8, 3)", "Conv2d(3, 8, 5)"))
    second = resolve("python:own_nets:tiny")
    assert first.adapter != second.adapter
    with pytest.raises(WeightsError, match="the source of own_nets:tiny has changed"):
        build(first)


def test_weights_are_loaded_strictly(module: Path) -> None:
    torch.save({"0.weight": torch.zeros(8, 3, 3, 3)}, module / "tiny.pt")
    with pytest.raises(WeightsError, match=r"0\.bias: expected \(8,\), found nothing"):
        build(resolve("python:own_nets:tiny"))
    with pytest.raises(WeightsError, match="exists only as 'python:own_nets:levels@random'"):
        resolve("python:own_nets:levels")


def test_a_file_is_a_backbone_wherever_it_lies(module: Path) -> None:
    (module / "elsewhere").mkdir()
    for name in ("own_nets.py", "tiny.pt"):
        (module / name).rename(module / "elsewhere" / name)
    spec = resolve(f"python:{module}/elsewhere/own_nets.py:tiny")
    assert (spec.name, spec.architecture) == ("python:own_nets.py:tiny", "own_nets.py:tiny")
    assert not [value for value in feature_key(spec, DATASET, precision="float32", dtype="float16")["backbone"].values()
                if str(module) in str(value)]  # fmt: skip
    network: Any = build(spec)
    assert network.dimension == 8
    assert (
        resolve(f"python:{module}/elsewhere/own_nets.py:levels@random:2").name == "python:own_nets.py:levels@random:2"
    )


def test_a_file_that_has_changed_is_run_as_it_is_now(module: Path) -> None:
    name = f"python:{module}/own_nets.py:levels@random"
    first = resolve(name)
    shapes = []
    for size in (3, 5):
        (module / "own_nets.py").write_text(MODULE.replace("Conv2d(3, 8, 3)", f"Conv2d(3, 8, {size})"))
        network: Any = build(resolve(name, outputs=["features"]))
        shapes.append(tuple(network(torch.zeros(1, 3, 16, 16))["features"].shape))
    assert shapes == [(1, 8, 14, 14), (1, 8, 12, 12)]
    with pytest.raises(WeightsError, match=r"the source of own_nets\.py:levels has changed"):
        build(first)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("python:own_nets", "expected python:MODULE:NAME or python:FILE.py:NAME, found python:own_nets"),
        ("python:no_such_module:f", "cannot import no_such_module.*PYTHONPATH"),
        ("python:own_nets:missing", "own_nets has no attribute 'missing'"),
        ("python:own_nets:nothing", "expected own_nets:nothing to give an OwnBackbone, found NoneType"),
    ],
)
def test_names_that_are_none(name: str, message: str, module: Path) -> None:
    del module
    with pytest.raises((UnknownNameError, WeightsError), match=message):
        resolve(name)


def test_a_module_that_gives_no_pooled_features_is_refused(module: Path) -> None:
    del module
    with pytest.raises(WeightsError, match=r"expected pooled \(B, D\).*found \{'pooled': \(1, 8, 14, 14\)\}"):
        build(resolve("python:own_nets:unpooled@random"))


def test_the_record_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        own_source.OwnBackbone(build=nn.Module, preprocessing=None).weights = None  # type: ignore[misc, arg-type]
