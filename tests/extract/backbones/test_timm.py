"""timm's zoo: preprocessing and outputs equal to its own, weights from hub and files."""

from __future__ import annotations

import copy
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file
from timm.data.config import resolve_data_config
from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio, str_to_pil_interp
from timm.data.transforms_factory import create_transform
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg
from torch import nn
from torchvision import transforms  # type: ignore[import-untyped]

from featurebank.extract.backbones import build, describe, hub_cache, resolve
from featurebank.extract.backbones.network import TimmNetwork
from featurebank.extract.backbones.timm_source import preprocessing_of
from featurebank.extract.errors import AssetError, WeightsError
from featurebank.extract.preprocessing import Preprocessing
from featurebank.store.errors import UnknownNameError

CONFIGS = {name: cfg for model in timm.list_models() for name, cfg in get_arch_pretrained_cfgs(model).items()}
TINY = "test_resnet.r160_in1k"


def as_timm_says(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What timm's own transform does, read off its parts."""
    config = resolve_data_config(pretrained_cfg=dict(cfg))  # type: ignore[no-untyped-call]
    made: Any = create_transform(**config, is_training=False)
    resize, crop, _, normalize = made.transforms
    side = resize.size
    if isinstance(resize, ResizeKeepRatio):
        assert resize.longest == 1.0
        mode = "longer"
    else:
        assert resize.max_size is None
        assert resize.antialias
        mode = "shorter" if isinstance(side, int) or len(side) == 1 else "exact"
    sides = tuple(side) if mode != "shorter" else (side if isinstance(side, int) else side[0],) * 2
    padding: Any = crop.fill if isinstance(crop, CenterCropOrPad) else (0, 0, 0)
    assert isinstance(crop, CenterCropOrPad | transforms.CenterCrop)
    return {
        "size": tuple(crop.size),
        "resize": (mode, *sides),
        "interpolation": pillow_code(resize.interpolation.value),
        "fill": tuple(padding),
        "mean": tuple(normalize.mean.tolist()),
        "std": tuple(normalize.std.tolist()),
    }


def pillow_code(interpolation: str) -> int:
    return int(str_to_pil_interp(interpolation))  # type: ignore[no-untyped-call]


def as_recorded(record: Preprocessing) -> dict[str, Any]:
    def as_float32(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(torch.tensor(values).tolist())

    return {
        "size": (record.height, record.width),
        "resize": (record.resize, record.resize_height, record.resize_width),
        "interpolation": pillow_code(record.interpolation),
        "fill": record.fill,
        "mean": as_float32(record.mean),
        "std": as_float32(record.std),
    }


def test_preprocessing_is_timms_own_for_every_configuration() -> None:
    assert len(CONFIGS) > 1500
    for name, cfg in CONFIGS.items():
        assert as_recorded(preprocessing_of(asdict(cfg))) == as_timm_says(asdict(cfg)), name


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.5, 0.875, 1.0, 1.15])
@pytest.mark.parametrize("side", [97, 224])
def test_preprocessing_in_modes_no_configuration_may_use(mode: str, crop_pct: float, side: int) -> None:
    cfg = {"input_size": (3, side, side), "crop_mode": mode, "crop_pct": crop_pct, "mean": (0.1, 0.5, 0.9)}
    assert as_recorded(preprocessing_of(cfg)) == as_timm_says(cfg)


@pytest.mark.parametrize(
    "cfg",
    [{"input_size": (1, 32, 32)}, {"input_size": (3, 64, 32)}, {"crop_mode": "corner"}],
)
def test_what_a_record_cannot_say_is_refused(cfg: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match="expected"):
        preprocessing_of({"architecture": "x", **cfg})


def test_resolving_builds_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1)}, tmp_path / "w.pth")

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("resolving built a network")

    monkeypatch.setattr(timm, "create_model", refuse)
    spec = resolve("timm:resnet18", checkpoint=tmp_path / "w.pth")
    assert spec == resolve("timm:resnet18", checkpoint=tmp_path / "w.pth")
    cfg = get_pretrained_cfg("resnet18")
    assert cfg is not None
    assert spec.architecture == f"resnet18.{cfg.tag}", "the tag timm chose is recorded"
    assert spec.weights.sha256 == hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    assert resolve("timm:resnet18.a1_in1k@random").preprocessing.resize_height == 235
    assert resolve("timm:vit_small_patch14_dinov2@random").outputs == ("pooled",), "no classifier, no logits"


@pytest.mark.parametrize("name", ["timm:resnet19", "timm:resnet18.a1_in2k", "timm:", "timm:Resnet18"])
def test_unknown_names_are_answered_with_near_ones(name: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown backbone '{name}'"):
        resolve(name)
    with pytest.raises(UnknownNameError, match=r"did you mean 'timm:resnet18'"):
        resolve("timm:resnet18_")


def test_describe() -> None:
    facts = describe(f"timm:{TINY}@random")
    assert facts["licence"] == "apache-2.0"
    assert facts["classes"] == 1000


def reference(name: str) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name).eval()


def both(name: str, outputs: list[str]) -> tuple[Any, torch.Tensor, dict[str, torch.Tensor]]:
    """timm's model, images, and what our network with the same weights gives for them."""
    network = build(resolve(f"timm:{name}@random:0", outputs=outputs))
    size = network.spec.preprocessing
    images = torch.randn(2, 3, size.height, size.width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return reference(name), images, network(images)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("test_vit", 1), ("deit_tiny_distilled_patch16_224", 2), ("vit_pwee_patch16_reg1_gap_256", 1)],
)
def test_outputs_of_vision_transformers(name: str, prefix: int) -> None:
    has_cls = name != "vit_pwee_patch16_reg1_gap_256"
    outputs = ["pooled", "logits", "patch_mean", "tokens", "blocks.0.patch_mean", "blocks.3.tokens"]
    model, images, found = both(name, [*outputs, "cls", "blocks.3.cls"] if has_cls else outputs)
    seen: dict[int, torch.Tensor] = {}
    for index in (0, 3):
        model.blocks[index].register_forward_hook(lambda _, __, out, i=index: seen.update({i: out}))
    with torch.no_grad():
        features = model.forward_features(images)
        expected = {
            "pooled": model.forward_head(features, pre_logits=True),
            "logits": model(images),
            "patch_mean": features[:, prefix:].mean(1),
            "tokens": features[:, prefix:],
            "blocks.0.patch_mean": seen[0][:, prefix:].mean(1),
            "blocks.3.tokens": seen[3][:, prefix:],
        }
        if has_cls:
            expected |= {"cls": features[:, 0], "blocks.3.cls": seen[3][:, 0]}
    assert found.keys() == expected.keys()
    for output, value in expected.items():
        torch.testing.assert_close(found[output], value, rtol=1e-4, atol=1e-5, msg=output)


def test_a_vision_transformer_without_class_token_has_no_cls() -> None:
    with pytest.raises(UnknownNameError, match="unknown output 'cls'"):
        build(resolve("timm:vit_pwee_patch16_reg1_gap_256@random", outputs=["cls"]))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "mambaout_femto"])
def test_outputs_of_feature_maps(name: str) -> None:
    outputs = ["pooled", "logits", "features", "patch_mean", "tokens", "stages.1.mean", "stages.2.features"]
    model, images, found = both(name, outputs)
    with torch.no_grad():
        features = model.forward_features(images)
        levels = timm.create_model(name, features_only=True, out_indices=(1, 2)).eval()
        levels.load_state_dict(_feature_state(levels, model))
        one, two = levels(images)
        if name.startswith("mambaout"):
            features, one, two = (x.permute(0, 3, 1, 2) for x in (features, one, two))
        pooled = model.forward_head(model.forward_features(images), pre_logits=True)
        logits = model(images)
    b, c = features.shape[:2]
    expected = {
        "pooled": pooled,
        "logits": logits,
        "features": features,
        "patch_mean": features.mean((2, 3)),
        "tokens": torch.stack(
            [features[:, :, y, x] for y in range(features.shape[2]) for x in range(features.shape[3])], 1
        ),
        "stages.1.mean": one.mean((2, 3)),
        "stages.2.features": two,
    }
    assert found["tokens"].shape == (b, features.shape[2] * features.shape[3], c)
    for output, value in expected.items():
        torch.testing.assert_close(found[output], value, rtol=1e-4, atol=1e-5, msg=output)


def _feature_state(levels: nn.Module, model: nn.Module) -> dict[str, torch.Tensor]:
    """timm's feature extractors hold the same tensors, with dots in some module names made underscores."""
    flat = {re.sub(r"[._]", "", key): value for key, value in model.state_dict().items()}
    return {key: flat[re.sub(r"[._]", "", key)] for key in levels.state_dict()}


ODD = ["mixer_s32_224", "levit_128s", "pit_ti_224", "hiera_tiny_224", "crossvit_tiny_240", "mobilenetv3_small_050"]
ODD_AND_SLOW = ["cait_xxs24_224", "xcit_nano_12_p16_224", "volo_d1_224", "coat_tiny", "twins_pcpvt_small", "dla34"]


@pytest.mark.parametrize("name", [*ODD, *(pytest.param(name, marks=pytest.mark.slow) for name in ODD_AND_SLOW)])
def test_every_offered_output_of_odd_architectures_is_finite_and_alike(name: str) -> None:
    """All offered at once; pooled and logits then still are what timm gives."""
    offered = build(resolve(f"timm:{name}@random:0", outputs=["pooled"])).available()  # type: ignore[attr-defined]
    chosen = [output for output in offered if not re.search(r"\.(2|[4-9]|\d\d)\.", output)]
    model, images, found = both(name, chosen)
    with torch.no_grad():
        torch.testing.assert_close(found["logits"], model(images), rtol=1e-3, atol=1e-4)
        features = model.forward_features(images)
        torch.testing.assert_close(found["pooled"], model.forward_head(features, pre_logits=True), rtol=1e-3, atol=1e-4)
    for output, value in found.items():
        assert value.shape[0] == 2, output
        assert value.numel(), output
        assert torch.isfinite(value).all(), output


@pytest.mark.parametrize(("name", "linear"), [("test_vit", True), ("test_resnet", True), ("levit_128s", False)])
def test_head_only_where_it_gives_the_logits(name: str, linear: bool) -> None:
    network = build(resolve(f"timm:{name}@random:0"))
    head = network.head()
    assert (head is not None) == linear
    if head is not None:
        size = network.spec.preprocessing
        with torch.no_grad():
            found = network(torch.randn(2, 3, size.height, size.width))
        torch.testing.assert_close(found["pooled"] @ head.weight.T + head.bias, found["logits"], rtol=1e-4, atol=1e-5)


def test_all_outputs_come_from_one_pass() -> None:
    outputs = ["pooled", "logits", "cls", "tokens", "blocks.0.cls", "blocks.2.patch_mean", "blocks.5.tokens"]
    network = build(resolve("timm:test_vit@random", outputs=outputs))
    assert isinstance(network, TimmNetwork)
    calls = [0] * 6
    blocks: Any = network.backbone.blocks
    for index, block in enumerate(blocks):
        block.register_forward_hook(lambda *_, i=index: calls.__setitem__(i, calls[i] + 1))
    network(torch.zeros(1, 3, 160, 160))
    assert calls == [1] * 6


def test_half_precision_and_one_graph() -> None:
    network = build(resolve("timm:test_vit@random", outputs=["pooled", "logits", "blocks.2.cls"]))
    assert isinstance(network, nn.Module)
    network.to(torch.bfloat16)
    images = torch.randn(2, 3, 160, 160, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        compiled = torch.compile(network, backend="eager", fullgraph=True)(images)
    assert [value.dtype for value in compiled.values()] == [torch.bfloat16] * 3
    head = network.head()
    assert head is not None
    assert head.weight.dtype == torch.float32, "the head stays as it was loaded"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_local_checkpoint(tmp_path: Path, suffix: str) -> None:
    model = reference(TINY)
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, path)
    else:
        save_file(model.state_dict(), path)
    images = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        found = build(resolve(f"timm:{TINY}", checkpoint=path))(images)
        torch.testing.assert_close(found["logits"], model(images))


def test_a_checkpoint_in_its_authors_layout_goes_through_timms_converter(tmp_path: Path) -> None:
    model = reference("test_convnext")
    renames = [
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
        (r"\.conv_dw\.", ".dwconv."),
        (r"\.mlp\.fc1\.", ".pwconv1."),
        (r"\.mlp\.fc2\.", ".pwconv2."),
        (r"^head\.norm\.", "norm."),
        (r"^head\.fc\.", "head."),
    ]
    original = {}
    for name, value in model.state_dict().items():
        new = name
        for pattern, replacement in renames:
            new = re.sub(pattern, replacement, new)
        original[new] = value
    assert original.keys() != model.state_dict().keys()
    torch.save({"model": original}, tmp_path / "w.pth")
    images = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        found = build(resolve("timm:test_convnext", checkpoint=tmp_path / "w.pth"))(images)
        torch.testing.assert_close(found["logits"], model(images))


@pytest.mark.parametrize("other", ["test_efficientnet", "test_vit2", "vit_small_patch16_224"])
def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path, other: str) -> None:
    torch.save(reference(other).state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"not of this architecture|found neither"):
        build(resolve("timm:test_vit", checkpoint=tmp_path / "w.pth"))


def test_a_position_embedding_of_another_size_is_never_resampled_in_silence(tmp_path: Path) -> None:
    state = copy.deepcopy(reference("test_vit").state_dict())
    state["pos_embed"] = state["pos_embed"][:, :82]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"pos_embed: expected \(1, 101, 64\), found \(1, 82, 64\)"):
        build(resolve("timm:test_vit", checkpoint=tmp_path / "w.pth"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty local cache of the hub, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(hub_cache, "unreachable", lambda *_, **__: "")
    monkeypatch.delenv("FEATUREBANK_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path / "hub"


def put_in_cache(hub: Path, file: str, *, by_digest: bool = True) -> tuple[str, nn.Module]:
    """A checkpoint as the hub's client lays it down: blobs under their digests, snapshots of links."""
    model = reference(TINY)
    repository = hub / f"models--timm--{TINY}"
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "snapshots/abc").mkdir(parents=True)
    (repository / "refs/main").write_text("abc")
    raw = repository / "raw"
    if file.endswith(".safetensors"):
        save_file(model.state_dict(), raw)
    else:
        torch.save(model.state_dict(), raw)
    digest = hashlib.sha256(raw.read_bytes()).hexdigest()
    blob = repository / "blobs" / (digest if by_digest else "f" * 40)
    raw.rename(blob)
    (repository / "snapshots/abc" / file).symlink_to(os.path.relpath(blob, repository / "snapshots/abc"))
    return digest, model


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("by_digest", [True, False])
def test_weights_from_the_hubs_cache(hub: Path, file: str, by_digest: bool) -> None:
    digest, model = put_in_cache(hub, file, by_digest=by_digest)
    spec = resolve(f"timm:{TINY}")
    assert spec.weights.sha256 == digest
    images = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(build(spec)(images)["logits"], model(images))


def test_a_damaged_blob_is_found_when_it_is_loaded(hub: Path) -> None:
    put_in_cache(hub, "model.safetensors")
    spec = resolve(f"timm:{TINY}")
    assert spec.weights.path is not None
    data = bytearray(spec.weights.path.read_bytes())
    data[-1] ^= 1
    spec.weights.path.resolve().write_bytes(data)
    with pytest.raises(AssetError, match="expected SHA-256"):
        build(spec)


def test_weights_are_downloaded_where_the_cache_has_none(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repository: str, file: str, *, revision: str | None) -> str:
        asked.append((repository, file, revision))
        if file == "model.safetensors":
            raise EntryNotFoundError("no such file")
        put_in_cache(hub, file)
        return str(hub / f"models--timm--{TINY}/snapshots/abc/{file}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    spec = resolve(f"timm:{TINY}")
    repository = f"timm/{TINY}"
    assert asked == [(repository, "model.safetensors", None), (repository, "pytorch_model.bin", None)]
    assert isinstance(build(spec), nn.Module)


@pytest.mark.usefixtures("hub")
def test_an_unreachable_hub_and_offline_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssetError, match=r"cannot download model\.safetensors of timm/.*no network in tests.*@random"):
        resolve(f"timm:{TINY}")
    monkeypatch.setenv("FEATUREBANK_OFFLINE", "1")
    with pytest.raises(AssetError, match=r"expected timm/.* in the hub's local cache, found nothing, and offline"):
        resolve(f"timm:{TINY}")


@pytest.mark.parametrize(
    ("ask", "found"),
    [
        (lambda: resolve(f"timm:{TINY}"), "no network: .*Connection refused"),
        (lambda: hub_cache.snapshot("x", "timm/none", ["*.json"]), "offline"),
    ],
)
def test_d9_without_a_network_the_hub_is_not_asked(
    hub: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[[], object], found: str
) -> None:
    """Its client tries five times for each file, for most of a minute."""
    monkeypatch.undo()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    for variable in ("FEATUREBANK_OFFLINE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    asked: list[object] = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: asked.append(1))
    with pytest.raises(AssetError, match=found):
        ask()
    assert asked == []


@pytest.mark.usefixtures("hub")
def test_models_without_published_weights() -> None:
    name = next(n for n, c in CONFIGS.items() if not (c.url or c.hf_hub_id or c.file))
    with pytest.raises(AssetError, match="timm publishes none for it"):
        resolve(f"timm:{name}")
    assert resolve(f"timm:{name}@random").weights.sha256 == "random:0"


def test_another_seed_is_another_spec_and_another_network() -> None:
    one, two = (resolve(f"timm:{TINY}@random:{seed}") for seed in (1, 2))
    assert replace(one, name=two.name, weights=two.weights) == two
    images = torch.randn(1, 3, 160, 160)
    assert not torch.equal(build(one)(images)["pooled"], build(two)(images)["pooled"])
