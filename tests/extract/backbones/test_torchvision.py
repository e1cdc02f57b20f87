"""torchvision's zoo: presets recorded exactly, features that enter the last layer, files in torch's cache."""

from __future__ import annotations

import hashlib
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision  # type: ignore[import-untyped]
from torch import nn
from torchvision.models import get_model, get_model_weights  # type: ignore[import-untyped]
from torchvision.models.feature_extraction import create_feature_extractor  # type: ignore[import-untyped]

from featurebank.extract.backbones import adapters, build, describe, resolve
from featurebank.extract.backbones.torch_hub import fetch_url
from featurebank.extract.backbones.torchvision_source import preprocessing_of
from featurebank.extract.errors import AssetError, WeightsError
from featurebank.store.errors import UnknownNameError

MODELS = torchvision.models.list_models(module=torchvision.models)
SMALL = ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5", "regnet_x_400mf", "densenet121"]
ODD = ["googlenet", "vit_b_32", "swin_t", "convnext_tiny", "efficientnet_b0", "maxvit_t"]


@pytest.fixture(autouse=True)
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch's, and no network; returns where its checkpoints lie."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("FEATUREBANK_OFFLINE", "1")
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize("model", MODELS)
def test_presets_are_recorded_exactly(model: str) -> None:
    for entry in get_model_weights(model):
        preset, record = entry.transforms(), preprocessing_of(entry)
        assert [record.resize_height] == [record.resize_width] == list(preset.resize_size)
        assert [record.height] == [record.width] == list(preset.crop_size)
        assert record.resize == "shorter"
        assert record.interpolation == preset.interpolation.value
        assert list(record.mean) == list(preset.mean)
        assert list(record.std) == list(preset.std)
        assert preset.antialias is not False


def test_a_preset_that_is_not_for_classification_is_refused() -> None:
    with pytest.raises(WeightsError, match="expected the transform of a classification model"):
        preprocessing_of(torchvision.models.segmentation.FCN_ResNet50_Weights.DEFAULT)


@pytest.mark.parametrize("name", SMALL + ODD)
def test_outputs_are_what_enters_and_leaves_the_last_linear_layer(name: str) -> None:
    network = build(resolve(f"torchvision:{name}@random:5"))
    arguments: dict[str, Any] = {"init_weights": True, "transform_input": True} if name == "googlenet" else {}
    torch.manual_seed(5)
    model = get_model(name, weights=None, **arguments).eval()
    entered: list[torch.Tensor] = []
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    size = network.spec.preprocessing
    images = torch.randn(2, 3, size.height, size.width)
    with torch.no_grad():
        expected, found = model(images), network(images)
    torch.testing.assert_close(found["logits"], expected)
    torch.testing.assert_close(found["pooled"], entered[0])
    head = network.head()
    assert head is not None
    torch.testing.assert_close(found["pooled"] @ head.weight.T + head.bias, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "first", "places"),
    [
        ("resnet18", 1, ["layer1", "layer2", "layer3", "layer4"]),
        ("swin_t", 0, ["features.1", "features.3", "features.5", "features.7"]),
        ("densenet121", 1, ["features.denseblock1", "features.denseblock2", "features.denseblock3"]),
        ("regnet_x_400mf", 0, [f"trunk_output.block{number}" for number in (1, 2, 3, 4)]),
    ],
)
def test_stages_are_the_last_maps_of_each_stride(name: str, first: int, places: list[str]) -> None:
    stages = [f"stages.{number}" for number in range(first, first + len(places))]
    outputs = [f"{stage}.{kind}" for stage in stages for kind in ("features", "mean")]
    network: Any = build(resolve(f"torchvision:{name}@random:5@64px", outputs=[*outputs, "pooled"]))
    torch.manual_seed(5)
    images = torch.randn(2, 3, 64, 64)
    torch.manual_seed(5)
    extractor = create_feature_extractor(get_model(name, weights=None).eval(), dict(zip(places, stages, strict=True)))
    with torch.no_grad():
        found, expected = network(images), extractor(images)
    for number, stage in enumerate(stages, 2):
        features = expected[stage].permute(0, 3, 1, 2) if name == "swin_t" else expected[stage]
        assert features.shape[2:] == (64 // 2**number,) * 2
        torch.testing.assert_close(found[f"{stage}.features"], features)
        torch.testing.assert_close(found[f"{stage}.mean"], features.mean((2, 3)))


def test_tokens_and_what_stands_before_them_are_no_stages() -> None:
    with pytest.raises(UnknownNameError, match=r"has: pooled, logits\)"):
        build(resolve("torchvision:vit_b_32@random", outputs=["stages.0.features"]))


def test_squeezenet_has_features_and_no_head() -> None:
    network = build(resolve("torchvision:squeezenet1_0@random", outputs=["features", "pooled", "logits"]))
    assert network.head() is None
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        found = network(images)
    torch.testing.assert_close(found["pooled"], found["features"].mean((2, 3)))
    assert found["logits"].shape == (1, 1000)


def put_in_cache(
    torch_home: Path, model: str, tensors: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A checkpoint under the name that torch's cache would give it, with the digest in the name made to fit."""
    torch_home.mkdir(parents=True)
    torch.save(tensors, torch_home / "raw")
    digest = hashlib.sha256((torch_home / "raw").read_bytes()).hexdigest()
    path = torch_home / f"{model}-{digest[:8]}.pth"
    (torch_home / "raw").rename(path)
    entry = get_model_weights(model).DEFAULT
    monkeypatch.setattr(type(entry), "url", property(lambda _: f"https://example.org/{path.name}"))
    return path


def test_weights_from_torchs_cache(torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = get_model("resnet18", weights=None).eval()
    path = put_in_cache(torch_home, "resnet18", model.state_dict(), monkeypatch)
    spec = resolve("torchvision:resnet18")
    assert spec.weights.path == path
    assert spec.weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(build(spec)(images)["logits"], model(images))


def test_a_file_that_belies_its_name_is_refused(torch_home: Path) -> None:
    torch_home.mkdir(parents=True)
    path = torch_home / "resnet18-f37072fd.pth"
    path.write_bytes(b"another file")
    with pytest.raises(AssetError, match=rf"{path}: expected SHA-256 f37072fd…, found {'[0-9a-f]' * 64}; delete it"):
        resolve("torchvision:resnet18/IMAGENET1K_V1")


def test_offline_and_failed_downloads_say_what_to_do(torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssetError, match=rf"{torch_home}.*found nothing, and FEATUREBANK_OFFLINE"):
        resolve("torchvision:resnet50/IMAGENET1K_V2")
    monkeypatch.delenv("FEATUREBANK_OFFLINE")
    asked = []

    def refuse(_opener: object, request: urllib.request.Request, **settings: object) -> None:
        asked.append((request.full_url, settings))
        raise OSError("no network in tests")

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuse)
    with pytest.raises(
        AssetError, match=r"cannot download https://example\.org/.*no network in tests; give checkpoint="
    ):
        fetch_url("https://example.org/resnet18-f37072fd.pth")
    assert asked == [("https://example.org/resnet18-f37072fd.pth", {"timeout": 60.0})]


def test_old_densenet_names(tmp_path: Path) -> None:
    model = get_model("densenet121", weights=None)
    old = {
        key.replace("norm1", "norm.1").replace("norm2", "norm.2").replace("conv1", "conv.1").replace("conv2", "conv.2")
        if "denselayer" in key
        else key: value
        for key, value in model.state_dict().items()
    }
    assert old.keys() != model.state_dict().keys()
    assert adapters.old_densenet(old).keys() == model.state_dict().keys()
    torch.save(old, tmp_path / "w.pth")
    assert isinstance(build(resolve("torchvision:densenet121", checkpoint=tmp_path / "w.pth")), nn.Module)


def test_names(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean .*'torchvision:resnet50'"):
        resolve("torchvision:resnet51")
    with pytest.raises(
        UnknownNameError, match=r"unknown weights 'IMAGENET1K_V3' of resnet50; known: IMAGENET1K_V1, IMA"
    ):
        resolve("torchvision:resnet50/IMAGENET1K_V3")
    torch.save({"w": torch.zeros(1)}, tmp_path / "w.pth")
    first, second = (resolve(f"torchvision:resnet50/{w}@random") for w in ("IMAGENET1K_V1", "IMAGENET1K_V2"))
    assert (first.preprocessing.resize_height, second.preprocessing.resize_height) == (256, 232)
    with pytest.raises(WeightsError, match="not of this architecture"):
        build(resolve("torchvision:resnet50", checkpoint=tmp_path / "w.pth"))
    assert describe("torchvision:resnet50/IMAGENET1K_V2")["parameters"] == 25_557_032
