"""Networks of every source on a card: all outputs they offer, equal to the CPU's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from onnx import TensorProto, helper
from pretend_cuda import OnCard, pretend_cuda
from tiny_clip import CONFIGS, SMALL, in_hub, tiny_zoo
from tiny_diffusion import save_diffusion

from featurebank.extract.backbones import build, resolve, text_tower
from featurebank.extract.forward import PixelsToFeatures, Runner

NAMES = [
    "mobilenetv2@random@64px",
    "efficientnet_lite0@random@64px",
    "squeezenet1_1@random@64px",
    "mocov3_vit_small@random@32px",
    "mocov3_vit_small@random@240px@windowed",
    "wavemix@random@64px",
    "timm:test_vit@random",
    "timm:test_resnet@random",
    "timm:test_efficientnet@random",
    "timm:test_convnext@random",
    "timm:levit_128s@random",
    "timm:swin_tiny_patch4_window7_224@random@64px",
    "torchvision:mobilenet_v3_small@random@64px",
    "torchvision:swin_v2_t@random@64px",
]
CUTS = {"timm:test_vit@random": "cut.2", "mobilenetv2@random@64px": "cut.3"}


def assert_alike(name: str) -> None:
    """What the card gives is what the CPU gives; where nn.MultiheadAttention takes its fast path, but for rounding."""
    offered: Any = build(resolve(name, outputs=["pooled"]))
    spec = resolve(name, outputs=[*offered.available(), *([CUTS[name]] if name in CUTS else [])])
    module = PixelsToFeatures(build(spec), spec, "float32", "float32")
    size = (2, spec.preprocessing.height, spec.preprocessing.width, 3)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = Runner(module, device="cpu", batch_size=2, compiled=False)(pixels)
    with pretend_cuda() as card:
        outputs = Runner(module, device="cuda", batch_size=2, compiled=False)(pixels)
        assert {type(value) for value in outputs.values()} == {OnCard}
        on_host = {key: value.cpu() for key, value in outputs.items()}
        del outputs
        assert card.peak > card.allocated > 0
    assert set(on_host) == set(expected) == set(spec.outputs)
    for key, value in on_host.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_networks_of_the_zoo_timm_and_torchvision(name: str) -> None:
    assert_alike(name)


def test_a_text_prompts_a_diffusion_network_there(tmp_path: Path) -> None:
    assert_alike(f"diffusers:{save_diffusion(tmp_path / 'tiny', px=32)}?px=32&prompt=a cat")


@pytest.mark.parametrize(
    "model",
    [
        lambda: transformers.ViTModel(transformers.ViTConfig(**SMALL)),
        lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SMALL)),
    ],
)
def test_networks_of_transformers(model: Callable[[], Any], tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "net")
    processor = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "net" / "preprocessor_config.json").write_text(json.dumps(processor))
    assert_alike(f"hf:{tmp_path / 'net'}")


@pytest.mark.parametrize("name", CONFIGS)
def test_both_towers_of_open_clip(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_hub(tiny_zoo(tmp_path, monkeypatch), name, tmp_path / "made")
    assert_alike(f"open_clip:{name}/tiny")
    spec, texts = resolve(f"open_clip:{name}/tiny"), ["a photo of a cat.", "a dog"]
    expected = text_tower(spec).encode(texts)
    with pretend_cuda():
        np.testing.assert_allclose(text_tower(spec, "cuda").encode(texts), expected, atol=1e-5)


def test_a_graph_of_onnx_answers_on_the_card(tmp_path: Path) -> None:
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])
    pooled = helper.make_tensor_value_info("pooled", TensorProto.FLOAT, None)
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["pooled"])]
    graph = helper.make_graph(nodes, "net", [given], [pooled])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "n.onnx")
    record = {
        "height": 32, "width": 32, "resize_height": 32, "resize_width": 32, "interpolation": "bicubic",
        "mean": [0.5] * 3, "std": [0.5] * 3,
    }  # fmt: skip
    (tmp_path / "n.json").write_text(json.dumps(record))
    assert_alike(f"onnx:{tmp_path / 'n.onnx'}")
