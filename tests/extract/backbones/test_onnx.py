"""ONNX files: onnxruntime against the network they were exported from, and what must lie beside them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from runs import make_images, open_folder, run
from torch import nn

from featurebank.extract.backbones import build, describe, resolve
from featurebank.extract.errors import AssetError, WeightsError
from featurebank.store import FeatureStore
from featurebank.store.errors import UnknownNameError

RECORD = {
    "height": 32, "width": 32, "resize_height": 36, "resize_width": 36, "interpolation": "bicubic",
    "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
}  # fmt: skip


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


def write(path: Path) -> nn.Sequential:
    """The network as a graph with the outputs Map, features and logits."""
    model: Any = network()
    tensors = {
        "w": model[0].weight, "b": model[0].bias, "lw": model[4].weight.T.contiguous(), "lb": model[4].bias
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["Map"]),
        helper.make_node("GlobalAveragePool", ["Map"], ["p"]),
        helper.make_node("Flatten", ["p"], ["features"]),
        helper.make_node("MatMul", ["features", "lw"], ["m"]),
        helper.make_node("Add", ["m", "lb"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("Map", "features", "logits")],
        [numpy_helper.from_array(value.detach().numpy(), name) for name, value in tensors.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(proto, path)
    path.with_suffix(".json").write_text(json.dumps(RECORD))
    return model  # type: ignore[no-any-return]


def test_outputs_are_those_of_the_network(tmp_path: Path) -> None:
    model = write(tmp_path / "net.onnx")
    spec = resolve(f"onnx:{tmp_path}/net.onnx", outputs=["pooled", "logits", "map"])
    assert spec.name == "onnx:net.onnx"
    assert (spec.preprocessing.mean, spec.preprocessing.resize_height) == ((0.5, 0.5, 0.5), 36)
    built: Any = build(spec)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        found = built(images)
        torch.testing.assert_close(found["map"], model[:2](images))
        torch.testing.assert_close(found["pooled"], model[:4](images))
        torch.testing.assert_close(found["logits"], model(images))
        torch.testing.assert_close(built(images.bfloat16().float())["pooled"], built(images.bfloat16())["pooled"])
    assert built.dimension == 8


def test_what_the_weights_expect_must_lie_beside_them(tmp_path: Path) -> None:
    write(tmp_path / "net.onnx")
    beside = tmp_path / "net.json"
    beside.write_text(json.dumps({key: value for key, value in RECORD.items() if key != "mean"}))
    with pytest.raises(WeightsError, match=r"net\.json: expected also mean"):
        resolve(f"onnx:{tmp_path}/net.onnx")
    beside.write_text(json.dumps({**RECORD, "crop": 3}))
    with pytest.raises(WeightsError, match=r"net\.json: expected only .*found crop"):
        resolve(f"onnx:{tmp_path}/net.onnx")
    beside.unlink()
    with pytest.raises(AssetError, match="expected a JSON file that says what the weights expect"):
        resolve(f"onnx:{tmp_path}/net.onnx")


def test_files_that_are_none(tmp_path: Path) -> None:
    write(tmp_path / "net.onnx")
    spec = resolve(f"onnx:{tmp_path}/net.onnx")
    with pytest.raises(UnknownNameError, match=r"unknown output 'tokens'.*pooled"):
        build(dataclasses.replace(spec, outputs=("tokens",)))
    (tmp_path / "net.onnx").write_bytes(b"no graph")
    with pytest.raises(AssetError, match="expected SHA-256"):
        build(spec)
    with pytest.raises(WeightsError, match="found one that cannot be loaded"):
        build(resolve(f"onnx:{tmp_path}/net.onnx"))
    with pytest.raises(AssetError, match=r"missing\.onnx: expected a readable file"):
        resolve(f"onnx:{tmp_path}/missing.onnx")
    with pytest.raises(WeightsError, match="a random initialisation of it does not exist"):
        resolve(f"onnx:{tmp_path}/net.onnx@random")
    assert describe(f"onnx:{tmp_path}/net.onnx") == {}


def test_tensors_in_other_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "net.onnx")
    proto = onnx.load(tmp_path / "net.onnx")
    onnx.save(proto, tmp_path / "net.onnx", save_as_external_data=True, size_threshold=0, location="net.data")
    with pytest.raises(WeightsError, match="holds its tensors"):
        build(resolve(f"onnx:{tmp_path}/net.onnx"))


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    path.with_suffix(".json").write_text(json.dumps(RECORD))
    with pytest.raises(WeightsError, match=r"expected one input of float32 images, found x tensor\(uint8\)"):
        build(resolve(f"onnx:{path}"))


def test_a_set_of_features_says_which_onnxruntime_made_them(tmp_path: Path) -> None:
    write(tmp_path / "net.onnx")
    split = open_folder(make_images(tmp_path / "pictures", 4))
    (outcome,) = run(tmp_path / "features", split, [f"onnx:{tmp_path}/net.onnx"])
    assert outcome.state == "sealed", outcome.error
    with FeatureStore(tmp_path / "features").open("pictures/all", "onnx:net.onnx") as found:
        assert found["pooled"].shape == (4, 8)
        assert found.manifest["provenance"]["versions"]["onnxruntime"]


@pytest.mark.parametrize("kind", ["initialiser", "constant"])
def test_c14_tensors_in_other_files_are_refused_wherever_the_program_runs(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a graph in memory onnxruntime seeks them in the working folder; they are in no key."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "net.onnx")
    proto = onnx.load(tmp_path / "net.onnx")
    outside = next(tensor for tensor in proto.graph.initializer if tensor.name == "lw")
    (tmp_path / "lw.bin").write_bytes(outside.raw_data)
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "lw.bin", "offset": "0", "length": "160"}.items():
        entry = outside.external_data.add()
        entry.key, entry.value = key, value
    if kind == "constant":
        proto.graph.node.insert(0, helper.make_node("Constant", [], ["lw"], value=outside))
        proto.graph.initializer.remove(outside)
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(WeightsError, match="expected an ONNX file that holds its tensors"):
        build(resolve("onnx:net.onnx"))
