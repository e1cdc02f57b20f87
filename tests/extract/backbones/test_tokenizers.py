"""Tokenizers of text towers: the tokens that open_clip and transformers make of the same files, which are data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip  # type: ignore[import-untyped]
import pytest
import torch
import transformers
from open_clip.tokenizer import HFTokenizer  # type: ignore[import-untyped]
from tiny_clip import SIGLIP, SMALL, in_hub, save_hugging_face, save_tokenizer, tiny_zoo
from zoo_networks import put_in_hub

from featurebank.extract.backbones import build, resolve, text_tower, tokenizer
from featurebank.extract.backbones.open_clip_text import open_clip_tokenizer
from featurebank.extract.backbones.tokenizers import FILES, digest_of, fast_tokenizer
from featurebank.extract.errors import AssetError, WeightsError
from featurebank.store.errors import UnknownNameError

TEXTS = ["a photo of the great white shark", "Itap of a TENCH!", "unknown words, all of them", "a " * 30, "é"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return tiny_zoo(tmp_path, monkeypatch)


@pytest.fixture
def words(hub: Path, tmp_path: Path) -> Path:
    """The folder of the tokenizer that is in the hub's cache."""
    folder = save_tokenizer(tmp_path / "words")
    put_in_hub(hub, "featurebank/words", {name: folder / name for name in FILES})
    return folder


def test_open_clips_own_tokenizer_counts_what_it_cuts() -> None:
    made, own = open_clip_tokenizer("x", {"context_length": 8}), open_clip.get_tokenizer("ViT-B-32", context_length=8)
    assert torch.equal(made.tokens(TEXTS), own(TEXTS))
    assert made.cut(TEXTS) == 3
    assert made.lengths(TEXTS) == [9, 9, 8, 32, 3]


@pytest.mark.parametrize("strip", [False, True])
def test_tokens_of_files_are_those_of_open_clip(strip: bool, words: Path) -> None:
    settings = {"clean": "canonicalize", **({"strip_sep_token": True} if strip else {})}
    made = open_clip_tokenizer("x", {**SIGLIP["text_cfg"], "tokenizer_kwargs": settings})
    expected = HFTokenizer(str(words), context_length=8, **settings)(TEXTS)
    assert torch.equal(made.tokens(TEXTS), expected)
    assert made.cut(TEXTS) == 2


def test_siglip_has_its_own_features_scale_and_bias(hub: Path, words: Path, tmp_path: Path) -> None:
    model = in_hub(hub, "fb-siglip", tmp_path / "made")
    tower = text_tower(resolve("open_clip:fb-siglip/tiny"))
    tokens = HFTokenizer(str(words), context_length=8, clean="canonicalize")(TEXTS)
    expected = model.encode_text(tokens, normalize=False).detach().numpy()
    np.testing.assert_allclose(tower.encode(TEXTS, batch_size=2), expected, rtol=1e-5, atol=1e-6)
    assert tower.logit_bias == pytest.approx(-10)
    assert tower.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()), rel=1e-6)


def test_the_key_of_a_tokenizer_changes_with_its_files(hub: Path, words: Path, tmp_path: Path) -> None:
    in_hub(hub, "fb-siglip", tmp_path / "made")
    in_hub(hub, "fb-vit", tmp_path / "other")
    record = tokenizer(resolve("open_clip:fb-siglip/tiny"))
    assert record == {
        "kind": "transformers", "sha256": digest_of(words), "context_length": 8, "clean": "canonicalize",
    }  # fmt: skip
    assert tokenizer(resolve("open_clip:fb-vit/tiny"))["kind"] == "open_clip"
    with (words / FILES[0]).open("a") as file:
        file.write(" ")
    assert digest_of(words) != record["sha256"]


def test_a_tokenizer_that_is_not_in_the_hubs_cache_is_named(hub: Path, tmp_path: Path) -> None:
    in_hub(hub, "fb-siglip", tmp_path / "made")
    with pytest.raises(AssetError, match="expected featurebank/words in the hub's local cache, offline"):
        text_tower(resolve("open_clip:fb-siglip/tiny"))


def test_no_code_and_no_class_of_a_folder_is_followed(words: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    config = json.loads((words / FILES[1]).read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil", "padding_side": "left"}
    (words / FILES[1]).write_text(json.dumps(config))
    (words / "evil.py").write_text("raise SystemExit('run')")

    def follow(*_: object, **__: object) -> None:
        pytest.fail("followed")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", follow)
    made, _ = fast_tokenizer("x", words, context=8)
    assert made.tokens(["a photo"]).tolist() == [[3, 4, 1, 2, 1, 1, 1, 1]]


def change(folder: Path, file: str, content: Any) -> None:
    (folder / file).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (FILES[0], b"", "expected a tokenizer in"),
        (FILES[0], b"\x80\x04\x95pickle", "expected a tokenizer in"),
        (FILES[0], {"version": "1.0", "model": {"type": "Evil"}}, "expected a tokenizer in"),
        (FILES[0], [[[[]]]], "expected a tokenizer in"),
        (FILES[1], b"no json", "expected a tokenizer's configuration"),
        (FILES[1], [], "expected a tokenizer's configuration"),
        (FILES[1], {}, "to have a token for padding, found 'none'"),
        (FILES[1], {"pad_token": 3}, "to have a token for padding, found 'none'"),
        (FILES[1], {"pad_token": {"content": "[PAD]"}}, r"to have a token for padding, found '\[PAD\]'"),
    ],
)
def test_files_that_are_no_tokenizer(file: str, content: Any, message: str, tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path / "words")
    change(folder, file, content)
    with pytest.raises((WeightsError, AssetError), match=message):
        fast_tokenizer("x", folder, context=8)


def test_files_that_are_missing(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path / "words")
    (folder / FILES[0]).unlink()
    with pytest.raises(AssetError, match=r"found no tokenizer\.json; save it there"):
        digest_of(folder)
    with pytest.raises(AssetError, match="expected a tokenizer's file, found: No such file"):
        fast_tokenizer("x", folder, context=8)


@pytest.mark.usefixtures("words")
def test_settings_that_are_not_known_are_refused() -> None:
    for more in ({"tokenizer_mode": "clips"}, {"tokenizer_kwargs": {"language": "eng"}}):
        with pytest.raises(WeightsError, match="expected a tokenizer with clean and strip_sep_token at most, found"):
            open_clip_tokenizer("x", {"context_length": 8, "hf_tokenizer_name": "featurebank/words", **more})


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_both_towers_of_a_folder_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    model = save_hugging_face(tmp_path / kind, kind)
    spec = resolve(f"hf:{tmp_path / kind}", outputs=["pooled", "embedding"])
    network: Any = build(spec)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    tower, texts = text_tower(spec), [text.lower().rstrip("!").replace(",", "") for text in TEXTS]
    own = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / kind)
    tokens = own(texts, padding="max_length", truncation=True, max_length=8, return_tensors="pt")
    masked = {"attention_mask": tokens.attention_mask} if kind == "clip" else {}
    with torch.no_grad():
        seen, read = model.get_image_features(pixel_values=images), model.get_text_features(tokens.input_ids, **masked)
        torch.testing.assert_close(network(images)["embedding"], seen.pooler_output, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        tower.encode(TEXTS if kind == "siglip" else texts), read.pooler_output, rtol=1e-5, atol=1e-6
    )
    assert tower.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()), rel=1e-6)
    assert tower.logit_bias == (0.0 if kind == "clip" else -12.5)
    assert tokenizer(spec)["sha256"] == digest_of(tmp_path / kind)


def test_folders_without_a_text_tower_or_its_tokenizer_say_so(tmp_path: Path) -> None:
    save_hugging_face(tmp_path / "clip", "clip")
    with pytest.raises(WeightsError, match="expected weights of a folder, which has the tokenizer too"):
        text_tower(resolve(f"hf:{tmp_path / 'clip'}@random"))
    (tmp_path / "clip" / FILES[0]).unlink()
    with pytest.raises(AssetError, match=r"found no tokenizer\.json"):
        tokenizer(resolve(f"hf:{tmp_path / 'clip'}"))
    vit = transformers.ViTModel(transformers.ViTConfig(**SMALL))
    vit.save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_bytes(
        (tmp_path / "clip" / "preprocessor_config.json").read_bytes()
    )
    spec = resolve(f"hf:{tmp_path / 'vit'}")
    with pytest.raises(WeightsError, match="expected clip or siglip, which has a text tower; found 'vit'"):
        text_tower(spec)
    with pytest.raises(UnknownNameError, match="unknown output 'embedding'"):
        build(resolve(f"hf:{tmp_path / 'vit'}", outputs=["embedding"]))
