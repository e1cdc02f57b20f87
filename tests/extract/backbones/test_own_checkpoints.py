"""Checkpoints as trainings leave them: other heads, prefixes, several sets of tensors, and what is refused."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from featurebank.extract.backbones import build, resolve
from featurebank.extract.datasets.contract import Subset
from featurebank.extract.errors import WeightsError
from featurebank.extract.key import DatasetKey, feature_key

NAME = "timm:test_resnet"


@functools.cache
def trained(seed: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return timm.create_model("test_resnet", pretrained=False).state_dict()


def without_head() -> dict[str, torch.Tensor]:
    return {name: value for name, value in trained().items() if not name.startswith("fc.")}


def below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def pooled(path: Path, content: object, name: str = NAME, **options: Any) -> torch.Tensor:
    torch.save(content, path)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    network = build(resolve(name, checkpoint=path, outputs=["pooled"], **options))
    found: Mapping[str, torch.Tensor] = network(images)
    return found["pooled"]


HEADLESS = without_head()
OTHER = {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
CASES: dict[str, dict[str, Any]] = {
    "ten classes": {**HEADLESS, **OTHER},
    "no head": HEADLESS,
    "a head of another name": {**HEADLESS, "my_classifier.1.weight": torch.zeros(10, 512)},
    "compiled and distributed": below("module._orig_mod.", trained()),
    "the other way round": below("_orig_mod.module.", trained()),
    "a trainer": {"state_dict": {**below("model.", HEADLESS), "criterion.weight": torch.ones(3)}},
    "a backbone and a head beside it": {**below("backbone.", HEADLESS), "head.weight": torch.zeros(10, 512)},
    "a teacher": {**below("teacher.backbone.", HEADLESS), **below("student.backbone.", trained(2))},
    "an encoder": {"model": {**below("module.encoder.", trained()), "decoder.weight": torch.ones(3)}},
}


@pytest.mark.parametrize("case", CASES)
def test_d2_another_head_and_prefixes_give_the_features_of_the_plain_file(tmp_path: Path, case: str) -> None:
    plain = pooled(tmp_path / "plain.pth", trained())
    assert torch.equal(pooled(tmp_path / "w.pth", CASES[case]), plain)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:test_vit", "timm:test_convnext", "mobilenetv2"])
def test_d2_every_source_leaves_out_the_head(tmp_path: Path, name: str) -> None:
    spec = resolve(f"{name}@random:3", outputs=["pooled"])
    if name == "torchvision:resnet18":
        from torchvision.models import resnet18  # type: ignore[import-untyped]

        state = resnet18().state_dict()
        head: tuple[str, ...] = ("fc.",)
    else:
        model: Any = timm.create_model(
            "mobilenetv2_100" if name == "mobilenetv2" else spec.architecture, pretrained=False
        )
        state, head = model.state_dict(), (f"{model.pretrained_cfg['classifier']}.",)
    rest = {key: value for key, value in state.items() if not key.startswith(head)}
    plain = pooled(tmp_path / "a.pth", state, name)
    assert plain.isfinite().all()
    assert torch.equal(pooled(tmp_path / "b.pth", below("module.", rest), name), plain)


def test_d2_a_head_that_is_not_there_gives_no_logits(tmp_path: Path) -> None:
    torch.save({**HEADLESS, **OTHER}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"another head or none: ask for outputs without logits, such as \[pooled\]"):
        build(resolve(NAME, checkpoint=tmp_path / "w.pth", outputs=["pooled", "logits"]))
    assert build(resolve(NAME, checkpoint=tmp_path / "w.pth", outputs=["pooled"])).head() is None
    torch.save(trained(), tmp_path / "w.pth")
    assert build(resolve(NAME, checkpoint=tmp_path / "w.pth", outputs=["pooled"])).head() is not None


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({**HEADLESS, "layer1.1.conv1.weight": torch.zeros(1)}, "layer1.1.conv1.weight: expected nothing"),
        ({**HEADLESS, "reg_token": torch.zeros(1)}, "reg_token: expected nothing"),
        ({**HEADLESS, "fc_norm.weight": torch.zeros(1)}, "fc_norm.weight: expected nothing"),
        ({**below("model.", HEADLESS), **below("teacher.", trained(2))}, r"under 'model\.', 'teacher\.'; choose with"),
        (below("net.", trained()), "of its tensors differ"),
    ],
)
def test_d2_nothing_that_features_may_depend_on_is_left_out(tmp_path: Path, content: object, found: str) -> None:
    with pytest.raises(WeightsError, match=found):
        pooled(tmp_path / "w.pth", content)


def training(**arguments: object) -> dict[str, Any]:
    """As timm's own train.py saves it."""
    return {
        "epoch": 3,
        "arch": "test_resnet",
        "state_dict": trained(),
        "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "version": 2,
        "args": argparse.Namespace(lr=0.1, layers=[1, 2], **arguments),
        "metric": 71.5,
    }


def test_d2_a_training_file_of_timm_loads(tmp_path: Path) -> None:
    plain = pooled(tmp_path / "plain.pth", trained())
    assert torch.equal(pooled(tmp_path / "last.pth.tar", training()), plain)


def test_d2_several_sets_are_named_and_one_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "last.pth.tar"
    content = {**training(), "state_dict_ema": below("module.", trained(2))}
    with pytest.raises(WeightsError, match=r"several \(state_dict, state_dict_ema\); choose .* checkpoint_key: st"):
        pooled(path, content)
    chosen = {key: pooled(path, content, checkpoint_key=key) for key in ("state_dict", "state_dict_ema")}
    assert torch.equal(chosen["state_dict"], pooled(tmp_path / "1.pth", trained()))
    assert torch.equal(chosen["state_dict_ema"], pooled(tmp_path / "2.pth", trained(2)))
    with pytest.raises(WeightsError, match="checkpoint_key must be a key of tensors or a prefix, found 'ema'; has 'st"):
        pooled(path, content, checkpoint_key="ema")
    both = {**below("model.", trained()), **below("teacher.", trained(2))}
    assert torch.equal(pooled(path, both, checkpoint_key="teacher."), chosen["state_dict_ema"])
    with pytest.raises(WeightsError, match="chooses among the tensors of a checkpoint"):
        resolve("mobilenetv2@random", checkpoint_key="model")


def test_d2_what_was_chosen_is_in_the_key(tmp_path: Path) -> None:
    torch.save(trained(), tmp_path / "w.pth")
    dataset = DatasetKey(name="a", split="test", digest="0", subset=Subset(size=1))
    specs = [resolve(NAME, checkpoint=tmp_path / "w.pth", checkpoint_key=key) for key in ("", "state_dict_ema")]
    keys = [feature_key(spec, dataset, precision="float32", dtype="float16") for spec in specs]
    digest = specs[0].weights.sha256
    assert [key["backbone"]["weights"] for key in keys] == [digest, f"{digest}:state_dict_ema"]
    assert specs[0] != specs[1]


def test_d2_the_refusal_names_what_the_file_holds_and_the_class(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        pooled(tmp_path / "w.pth", training(output=tmp_path))
    text = str(caught.value)
    assert "the class pathlib" in text
    assert (
        "which is not allowed beside 'epoch', 'arch', 'state_dict', 'optimizer', 'version', 'args', 'metric';" in text
    )
    assert "\x1b" not in text
    assert "weights_only" not in text
    assert text.endswith("torch.save(model.state_dict(), FILE)")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_d2_weights_that_are_not_finite_are_one_clear_error(tmp_path: Path, value: float) -> None:
    broken = {name: tensor.clone() for name, tensor in trained().items()}
    broken["layer1.0.conv1.weight"].view(-1)[3] = value
    broken["bn1.running_var"][0] = value
    with pytest.raises(WeightsError, match=r"must be finite, found NaN or infinity in bn1\.running_var, layer1\.0\."):
        pooled(tmp_path / "w.pth", broken)
