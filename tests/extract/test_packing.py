"""Networks laid out for oneDNN: the eager features, nothing taken in that something else needs, and a way back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import RESNET, VIT, make_images, open_folder, run, wanted_sets
from timm.layers import BatchNormAct2d, Conv2dSame  # type: ignore[attr-defined]
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from featurebank.extract import backbones, datasets, engine, forward
from featurebank.extract.datasets.contract import DatasetSpec
from featurebank.extract.device import Execution
from featurebank.extract.engine import extract
from featurebank.extract.forward import PixelsToFeatures, Runner
from featurebank.extract.packing import packed, unpacked
from featurebank.extract.progress import Snapshot
from featurebank.extract.wanted import Request, want
from featurebank.store import FeatureSet, FeatureSetWriter, FeatureStore

AUTO = Execution(device="cpu", batch_size=8, workers=2)


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def normed(module: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """With statistics as if it had been trained."""
    generator = torch.Generator().manual_seed(1)
    for value in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
        assert value is not None
        value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return module


class Kept(nn.Module):
    """What is between a convolution and its activation is used once more."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3), activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        total: torch.Tensor = self.act(y) + y
        return total


class Both(nn.Module):
    """It is an output itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3), nn.ReLU()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.conv(x)
        return {"before": y, "after": self.act(y)}


def shared() -> nn.Module:
    act = nn.ReLU()
    return nn.Sequential(nn.Conv2d(3, 4, 3), act, nn.Conv2d(4, 4, 3), nn.Tanh(), act)


def watched() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), normed(nn.BatchNorm2d(4)), nn.ReLU())
    network[1].register_forward_hook(lambda *given: given[-1] * 2)
    return network


CASES: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "norm and activation": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, 1, bias=False), normed(nn.BatchNorm2d(4)), nn.Identity(), nn.ReLU(inplace=True)
        ),
        {"native_batch_norm", "relu_"},
    ),
    "timm's norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), normed(BatchNormAct2d(4, act_layer=nn.Hardswish))),
        {"native_batch_norm", "hardswish_"},
    ),
    "timm's norm, activation unknown": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), normed(BatchNormAct2d(4, act_layer=nn.Softplus))),
        {"native_batch_norm"},
    ),
    "odd padding": (lambda: nn.Sequential(Conv2dSame(3, 3, (3, 5), 2, groups=3), nn.ReLU6()), {"constant_pad_nd"}),
    "even padding": (lambda: nn.Sequential(Conv2dSame(3, 4, 3, 1), nn.SiLU()), {"silu"}),
    "used again": (lambda: Kept(nn.ReLU()), set()),
    "used again, in place": (lambda: Kept(nn.ReLU(inplace=True)), {"relu_"}),
    "an output": (Both, set()),
    "called twice": (shared, set()),
    "watched": (watched, set()),
    "reflected": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), set()),
}


@pytest.mark.parametrize("case", CASES)
def test_a_packed_layer_gives_what_it_gave(case: str) -> None:
    build, gone = CASES[case]
    torch.manual_seed(0)
    network = build().eval().to(memory_format=torch.channels_last)
    x = torch.randn(5, 3, 12, 11).to(memory_format=torch.channels_last)

    def answered() -> tuple[list[torch.Tensor], Counter[str]]:
        with torch.no_grad(), Operators() as operators:
            answer = network(x)
        return [*answer.values()] if isinstance(answer, dict) else [answer], operators.names

    expected, before = answered()
    count = packed(network, x[:1], 5)
    values, after = answered()
    for value, eager in zip(values, expected, strict=True):
        torch.testing.assert_close(value, eager, rtol=1e-4, atol=1e-5)
    assert not gone & after.keys()
    assert gone <= before.keys()
    assert count == after["_convolution_pointwise"]
    assert count or case == "reflected"
    unpacked(network)
    again, names = answered()
    assert all(map(torch.equal, again, expected))
    assert names == before


def test_a_linear_layer_in_bfloat16_takes_its_activation() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 8)).bfloat16().eval()
    x = torch.randn(3, 5, 32).bfloat16()
    with torch.inference_mode():
        expected = network(x)
        assert packed(network, x[:1], 3) == 2
        with Operators() as operators:
            value = network(x)
    assert operators.names["_linear_pointwise"] == 2
    assert "gelu" not in operators.names
    torch.testing.assert_close(value, expected, rtol=0.02, atol=0.02)


def runner(*, packed: bool) -> Runner:
    spec = backbones.resolve(RESNET, outputs=["pooled"])
    module = PixelsToFeatures(backbones.build(spec), spec, "float32", "float32")
    return Runner(module, device="cpu", batch_size=8, compiled=False, packed=packed)


def test_a_row_does_not_depend_on_the_size_of_its_batch() -> None:
    made = runner(packed=True)
    assert made.packed
    pixels = torch.randint(0, 256, (8, 160, 160, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made(pixels)["pooled"][:3], made(pixels[:3])["pooled"])


@pytest.mark.parametrize("fault", ["differs", "raises"])
def test_what_is_packed_wrongly_runs_eagerly(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrongly(module: nn.Module, pixels: torch.Tensor, batch: int) -> int:
        count = packed(module, pixels, batch)
        if fault == "raises":
            raise RuntimeError("no such layout")
        with torch.no_grad():
            first: Any = next(part for part in module.modules() if isinstance(part, nn.Conv2d))
            kept = first.forward
            first.forward = type(kept)(lambda x: -kept(x))
        return count

    eager = runner(packed=False)
    monkeypatch.setattr(forward, "pack", wrongly)
    made = runner(packed=True)
    assert not made.packed
    assert ("no such layout" if fault == "raises" else "packed features differ from eager ones") in made.note
    pixels = torch.randint(0, 256, (2, 160, 160, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made(pixels)["pooled"], eager(pixels)["pooled"])


def test_a_run_packs_from_some_images_on_and_keeps_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = open_folder(make_images(tmp_path / "images", 21))
    eager = run(tmp_path / "eager", split, [RESNET, VIT], execution=AUTO)
    assert {outcome.execution for outcome in eager} == {"eager, batch 8"}
    monkeypatch.setattr(engine, "PACK_FROM_ROWS", 21)
    made = run(tmp_path / "packed", split, [RESNET, VIT], execution=AUTO)
    assert {outcome.execution for outcome in made} == {"packed, batch 8"}
    for one, other in zip(eager, made, strict=True):
        with FeatureSet(one.path) as a, FeatureSet(other.path) as b:
            np.testing.assert_allclose(b.load("pooled"), a.load("pooled"), rtol=0.01, atol=0.01)
            assert a.provenance["execution"] == {"compiled": False, "batch_size": 8}
            assert b.provenance["execution"] == {"compiled": False, "batch_size": 8, "packed": True}
    for mode, how in (("never", "eager"), ("auto", "packed")):
        sets = wanted_sets(tmp_path / f"begun {how}", split, [RESNET])
        with monkeypatch.context() as patch:
            patch.setattr(FeatureSetWriter, "seal", _interrupted)
            with pytest.raises(KeyboardInterrupt):
                extract(sets, [split], execution=Execution(device="cpu", compile=mode, batch_size=8))  # type: ignore[arg-type]
        partial = next((tmp_path / f"begun {how}").rglob("*.partial"))
        with FeatureSetWriter.resume(partial.with_name(partial.name.removesuffix(".partial"))) as writer:
            assert writer.manifest["provenance"]["execution"].get("packed", False) == (how == "packed")


def _interrupted(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def test_a_network_is_said_to_be_built_once_however_many_splits_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PACK_FROM_ROWS", 1)
    monkeypatch.setattr(forward, "pack", lambda *_: 0)  # what was asked for is not what came of it
    for seed, name in enumerate(("train", "test")):
        make_images(tmp_path / "pets" / name, 9, seed=seed)
    spec = backbones.resolve(RESNET, outputs=["pooled"])
    splits = [datasets.open_split(DatasetSpec(name=f"folder:{tmp_path / 'pets'}", split=s)) for s in ("train", "test")]
    requests = [Request(backbone=spec, split=index) for index in range(2)]
    seen: list[Snapshot] = []
    wanted = want(requests, splits, FeatureStore(tmp_path / "store"), precision="bfloat16")
    outcomes = extract(wanted, splits, execution=AUTO, observer=seen.append)
    assert [outcome.state for outcome in outcomes] == ["sealed", "sealed"]
    notes = [snapshot.note for snapshot in seen if snapshot.note]
    assert notes == [f"building and packing, bfloat16 against float32: {RESNET}"]
