"""Memory of a device that runs out: the batch is halved wherever that happens, and nothing keeps what filled it."""

from __future__ import annotations

import gc
import sys
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from runs import VIT
from tiny_network import TinyNetwork

from featurebank.extract import backbones, compute
from featurebank.extract.device import Execution
from featurebank.extract.forward import PixelsToFeatures, Runner


def tiny() -> PixelsToFeatures:
    spec = backbones.resolve(VIT)
    return PixelsToFeatures(TinyNetwork(spec), spec, "float32", "float32")


def test_gpu3_a_compiled_network_halves_its_batch_already_when_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    real = PixelsToFeatures.forward

    def forward(self: PixelsToFeatures, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, pixels)

    monkeypatch.setattr(PixelsToFeatures, "forward", forward)
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    compiler = SimpleNamespace(shutdown_compile_workers=lambda: None)
    monkeypatch.setitem(sys.modules, "torch._inductor.async_compile", compiler)
    runner = Runner(tiny(), device="cpu", batch_size=8, compiled=True)
    assert (runner.compiled, runner.batch_size) == (True, 2)
    assert len(runner(torch.zeros((5, 160, 160, 3), dtype=torch.uint8))["pooled"]) == 5


def test_gpu3_the_cache_is_emptied_when_the_activations_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[bool] = []
    held: list[weakref.ref[torch.Tensor]] = []

    def forward(_: PixelsToFeatures, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        activations = torch.zeros(len(pixels), 3)
        held.append(weakref.ref(activations))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"pooled": activations}

    monkeypatch.setattr(PixelsToFeatures, "forward", forward)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(held[-1]() is not None))
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_, **__: tensor)
    runner = Runner(tiny(), device="cpu", batch_size=8, compiled=False)
    runner.device = torch.device("cuda")
    assert len(runner(torch.zeros((8, 4, 4, 3), dtype=torch.uint8))["pooled"]) == 8
    assert alive == [False, False]


def test_gpu3_a_network_that_could_not_be_built_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Any]] = []

    def build(spec: Any) -> TinyNetwork:
        network = TinyNetwork(spec)
        made.append(weakref.ref(network))
        return network

    def refuse(*_: Any, **__: Any) -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise torch.OutOfMemoryError("CUDA out of memory") from error

    monkeypatch.setattr(backbones, "build", build)
    monkeypatch.setattr(Runner, "__init__", refuse)
    local = compute.Local("cpu", Execution(device="cpu"))
    recipe = compute.Recipe(
        spec=backbones.resolve(VIT), precision="float32", dtype="float16", batch_size=8, compiled=False
    )
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            local.facts(recipe, np.zeros((0, 160, 160, 3), np.uint8))
    gc.collect()
    assert [ref() for ref in made] == [None]
