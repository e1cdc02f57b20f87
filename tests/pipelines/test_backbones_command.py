"""``featurebank backbones``: the table, one backbone, and the page that is made from the same rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import featurebank_, words

from featurebank.extract.backbones import zoo
from featurebank.pipelines.extracting.config import RunConfig
from featurebank.pipelines.keeping.backbones import markdown

ROOT = Path(__file__).parents[2]


def test_the_page_is_made_from_the_table() -> None:
    found = (ROOT / "docs" / "backbones.md").read_text(encoding="utf-8")
    assert found == markdown(), "run: python -m featurebank.pipelines.keeping.backbones > docs/backbones.md"
    assert all(f"| `{name}` |" in found for name in zoo.entries())


def test_the_table_names_every_backbone() -> None:
    done = featurebank_("backbones")
    assert done.code == 0
    assert all(f"\n{name} " in done.out for name in zoo.entries())
    assert f"{len(zoo.entries())} backbones" in done.out
    rows = {row["name"]: row for row in featurebank_("backbones", "--json").json["backbones"]}
    assert rows.keys() == zoo.entries().keys()
    assert (rows["mocov3_vit_small"]["heads"], rows["mocov3_vit_small"]["px"]) == ("12", 224)


def test_one_style_of_pretraining() -> None:
    rows = featurebank_("backbones", "--style", "generative", "--json").json["backbones"]
    assert [row["name"] for row in rows] == ["stable_diffusion_v1_4", "stable_diffusion_v1_4_224"]
    done = featurebank_("backbones", "--style", "supervise")
    assert done.code == 2
    assert "did you mean 'supervised'" in words(done.err)


@pytest.mark.parametrize("name", ["dino_vit_base", "timm-vit_base_patch16_224_dino", "dino_vit_base@random"])
def test_one_backbone_by_any_of_its_names(name: str) -> None:
    done = featurebank_("backbones", name)
    assert done.code == 0
    for text in ("dino_vit_base", "timm:vit_base_patch16_224.dino", "class token after norm", "2104.14294"):
        assert text in done.out
    assert featurebank_("backbones", name, "--json").json["dimension"] == 768


def test_backbones_of_other_sources_and_of_none() -> None:
    assert "2223872" in featurebank_("backbones", "mobilenetv2").out
    done = featurebank_("backbones", "dino_vit_bas")
    assert done.code == 2
    assert "did you mean 'dino_vit_base'" in words(done.err)


def test_paths_in_names_are_the_configurations_own(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        "backbones: ['onnx:net.onnx', 'hf:vit@random', resnet50]\ndatasets: [{name: cifar10, splits: [test]}]"
    )
    names = [backbone.name for backbone in RunConfig.read(config).backbones]
    assert names == [f"onnx:{tmp_path}/net.onnx", f"hf:{tmp_path}/vit@random", "resnet50"]
