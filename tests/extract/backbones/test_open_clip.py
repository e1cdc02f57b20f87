"""open_clip's towers: features on both sides of the projection, texts, checkpoints from the hub's cache and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip  # type: ignore[import-untyped]
import pytest
import torch
from tiny_clip import CONFIGS, saved, tiny_zoo
from zoo_networks import put_in_hub

from featurebank.extract.backbones import build, describe, logit_scale, names, resolve, text_features
from featurebank.extract.errors import AssetError, WeightsError
from featurebank.store.errors import UnknownNameError

TEXTS = ["a photo of a cat.", "a photo of a dog."]


@pytest.fixture(autouse=True)
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the hub's cache, which is empty."""
    return tiny_zoo(tmp_path, monkeypatch)


def images_for(name: str) -> torch.Tensor:
    side = CONFIGS[name]["vision_cfg"]["image_size"]
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_weights_from_the_hubs_cache_give_open_clips_features(name: str, file: str, zoo: Path, tmp_path: Path) -> None:
    model = saved(name, tmp_path / file)
    put_in_hub(zoo, f"featurebank/{name}", {file: tmp_path / file})
    spec = resolve(f"open_clip:{name}/tiny")
    network: Any = build(spec)
    with torch.no_grad():
        found = network(images_for(name))
        expected = model.encode_image(images_for(name), normalize=False)
        again = network.projection(found["pooled"])
    torch.testing.assert_close(found["embedding"], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(again, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        text_features(spec, TEXTS, batch_size=1),
        model.encode_text(open_clip.tokenize(TEXTS), normalize=False).detach().numpy(),
        rtol=1e-4,
        atol=1e-6,
    )
    assert logit_scale(spec) == pytest.approx(float(model.logit_scale.detach().exp()), rel=1e-6)


def test_pooled_is_what_enters_the_projection(tmp_path: Path) -> None:
    model = saved("fb-vit", tmp_path / "w.bin")
    network: Any = build(resolve("open_clip:fb-vit/tiny", checkpoint=tmp_path / "w.bin"))
    normed: list[torch.Tensor] = []
    model.visual.ln_post.register_forward_hook(lambda _, __, output: normed.append(output))
    with torch.no_grad():
        model.visual(images_for("fb-vit"))
        found = network(images_for("fb-vit"))["pooled"]
    torch.testing.assert_close(found, normed[0][:, 0])
    model = saved("fb-timm", tmp_path / "t.bin")
    network = build(resolve("open_clip:fb-timm/tiny", checkpoint=tmp_path / "t.bin"))
    with torch.no_grad():
        torch.testing.assert_close(network(images_for("fb-timm"))["pooled"], model.visual.trunk(images_for("fb-timm")))


def test_a_position_embedding_of_another_size_is_never_resampled(tmp_path: Path) -> None:
    saved("fb-vit", tmp_path / "w.bin", **{"visual.positional_embedding": torch.zeros(26, 32)})
    with pytest.raises(WeightsError, match=r"positional_embedding: expected \(17, 32\), found \(26, 32\)"):
        build(resolve("open_clip:fb-vit/tiny", checkpoint=tmp_path / "w.bin"))


def test_a_tensor_too_many_is_refused(tmp_path: Path) -> None:
    saved("fb-vit", tmp_path / "w.bin", **{"visual.extra": torch.zeros(2)})
    with pytest.raises(WeightsError, match=r"visual\.extra: expected nothing"):
        build(resolve("open_clip:fb-vit/tiny", checkpoint=tmp_path / "w.bin"))


def test_openai_weights_get_the_activation_they_were_trained_with() -> None:
    quick, plain = (resolve(f"open_clip:ViT-B-32/{tag}@random") for tag in ("openai", "laion2b_s34b_b79k"))
    with torch.device("meta"):
        kinds = [
            {type(part).__name__ for part in build(spec).modules() if "GELU" in type(part).__name__}  # type: ignore[attr-defined]
            for spec in (quick, plain)
        ]
    assert kinds == [{"QuickGELU"}, {"GELU"}]


def test_texts_of_other_sources_and_no_texts_are_refused(tmp_path: Path) -> None:
    saved("fb-vit", tmp_path / "w.bin")
    spec = resolve("open_clip:fb-vit/tiny", checkpoint=tmp_path / "w.bin")
    wrongs: list[Any] = [[], "cat"]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="list of at least one string"):
            text_features(spec, wrong)
    with pytest.raises(WeightsError, match=r"expected a backbone of open_clip.*, which has a text tower; found timm"):
        text_features(resolve("resnet18@random"), TEXTS)
    with pytest.raises(WeightsError, match="which has a text tower; found timm"):
        logit_scale(resolve("resnet18@random"))


def test_names_and_missing_weights() -> None:
    assert "open_clip:ViT-B-16/laion2b_s34b_b88k" in names()
    with pytest.raises(UnknownNameError, match=r"did you mean .*'open_clip:ViT-B-16/openai'"):
        resolve("open_clip:ViT-B-16/opennai")
    with pytest.raises(AssetError, match=r"expected featurebank/fb-vit in the hub's local cache"):
        resolve("open_clip:fb-vit/tiny")
    with pytest.raises(WeightsError, match="text tower of open_clip's own, found facebook/nllb"):
        build(resolve("open_clip:nllb-clip-base/v1@random"))
    assert describe("open_clip:fb-vit/tiny") == {"origin": "featurebank/fb-vit/"}
    assert json.dumps(dict(describe("openclip_vit_base")))


@pytest.mark.parametrize(
    "name", ["local-dir:/tmp/x", "hf-hub:someone/network", "../../x/openai", "ViT-B-32/no-such-tag"]
)
def test_c3_a_name_that_is_not_in_the_zoo_is_followed_nowhere(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def follow(*_: object, **__: object) -> None:
        pytest.fail("followed")

    monkeypatch.setattr(open_clip, "get_model_config", follow)
    with pytest.raises(UnknownNameError, match="unknown backbone"):
        resolve(f"open_clip:{name}")
