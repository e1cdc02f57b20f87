"""The network that is tuned: gradients at every depth of every family, what is frozen stays, rates, heads, weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import open_clip  # type: ignore[import-untyped]
import pytest
import timm
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from scipy.special import log_softmax  # type: ignore[import-untyped]
from timm.optim._param_groups import param_groups_weight_decay
from tiny_clip import CONFIGS, SMALL
from torch import nn
from torchvision.models import GoogLeNet  # type: ignore[import-untyped]
from torchvision.models.convnext import CNBlockConfig, ConvNeXt  # type: ignore[import-untyped]
from torchvision.models.vision_transformer import VisionTransformer  # type: ignore[import-untyped]
from transformers import ViTConfig, ViTModel

from featurebank.extract.backbones import resolve, trainable
from featurebank.extract.backbones.architectures import architecture, network_of
from featurebank.extract.backbones.contract import BackboneSpec, Weights
from featurebank.extract.backbones.diffusers_network import DiffusionEncoder
from featurebank.extract.backbones.hf_network import HuggingFaceNetwork
from featurebank.extract.backbones.layer_groups import layer_groups
from featurebank.extract.backbones.network import FrozenNetwork, TimmNetwork
from featurebank.extract.backbones.open_clip_network import ImageTower
from featurebank.extract.backbones.own_network import OwnNetwork
from featurebank.extract.backbones.torchvision_network import LinearEnd
from featurebank.extract.preprocessing import Preprocessing
from featurebank.pipelines.jobs.finetune.network import (
    TunedNetwork,
    folded_head,
    interpolated,
    random_head,
)
from featurebank.pipelines.jobs.trunk import parameter_groups
from featurebank.probes.linear import Protocol, fit_linear

K = 3


def spec(px: int, line: str = "") -> BackboneSpec:
    half = (0.5, 0.5, 0.5)
    size = Preprocessing(
        height=px, width=px, resize_height=px, resize_width=px, interpolation="bilinear", mean=half, std=half
    )
    weights = Weights(sha256="random:0")
    return BackboneSpec(
        name="tiny", source="tiny", architecture=line, weights=weights, preprocessing=size, outputs=("pooled",)
    )


def packaged(name: str) -> FrozenNetwork:
    return trainable(resolve(f"{name}@random", outputs=["pooled"]))


def of_timm(name: str, px: int, **arguments: Any) -> FrozenNetwork:
    return TimmNetwork(spec(px), timm.create_model(name, pretrained=False, **arguments))


def of_open_clip(name: str) -> FrozenNetwork:
    config = {key: value for key, value in CONFIGS[name].items() if key != "custom_text"}
    return ImageTower(spec(config["vision_cfg"]["image_size"]), open_clip.CLIP(**config).visual)


def wavemix() -> FrozenNetwork:
    line = "wavemix(channels=16, depth=2, classes=5)"
    return network_of(spec(32, line), architecture(line))


def vision_transformer() -> FrozenNetwork:
    return LinearEnd(spec(16), VisionTransformer(16, 8, 2, 2, 16, 32, num_classes=5))


def diffusion() -> FrozenNetwork:
    vae: Any = AutoencoderKL(  # type: ignore[no-untyped-call]
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )
    unet: Any = UNet2DConditionModel(  # type: ignore[no-untyped-call]
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    return DiffusionEncoder(spec(32), vae, unet, torch.randn(1, 4, 8))


SWIN = {"img_size": 64, "embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2), "window_size": 8}
NETWORKS: dict[str, tuple[int, Callable[[], FrozenNetwork]]] = {
    "efficientnet_lite0": (32, lambda: packaged("efficientnet_lite0")),
    "mobilenetv2": (32, lambda: packaged("mobilenetv2")),
    "squeezenet": (32, lambda: packaged("squeezenet1_1")),
    "resnet": (32, lambda: of_timm("test_resnet", 32)),
    "convnext": (32, lambda: of_timm("test_convnext", 32)),
    "vit": (160, lambda: of_timm("test_vit", 160)),
    "swin": (64, lambda: of_timm("swin_tiny_patch4_window7_224", 64, **SWIN)),
    "swinv2": (64, lambda: of_timm("swinv2_tiny_window8_256", 64, **SWIN)),
    "clip vit": (32, lambda: of_open_clip("fb-vit")),
    "clip resnet": (64, lambda: of_open_clip("fb-resnet")),
    "hugging face": (32, lambda: HuggingFaceNetwork(spec(32), ViTModel(ViTConfig(**SMALL)))),
    "stable diffusion": (32, diffusion),
    "wavemix": (32, wavemix),
    "torchvision vit": (16, vision_transformer),
}


def tuned(name: str, **options: Any) -> TunedNetwork:
    torch.manual_seed(0)
    network = NETWORKS[name][1]()
    return TunedNetwork(network, random_head(network.dimension, K, 0), **options)


def backward(model: TunedNetwork, px: int) -> None:
    images = torch.randn(2, 3, px, px, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)  # of dropout
    nn.functional.cross_entropy(model(images), torch.tensor([0, 1])).backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_moves_every_depth_that_is_not_frozen_and_nothing_else(name: str) -> None:
    model = copy.deepcopy(tuned(name)).train()  # as an average of weights copies it
    px, layers = NETWORKS[name][0], layer_groups(model.network)
    backward(model, px)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    for layer in [*layers[:-1], ["../head.weight"], ["../head.bias"]]:
        assert {f"network.{name}".replace("network.../", "") for name in layer} & gradients.keys()
    model.freeze(1)
    model.zero_grad()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    groups = parameter_groups(model, rate=0.01, layer_decay=0.9, weight_decay=0.0)
    backward(model, px)
    torch.optim.AdamW(groups).step()
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    frozen = {f"network.{name}" for layer in layers[:2] for name in layer}
    assert moved == gradients.keys() - frozen
    assert {name for group in groups for name in group["names"]} >= moved
    for part, module in model.named_modules():
        inside = {name for name in gradients if name.startswith(f"{part}.")}
        assert not (module.training and inside and inside <= frozen)
    assert model.head.training


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_statistics_of_batch_norms_stay_unless_asked_and_always_where_frozen(batch_norm: Any) -> None:
    model = tuned("resnet", batch_norm=batch_norm)
    model.freeze(2)
    model.train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    backward(model, 32)
    moved = {name for name, value in model.named_buffers() if not value.equal(before[name])}
    layers = layer_groups(model.network)
    free = {
        name.removeprefix("network.").rpartition(".")[0]
        for name in before
        if any(f"{name.removeprefix('network.').rpartition('.')[0]}.weight" in layer for layer in layers[3:])
    }
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    wanted = {f"network.{part}.{kind}" for part in free for kind in kinds}
    assert len(wanted) > 3
    assert moved == (wanted if batch_norm == "train" else set())
    assert not any(part.training for part in model.eval().modules())


def test_fixed_batch_norms_learn_nothing_and_keep_no_inputs() -> None:
    learning, fixed = tuned("resnet").train(), tuned("resnet", batch_norm="fixed").train()
    kept = [0, 0]
    images = torch.randn(2, 3, 32, 32)
    for number, model in enumerate((learning, fixed)):

        def keep(value: torch.Tensor, number: int = number) -> torch.Tensor:
            kept[number] += value.numel() if value.shape[0] == len(images) and value.ndim == 4 else 0
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            model(images).sum().backward()
    torch.testing.assert_close(fixed(images), learning(images))
    norms = {name for name, part in learning.network.named_modules() if isinstance(part, nn.BatchNorm2d)}
    assert norms
    assert not norms & {name.rpartition(".")[0] for name, _ in fixed.network.named_parameters()}
    assert kept[1] < 0.8 * kept[0]
    layers = parameter_groups(fixed, rate=0.01, layer_decay=0.9, weight_decay=0.0)
    assert [group["depth"] for group in layers][-1] == len(layer_groups(learning.network)) - 1


def test_dropout_follows_the_mode_and_none_is_left_where_all_is_frozen() -> None:
    model = tuned("wavemix")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        fixed = model(images)
        model.train()
        assert not model(images).equal(model(images))
        model.freeze(-1)
        assert model(images).equal(fixed)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]


def test_further_classifiers_of_a_training_stay_out_of_it() -> None:
    model = TunedNetwork(
        LinearEnd(spec(32), GoogLeNet(init_weights=False)), random_head(1024, K, 0), batch_norm="train"
    )
    assert model.train()(torch.randn(2, 3, 32, 32)).shape == (2, K)
    assert not [name for name, p in model.named_parameters() if ".aux" in name and p.requires_grad]


def test_freezing_more_blocks_than_there_are_names_how_many() -> None:
    model = tuned("wavemix")
    with pytest.raises(ValueError, match="at most 2, the blocks of tiny"):
        model.freeze(3)
    with pytest.raises(ValueError, match="a number of blocks, or -1"):
        model.freeze(-2)


def of_torchvision(rate: float) -> nn.Module:
    return ConvNeXt([CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 3)], stochastic_depth_prob=rate)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "create",
    [lambda rate: timm.create_model("test_vit", pretrained=False, drop_path_rate=rate), of_torchvision],
    ids=["timm", "torchvision"],
)
def test_drop_path_rises_over_depth_as_the_libraries_have_it(create: Callable[[float], nn.Module]) -> None:
    def rates(model: nn.Module) -> list[float]:
        kinds = ("DropPath", "StochasticDepth")
        parts: list[Any] = [part for part in model.modules() if type(part).__name__ in kinds]
        return [float(part.drop_prob if hasattr(part, "drop_prob") else part.p) for part in parts]

    ours = create(0.0)
    network = (TimmNetwork if hasattr(ours, "pretrained_cfg") else LinearEnd)(spec(160), ours)
    model = TunedNetwork(network, random_head(network.dimension, K, 0), drop_path=0.3)
    wanted = rates(create(0.3))
    assert max(wanted) == pytest.approx(0.3)
    assert [rate for rate in rates(model) if rate] == pytest.approx([rate for rate in wanted if rate])
    assert model.notes == ()
    model.eval()
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        assert model(images).equal(model(images))
        assert not model.train()(images).equal(model(images))


def test_an_architecture_without_drop_path_is_said() -> None:
    (note,) = tuned("wavemix", drop_path=0.1).notes
    assert note == "drop_path does nothing: tiny has no place for it"


def test_rates_fall_from_the_head_whatever_is_frozen() -> None:
    model = tuned("vit")
    last = len(layer_groups(model.network)) - 1
    for frozen in (0, 3):
        model.freeze(frozen)
        groups = parameter_groups(model, rate=1e-3, layer_decay=0.5, weight_decay=0.1)
        assert {group["depth"] for group in groups} == {*range(frozen + 1 if frozen else 0, last + 1)}
        assert all(group["lr"] == pytest.approx(1e-3 * 0.5 ** (last - group["depth"])) for group in groups)
        names = [name for group in groups for name in group["names"]]
        assert sorted(names) == sorted(name for name, p in model.named_parameters() if p.requires_grad)
        by_name = dict(model.named_parameters())
        assert all([by_name[n] for n in group["names"]] == list(group["params"]) for group in groups)
        assert groups[-1]["names"][-1] == "head.bias"
    stem = parameter_groups(tuned("vit"), rate=1e-3, layer_decay=0.5, weight_decay=0.1, steps=2)[0]
    assert (stem["depth"], stem["lr"]) == (0, pytest.approx(2.5e-4))


@pytest.mark.parametrize("name", ["vit", "convnext", "swin", "swinv2"])
def test_what_decays_is_what_timm_lets_decay(name: str) -> None:
    model = tuned(name)
    groups = parameter_groups(model, rate=1e-3, layer_decay=1.0, weight_decay=0.1)
    backbone: Any = model.network.backbone
    listed = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()
    wanted = param_groups_weight_decay(backbone, weight_decay=0.1, no_weight_decay_list=listed)
    decays = {id(p): group["weight_decay"] for group in wanted for p in group["params"]}
    found = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    del found[id(model.head.weight)], found[id(model.head.bias)]
    assert {decays[key] for key in found} == {0.0, 0.1}
    assert found == {key: decays[key] for key in found}


def test_tokens_and_positions_of_other_libraries_do_not_decay() -> None:
    for name, wanted in {
        "torchvision vit": {"class_token", "encoder.pos_embedding"},
        "clip vit": {"class_embedding", "positional_embedding"},
        "hugging face": {"embeddings.cls_token", "embeddings.position_embeddings"},
    }.items():
        groups = parameter_groups(tuned(name), rate=1.0, layer_decay=1.0, weight_decay=0.1)
        plain = {name for group in groups if not group["weight_decay"] for name in group["names"]}
        assert {f"network.backbone.{part}" for part in wanted} <= plain
        assert not any(name.endswith("mlp.fc1.weight") for name in plain)


def test_a_network_of_unknown_layers_has_one_rate_or_a_matcher() -> None:
    own = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = TunedNetwork(OwnNetwork(spec(8), own), random_head(4, K, 0))
    groups = parameter_groups(model, rate=1.0, layer_decay=1.0, weight_decay=0.0)
    assert {group["lr"] for group in groups} == {1.0}
    assert sum(len(group["params"]) for group in groups) == 4
    with pytest.raises(ValueError, match="whose layers are known"):
        parameter_groups(model, rate=1.0, layer_decay=0.9, weight_decay=0.0)


def test_what_no_gradient_reaches_is_refused_or_left_alone() -> None:
    class Detached(nn.Module):
        def __init__(self, all_of_it: bool) -> None:
            super().__init__()
            self.first, self.last, self.all_of_it = nn.Linear(3, 4), nn.Linear(4, 4), all_of_it

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                x: torch.Tensor = self.first(images.mean((2, 3)))
            return x if self.all_of_it else self.last(x)

    with pytest.raises(ValueError, match="gradients must reach its parameters; found none"):
        TunedNetwork(OwnNetwork(spec(8), Detached(True)), random_head(4, K, 0))
    module = Detached(False)
    module.first.bias.data.fill_(torch.nan)
    model = TunedNetwork(OwnNetwork(spec(8), module), random_head(4, K, 0))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == ["network.backbone.last.weight", "network.backbone.last.bias", "head.weight", "head.bias"]


def test_a_head_of_other_features_is_refused() -> None:
    own = OwnNetwork(spec(8), nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()))
    with pytest.raises(ValueError, match="the head must be of 4 features, as tiny gives; found 5"):
        TunedNetwork(own, random_head(5, K, 0))


def rows(classes: list[int], seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    labels = np.tile(classes, 40)
    centres = rng.normal(size=(10, 12))
    X = 3 * centres[labels] + rng.normal(size=(len(labels), 12)) * np.geomspace(0.1, 30, 12) + 50
    return X.astype(np.float16), labels.astype(np.int64)


@pytest.mark.parametrize("protocol", ["logistic", "bob"])
@pytest.mark.parametrize("classes", [[0, 1, 2], [0, 1], [1, 4]])
def test_the_folded_head_gives_the_probes_own_answers(protocol: Protocol, classes: list[int]) -> None:
    X, labels = rows(classes, 0)
    fit = fit_linear(X, labels, protocol=protocol, Cs=[0.1, 1.0])
    head = folded_head(fit, 6)
    logits = torch.from_numpy(X).float() @ head.weight.T + head.bias
    assert (head.weight.dtype, head.weight.shape) == (torch.float32, (6, 12))
    found = logits[:, classes].double().numpy()
    wanted = fit.logits(X).astype(np.float64)
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(log_softmax(found, 1) / scale, log_softmax(wanted, 1) / scale, atol=1e-5)
    if len(classes) > 2 or protocol == "bob":
        np.testing.assert_allclose(found / scale, wanted / scale, atol=1e-5)
    absent = [number for number in range(6) if number not in classes]
    assert float(logits[:, absent].max()) < logits[:, classes].min() - 1000
    with pytest.raises(ValueError, match="classes must be below 1"):
        folded_head(fit, 1)


def test_a_random_head_is_glorots_and_its_seeds() -> None:
    head = random_head(400, 200, 1)
    assert float(head.weight.std()) == pytest.approx((2 / 600) ** 0.5, rel=0.02)
    assert not head.bias.any()
    assert random_head(400, 200, 1).weight.equal(head.weight)
    assert not random_head(400, 200, 2).weight.equal(head.weight)


def test_weights_between_two_networks() -> None:
    a = {"w": torch.tensor([0.1, 3.0]), "n": torch.tensor(1)}
    b = {"w": torch.tensor([0.7, -1.0]), "n": torch.tensor(9)}
    assert interpolated(a, b, 0.0)["w"].equal(a["w"])
    assert interpolated(a, b, 1.0)["w"].equal(b["w"])
    middle = interpolated(a, b, 0.25)
    torch.testing.assert_close(middle["w"], torch.tensor([0.25, 2.0]))
    assert middle["n"].equal(b["n"])
    with pytest.raises(ValueError, match="1 differ, such as w"):
        interpolated(a, b | {"w": torch.zeros(3)}, 0.5)
    with pytest.raises(ValueError, match="alpha must be from 0 to 1"):
        interpolated(a, b, 1.5)
