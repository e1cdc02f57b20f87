"""A lower precision: measured against float32 on images of the run, whatever library the network comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision  # type: ignore[import-untyped]
from runs import RESNET, VIT, make_images, open_folder, run, wanted_sets
from torch import nn

from featurebank.extract import backbones, compute
from featurebank.extract.agreement import agreement, lower, sample
from featurebank.extract.assets import cached
from featurebank.extract.backbones import adapters
from featurebank.extract.backbones.checkpoint import state_dict_of
from featurebank.extract.backbones.contract import BackboneSpec, Weights
from featurebank.extract.backbones.packaged import ENTRIES
from featurebank.extract.datasets.contract import Split
from featurebank.extract.device import Execution
from featurebank.extract.engine import extract
from featurebank.extract.forward import PixelsToFeatures
from featurebank.extract.wanted import Outcome, Request, want
from featurebank.store import FeatureSet, FeatureStore

EXECUTION = Execution(device="cpu", compile="never", batch_size=8)

State = Mapping[str, torch.Tensor]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return open_folder(make_images(tmp_path_factory.mktemp("images"), 12))


def packaged_state(name: str, convert: Callable[[State, nn.Module], State], model: nn.Module) -> State:
    entry = ENTRIES[name]
    path = cached(entry.asset)
    if path is None:
        pytest.skip(f"{entry.asset.package} is not in the asset cache")
    return convert(state_dict_of(Weights(sha256=entry.asset.sha256, path=path)), model)


def lite0_of_timm(folder: Path) -> BackboneSpec:
    model = timm.create_model("tf_efficientnet_lite0")
    torch.save(packaged_state("efficientnet_lite0", adapters.efficientnet_lite, model), folder / "lite0.pth")
    return backbones.resolve("timm:tf_efficientnet_lite0.in1k", checkpoint=folder / "lite0.pth")


def mobilenet_of_torchvision(folder: Path) -> BackboneSpec:
    model = torchvision.models.mobilenet_v2(weights=None)
    head = {name: value for name, value in model.state_dict().items() if name.startswith("classifier")}
    model.classifier = nn.Identity()
    state = packaged_state("mobilenetv2", adapters.by_order, model)
    torch.save({**state, **head}, folder / "mobilenet.pth")
    return backbones.resolve("torchvision:mobilenet_v2/IMAGENET1K_V1", checkpoint=folder / "mobilenet.pth")


def made(store: Path, split: Split, spec: BackboneSpec, precision: Any) -> tuple[Outcome, dict[str, torch.Tensor]]:
    sets = want([Request(backbone=spec, split=0)], [split], FeatureStore(store), precision=precision)
    (outcome,) = extract(sets, [split], execution=EXECUTION)
    assert outcome.state == "sealed", outcome.error
    with FeatureSet(outcome.path) as features:
        return outcome, {name: torch.from_numpy(features.load(name)) for name in features.outputs}


@pytest.mark.parametrize("network", [lite0_of_timm, mobilenet_of_torchvision])
def test_f1_bfloat16_of_every_source_agrees_with_float32(
    network: Callable[[Path], BackboneSpec], split: Split, tmp_path: Path
) -> None:
    """As it was, the smallest cosines were .993 and below .99; the packaged forms of both have .9993."""
    spec = network(tmp_path)
    _, exact = made(tmp_path / "store", split, spec, "float32")
    outcome, rounded = made(tmp_path / "store", split, spec, "bfloat16")
    assert set(exact) == set(spec.outputs)
    assert agreement(exact, rounded) >= 0.999
    with FeatureSet(outcome.path) as features:
        told = features.provenance["execution"]
    assert told["float32"] == "beginning"
    assert told["agreement"]["nothing"] < 0.999 <= told["agreement"]["beginning"]
    assert outcome.execution == "eager, batch 8, float32 beginning"


def test_f1_what_no_beginning_mends_runs_in_float32(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PixelsToFeatures.forward

    def rounding(self: PixelsToFeatures, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = real(self, pixels)
        low = any(p.dtype == torch.bfloat16 for p in self.network.parameters())
        return {name: value + 9 * (value - value.roll(1, -1)) if low else value for name, value in outputs.items()}

    monkeypatch.setattr(PixelsToFeatures, "forward", rounding)
    spec = backbones.resolve(RESNET)
    _, exact = made(tmp_path / "store", split, spec, "float32")
    outcome, rounded = made(tmp_path / "store", split, spec, "bfloat16")
    assert agreement(exact, rounded) == 1.0
    assert outcome.execution == "eager, batch 8, float32"
    with FeatureSet(outcome.path) as features:
        assert features.provenance["execution"]["float32"] == "everything"


def test_f1_float16_that_overflows_runs_in_what_does_not(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    real = backbones.build

    def huge(spec: BackboneSpec) -> Any:
        network: Any = real(spec)
        first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
        first.weight.data *= 1e6
        return network

    monkeypatch.setattr(backbones, "build", huge)
    spec = backbones.resolve(RESNET)
    recipe = compute.Recipe(spec=spec, precision="float16", dtype="float32", batch_size=8, compiled=False)
    facts = compute.Local("cpu", EXECUTION).facts(recipe, sample(split, spec.preprocessing))
    assert facts.execution["agreement"]["nothing"] == 0.0
    assert facts.execution["float32"] != "nothing"


def test_f1_one_decision_for_all_splits_and_all_runs(split: Split, tmp_path: Path) -> None:
    """What was decided for one set, another one of the run and a resumed run take over; nobody measures twice."""
    asked: list[Any] = []

    class Counting(compute.Local):
        def facts(self, recipe: compute.Recipe, images: Any = None) -> compute.Facts:
            asked.append((recipe.kept, images is not None))
            return super().facts(recipe, images)

    more = open_folder(make_images(tmp_path / "more", 9, seed=1), label="more")
    spec = backbones.resolve(VIT)
    requests = [Request(backbone=spec, split=index) for index in (0, 1)]
    sets = want(requests, [split, more], FeatureStore(tmp_path / "store"), precision="bfloat16")
    extract(sets, [split, more], execution=EXECUTION, compute=Counting("cpu", EXECUTION))
    told = [FeatureSet(w.outcome.path).provenance["execution"] for w in sets]
    assert told[0] == told[1]
    assert asked == [(None, True), (told[0]["float32"], False)]


def test_f1_the_sample_comes_from_all_over_the_split_and_passes_over_what_is_broken(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images", 12)
    spec = backbones.resolve(RESNET)
    whole = sample(open_folder(folder), spec.preprocessing)
    assert whole.shape == (8, spec.preprocessing.height, spec.preprocessing.width, 3)
    assert len(np.unique(whole.reshape(8, -1), axis=0)) == 8
    for path in sorted(folder.rglob("*.png"))[:10]:
        path.write_bytes(b"")
    assert len(sample(open_folder(folder), spec.preprocessing)) == 2


def test_f1_a_guarded_key_is_no_plain_one_and_packaged_keys_stay(split: Split, tmp_path: Path) -> None:
    def key(name: str, precision: Any) -> Mapping[str, Any]:
        return wanted_sets(tmp_path, split, [name], precision=precision)[0].key

    assert key(RESNET, "bfloat16")["agreement"] == 0.999
    assert "agreement" not in key(RESNET, "float32")
    assert "agreement" not in key("mobilenetv2@random", "bfloat16")


@pytest.mark.parametrize("name", [VIT, RESNET])
def test_f1_a_float32_beginning_is_the_first_quarter_and_the_batch_norms(name: str) -> None:
    spec = backbones.resolve(name)
    network: Any = backbones.build(spec)
    exact = network(torch.ones(2, 3, 160, 160))
    lower(network, torch.bfloat16, "beginning", torch.zeros(1, 3, 160, 160))
    kinds = {name: parameter.dtype for name, parameter in network.named_parameters()}
    norms = {n for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert all(kinds[f"{n}.weight"] == torch.float32 for n in norms)
    layers = [dtype for n, dtype in kinds.items() if n.rpartition(".")[0] not in norms and n.endswith(".weight")]
    assert layers == sorted(layers, key=lambda dtype: dtype == torch.bfloat16)
    assert 0 < layers.count(torch.float32) < len(layers) / 2
    assert agreement(exact, network(torch.ones(2, 3, 160, 160))) > 0.999


def test_f1_resuming_takes_the_decision_from_the_partial(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("featurebank.extract.sink.Assembler.add", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, split, [VIT], precision="bfloat16")
    monkeypatch.setattr("featurebank.extract.engine.sample", lambda *_: pytest.fail("measured again"))
    assert run(tmp_path, split, [VIT], precision="bfloat16")[0].state == "sealed"
