"""The detectors of Battle of the Backbones: every row is a configuration that is understood, and networks are built."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from torch import nn

from featurebank.extract import backbones
from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.pipelines.extracting.config import RunConfig
from featurebank.pipelines.jobs.detection.battle import Battle, configuration, markdown, rows
from featurebank.pipelines.jobs.detection.detector import Detector, Truth
from featurebank.pipelines.jobs.detection.heads import total
from featurebank.pipelines.jobs.detection.job import Job
from featurebank.pipelines.jobs.detection.question import Detect
from featurebank.pipelines.jobs.maps.levels import Level, fitted, levels_of, with_levels

ROOT = Path(__file__).parents[2]
Heads = Literal["one", "bob"]


def asked(row: Battle, heads: Heads = "bob") -> Detect:
    config = RunConfig.model_validate(yaml.safe_load(yaml.safe_dump(configuration(row, heads))))
    question = config.detect[0].asked()
    assert isinstance(question, Detect)
    return question


def test_the_table_has_the_studys_runs() -> None:
    every = list(rows().values())
    assert Counter(row.set for row in every) == {"coco": 55, "sim10k": 50}
    assert sum(len(row.rates) for row in every if row.set == "coco") == 221 - 3  # files, less parts of others
    assert Counter(row.weights for row in every if row.set == "coco") == {"frozen": 23, "tuned": 23, "random": 9}
    assert all(row.name == f"{row.set}-{row.backbone.removeprefix('timm:')}-{row.weights}" for row in every)
    assert {row.published_by for row in every if row.box_ap} == {"ConvNeXt", "ViTDet", "mmdetection"}
    assert all((row.box_ap is None) or (row.set, row.weights) == ("coco", "tuned") for row in every)


@pytest.mark.parametrize("heads", ["one", "bob"])
def test_every_row_is_a_configuration(heads: Heads) -> None:
    for row in rows().values():
        config = RunConfig.model_validate(configuration(row, heads))
        questions = [one.asked() for one in config.detect]
        assert tuple(question.rate for question in questions if isinstance(question, Detect)) == row.rates
        for question in questions:
            assert isinstance(question, Detect)
            assert question.tuned == (row.weights != "frozen")
            assert question.training.phase.epochs == 36
        (backbone,) = config.backbones
        assert ("@random" in backbone.name) == (row.weights == "random")


def test_the_module_prints_a_row_as_yaml_and_the_page() -> None:
    def printed(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "featurebank.pipelines.jobs.detection.battle", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    row = rows()["coco-sam_vit_base-tuned"]
    assert yaml.safe_load(printed("--row", row.name).stdout) == configuration(row)
    assert yaml.safe_load(printed("--row", row.name, "--heads", "one").stdout) == configuration(row, "one")
    assert "did you mean 'coco-sam_vit_base-tuned'" in printed("--row", "coco-sam_vit_base-tune").stderr


def test_the_page_is_up_to_date() -> None:
    found = (ROOT / "docs" / "battle.md").read_text(encoding="utf-8")
    assert found == markdown(), "run: python -m featurebank.pipelines.jobs.detection.battle > docs/battle.md"


# Networks.


CLASSES = {"clip_vit_base_laion2b", "convnext_tiny", "deit_small", "sam_vit_base", "stable_diffusion_v1_4"}
CLASSES |= {"timm:resnet50.tv_in1k", "swinv2_tiny_window8_256"}
"""The smallest backbone of each class of networks; others differ from it in size and weights."""
BACKBONES = sorted({row.backbone for row in rows().values()})


@functools.cache
def outlined(name: str) -> tuple[Detect, BackboneSpec, tuple[Level, ...]]:
    """Its row's question, the backbone on its canvas and its maps: shapes without numbers."""
    question = asked(next(row for row in rows().values() if row.backbone == name))
    spec = fitted(backbones.without_weights(name), question.px, windowed=question.windowed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "trainable", backbones.outline)
        return question, spec, levels_of(spec, question.strides)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if "swinv2_base" in name else []) for name in BACKBONES],
)
def test_every_backbone_has_the_maps_of_its_row(name: str) -> None:
    _, _, levels = outlined(name)
    maps = next(row.maps for row in rows().values() if row.backbone == name)
    strides = [level.stride for level in levels]
    assert strides == ([16] if maps == "plain" else [4, 8, 16, 32])


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_backbone_of_each_class_carries_the_heads_of_its_row(name: str) -> None:
    question, spec, levels = outlined(name)
    network: Any = backbones.outline(with_levels(spec, levels))
    with torch.device("meta"):
        model = Detector(network, levels, shape=question.training.shape, classes=80, side=question.px, seed=0)
    images = torch.empty(1, 3, question.px, question.px, device="meta")
    with torch.no_grad():
        maps = model.neck(model.maps(images))
        logits, moves = model.rpn.head(list(maps.values()))
    sides = [-(-question.px // stride) for stride in model.neck.strides]
    assert [level.shape for level in maps.values()] == [(1, 256, side, side) for side in sides]
    assert [level.shape for level in logits] == [(1, 3, side, side) for side in sides]
    assert [level.shape for level in moves] == [(1, 12, side, side) for side in sides]


KINDS = {
    "coco-resnet50.tv_in1k-random": "timm:test_resnet",
    "coco-convnext_tiny-tuned": "timm:test_convnext",
    "coco-dino_vit_small-tuned": "timm:test_vit",
    "coco-deit_small-frozen": "timm:test_vit",
    "sim10k-convnext_tiny-frozen": "timm:test_convnext",
    "sim10k-mae_vit_base-tuned": "timm:test_vit",
}
"""A row of each kind of heads, frozen and tuned, and a small network of its family."""
SIDE = 128


@pytest.mark.parametrize(
    ("name", "heads"),
    [*((name, "bob") for name in KINDS), ("coco-convnext_tiny-tuned", "one"), ("coco-dino_vit_small-tuned", "one")],
)
def test_each_kind_learns_and_detects(name: str, heads: Heads) -> None:
    row = rows()[name]
    small: dict[str, Any] = {"px": SIDE, "channels": 16, "width": 32, "proposals": 30, "sampled": 16}
    training = replace(asked(row, heads), **small).training
    spec = fitted(backbones.resolve(f"{KINDS[name]}@random"), SIDE, windowed=training.windowed)
    levels = levels_of(spec, training.shape.strides)
    job = Job.__new__(Job)  # what a run would find out from images
    job.__dict__.update(training=training, spec=with_levels(spec, levels), levels=levels, class_names=("car", "cat"))
    model = job.model(0).train()
    one = {"boxes": torch.tensor([[10.0, 12.0, 60.0, 70.0]]), "labels": torch.tensor([2])}
    if training.shape.masks:
        one["masks"] = torch.ones(1, SIDE, SIDE, dtype=torch.uint8)
    losses = model(torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), Truth([one]))
    torch.autograd.backward(total(losses))
    assert ("loss_mask" in losses) == (row.set == "coco")
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert any(value.grad is not None for value in model.network.parameters()) == (row.weights != "frozen")
    batch_norms = any(isinstance(module, nn.BatchNorm2d) for module in model.heads.modules())
    assert batch_norms == (heads == "bob" and row.maps == "stages" and row.set == "coco")
    with torch.no_grad():
        (found,) = model.eval()(torch.zeros(1, 3, SIDE, SIDE))
    assert found["boxes"].shape == (len(found["scores"]), 4)
