"""Networks pruned by ``torch.nn.utils.prune`` load as the sparse networks they are, and their sparsity is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from runs import make_images, open_folder
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from featurebank.extract.backbones import build, resolve
from featurebank.extract.backbones.checkpoint import decode
from featurebank.extract.device import Execution
from featurebank.extract.engine import extract
from featurebank.extract.errors import WeightsError
from featurebank.extract.wanted import Request, want
from featurebank.store import FeatureStore

NET = "test_resnet"


def pruned(kind: str) -> nn.Module:
    """A network whose convolutions have lost 30 % of their weights, one by one or whole channels."""
    torch.manual_seed(0)
    model = timm.create_model(NET).eval()
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            if kind == "unstructured":
                prune.l1_unstructured(part, "weight", amount=0.3)  # type: ignore[no-untyped-call]
            else:
                prune.ln_structured(part, "weight", amount=0.3, n=2, dim=0)  # type: ignore[no-untyped-call]
    return model


@pytest.mark.parametrize("kind", ["unstructured", "structured"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_masks_are_applied_and_the_sparsity_is_known(kind: str, suffix: str, tmp_path: Path) -> None:
    model = pruned(kind)
    assert any(name.endswith("weight_mask") for name in model.state_dict())
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": model.state_dict()}, path)
    else:
        save_file(model.state_dict(), path)
    network: Any = build(resolve(f"timm:{NET}", checkpoint=path))
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(network(images)["logits"], model(images))
    weights = [part.weight for part in model.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    assert network.sparsity() == pytest.approx(zeros / sum(weight.numel() for weight in weights))
    assert 0.2 < network.sparsity() < 0.3, "all but the classifier"


def test_a_dense_network_has_none() -> None:
    network: Any = build(resolve(f"timm:{NET}@random"))
    assert network.sparsity() == 0.0


def test_a_mask_without_its_weight_is_an_error(tmp_path: Path) -> None:
    state = pruned("unstructured").state_dict()
    name = next(name for name in state if name.endswith("weight_orig"))
    del state[name]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"expected .*, found nothing"):
        build(resolve(f"timm:{NET}", checkpoint=tmp_path / "w.pth"))


def test_names_that_only_look_like_masks_stay(tmp_path: Path) -> None:
    torch.save({"a_orig": torch.ones(2), "b_mask": torch.ones(2)}, tmp_path / "w.pth")
    assert set(decode((tmp_path / "w.pth").read_bytes(), tmp_path / "w.pth")) == {"a_orig", "b_mask"}


def test_the_sparsity_is_in_the_manifest_of_the_set(tmp_path: Path) -> None:
    torch.save(pruned("unstructured").state_dict(), tmp_path / "w.pth")
    spec = resolve(f"timm:{NET}", checkpoint=tmp_path / "w.pth", outputs=["pooled"])
    store, split = FeatureStore(tmp_path / "features"), open_folder(make_images(tmp_path / "pictures", 6))
    wanted = want([Request(backbone=spec, split=0)], [split], store, precision="float32")
    (outcome,) = extract(wanted, [split], execution=Execution(device="cpu", compile="never"))
    assert outcome.state == "sealed"
    with store.open("pictures/all", spec.name) as found:
        assert found.manifest["provenance"]["execution"]["sparsity"] == pytest.approx(0.238, abs=1e-3)
