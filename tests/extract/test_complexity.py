"""Parameters and multiply-adds, against figures measured elsewhere, formulas, and what other counters get wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from featurebank.extract import complexity as counting
from featurebank.extract.backbones import outline, without_weights
from featurebank.extract.complexity import complexity
from featurebank.extract.errors import WeightsError

# GMACs, and millions of parameters as timm's own table of benchmarks has them.
TABLE = {
    "timm:resnet18": (1.8141, 11.69), "timm:resnet50": (4.0892, 25.56), "timm:mobilenetv2_100": (0.3008, 3.50),
    "timm:mobilenetv3_large_100": (0.2166, 5.48), "timm:tf_efficientnet_lite0": (0.3852, 4.65),
    "timm:tf_efficientnet_lite1": (0.6002, 5.42), "timm:tf_efficientnet_lite2": (0.8597, 6.09),
    "timm:efficientnet_b0": (0.3858, 5.29), "timm:regnetx_004": (0.3977, 5.16), "timm:regnety_032": (3.1765, 19.44),
    "timm:densenet121": (2.8342, 7.98), "timm:convnext_tiny": (4.4555, 28.59), "timm:convnext_base": (15.3547, 88.59),
    "timm:vit_tiny_patch16_224": (1.2537, 5.72), "timm:vit_small_patch16_224": (4.5989, 22.05),
    "timm:vit_base_patch16_224": (17.5638, 86.57), "timm:vit_small_patch14_dinov2": (46.6967, 22.06),
    "timm:swin_tiny_patch4_window7_224": (4.4906, 28.29), "timm:swinv2_tiny_window8_256": (5.9397, 28.35),
    "timm:maxvit_tiny_tf_224": (5.5518, 30.92),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_counts_are_those_of_timms_table_without_its_norms(name: str) -> None:
    gmacs, millions = TABLE[name]
    found = complexity(without_weights(name))
    assert found.macs / 1e9 == pytest.approx(gmacs, abs=5e-4)
    assert found.parameters / 1e6 == pytest.approx(millions, abs=5e-3)
    assert found.uncounted == {}


def test_attention_is_counted_as_its_formula_says() -> None:
    tokens, width, patch, side = 197, 192, 16, 224
    block = 4 * tokens * width**2 + 2 * tokens**2 * width + 8 * tokens * width**2
    stem = side**2 * 3 * width
    found = complexity(without_weights("timm:vit_tiny_patch16_224"))
    assert (side // patch) ** 2 + 1 == tokens
    assert found.macs == 12 * block + stem + width * 1000


def test_the_fused_attention_of_torch_is_counted_too() -> None:
    name = "torchvision:vit_b_16/IMAGENET1K_V1"  # 11.27 where its fast path runs
    assert complexity(without_weights(name)).macs / 1e9 == pytest.approx(17.5638, abs=5e-4)


def test_a_network_that_needs_numbers_to_be_built_is_counted_too() -> None:
    spec = without_weights("regnet_y_3_2gf")
    network: Any = outline(spec)
    assert all(parameter.is_meta for parameter in network.parameters())
    found = complexity(spec)
    assert found.parameters == 19_436_338
    assert found.macs / 1e9 == pytest.approx(3.1765, abs=5e-4)


class Spectral(nn.Module):
    """A convolution, a Fourier transform, for which there is no formula, and what counts as nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1, device="meta")

    def parameters_counted(self) -> Any:
        return self.parameters()

    def forward(self, images: torch.Tensor) -> Any:
        maps = torch.relu(self.layer(images))
        return torch.fft.fft2(maps).real.flatten(1).softmax(1)


def test_operators_without_a_formula_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "outline", lambda _: Spectral())
    found = complexity(without_weights("mobilenetv2"))
    assert (found.parameters, found.macs) == (16, 224 * 224 * 3 * 4)
    assert found.uncounted.keys() & {"aten.relu", "aten._softmax", "aten.view"} == set()
    assert any("fft" in name and calls >= 1 for name, calls in found.uncounted.items())


class Foreign(Spectral):
    """A network whose numbers another library makes."""

    def forward(self, images: torch.Tensor) -> Any:
        return torch.from_numpy(images.cpu().numpy())


def test_a_network_of_another_library_is_not_counted_as_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "outline", lambda _: Foreign())
    with pytest.raises(WeightsError, match=r"mobilenetv2@random: the operators .* must be torch's"):
        complexity(without_weights("mobilenetv2"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dino_vit_base", "dino_vit_base@random"),
        ("timm-resnet50@96px@flip", "resnet50@random@96px@flip"),
        ("timm:resnet18.a1_in1k@random:3", "timm:resnet18.a1_in1k@random:3"),
    ],
)
def test_a_name_without_its_weights_needs_no_file(name: str, expected: str) -> None:
    spec = without_weights(name)
    assert (spec.name, spec.weights.path) == (expected, None)
