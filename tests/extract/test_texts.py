"""Text features of a dataset's classes: open_clip's own numbers, a key of their own, made once, one fault at a time."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip  # type: ignore[import-untyped]
import pytest
from tiny_clip import in_hub, tiny_zoo

from featurebank.extract.backbones import resolve, tokenizer
from featurebank.extract.backbones.text_tower import TextTower
from featurebank.extract.text_sets import is_texts, logit_numbers
from featurebank.extract.texts import Prompts, make_texts
from featurebank.extract.wanted import Outcome
from featurebank.probes.prompts import IMAGENET_TEMPLATES, render_prompts
from featurebank.probes.zeroshot import ZeroShotClassifier
from featurebank.store import FeatureStore

NAMES = ("great_white_shark", "tench", "T-shirt/top")
CALLED = ("great white shark", "tench", "T-shirt/top")
TINY = "open_clip:fb-vit/tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return tiny_zoo(tmp_path, monkeypatch)


@pytest.fixture
def model(hub: Path, tmp_path: Path) -> Any:
    """open_clip's own, whose weights are in the hub's cache."""
    return in_hub(hub, "fb-vit", tmp_path / "made")


def prompts(
    name: str = "ensemble", templates: tuple[str, ...] = IMAGENET_TEMPLATES, called: tuple[str, ...] = CALLED
) -> Prompts:
    texts = tuple(map(tuple, render_prompts(called, templates)))
    return Prompts(name=name, class_names=NAMES, templates=templates, texts=texts, rule="as a person writes them")


def made(store: FeatureStore, *several: Prompts, specs: Any = None) -> list[Outcome]:
    return make_texts(specs or [resolve(TINY)], [("pets", one) for one in several or (prompts(),)], store)


def test_the_ensemble_is_open_clips_own_zero_shot_classifier(model: Any, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store")
    (outcome,) = made(store)
    assert (outcome.state, outcome.n_rows, outcome.computed) == ("sealed", 21, 21)
    fs = store.open("pets/texts-ensemble", TINY)
    assert fs.verify().ok
    assert fs.labels.tolist() == np.repeat(np.arange(3), 7).tolist()
    assert fs.class_names == list(NAMES)
    assert fs.columns["prompt"][0] == "itap of a great white shark."
    expected = open_clip.build_zero_shot_classifier(
        model, open_clip.get_tokenizer("fb-vit"), CALLED, IMAGENET_TEMPLATES
    ).T.numpy()
    probe = ZeroShotClassifier().fit(fs["embedding"].reshape(3, 7, -1))
    np.testing.assert_allclose(probe.weights_, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        fs["embedding"],
        model.encode_text(open_clip.tokenize(fs.columns["prompt"].tolist())).detach(),
        rtol=1e-5,
        atol=1e-6,
    )
    scale, bias = logit_numbers(fs) or (0.0, 0.0)
    assert scale == pytest.approx(float(model.logit_scale.detach().exp()), rel=1e-6)
    assert bias == 0.0
    assert fs.provenance["class_texts"] == "as a person writes them"


@pytest.mark.usefixtures("model")
def test_the_key_has_weights_tokenizer_templates_and_prompts(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store")
    base = made(store)[0].fingerprint
    key = store.find(base).key  # type: ignore[union-attr]
    assert is_texts(key)
    assert key["backbone"]["weights"] == resolve(TINY).weights.sha256
    assert key["texts"]["tokenizer"] == tokenizer(resolve(TINY))
    assert key["texts"]["templates"] == list(IMAGENET_TEMPLATES)
    assert "preprocessing" not in key
    others = [
        made(store, prompts(called=("shark", "tench", "T-shirt/top"))),
        made(store, prompts(templates=IMAGENET_TEMPLATES[::-1])),
        made(store, prompts(name="other")),
        made(store, specs=[resolve(f"{TINY}@random:3")]),
    ]
    assert len({base, *(one[0].fingerprint for one in others)}) == 5
    spec = resolve(TINY)
    images = replace(spec, outputs=("embedding",), preprocessing=replace(spec.preprocessing, resize="exact"))
    assert made(store, specs=[images])[0].fingerprint == base  # what images need is not in it
    assert made(store, replace(prompts(), rule="another way to say it"))[0].state == "present"


@pytest.mark.usefixtures("model")
def test_what_is_there_is_not_made_again_and_what_was_begun_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FeatureStore(tmp_path / "store")
    many = prompts(templates=tuple(f"photo {number} of a {{}}" for number in range(900)))
    calls: list[int] = []
    encode = TextTower.encode

    def failing(self: TextTower, texts: Any, batch_size: int = 256) -> Any:
        calls.append(len(texts))
        if len(calls) == 3:
            raise RuntimeError("power cut")
        return encode(self, texts, batch_size)

    monkeypatch.setattr(TextTower, "encode", failing)
    (outcome,) = made(store, many)
    assert (outcome.state, outcome.error) == ("failed", "RuntimeError: power cut")
    (partial,) = store.ls()
    assert partial.state == "partial"
    (outcome,) = made(store, many)
    assert outcome.state == "sealed", outcome.error
    assert calls[3:] == [652]  # one chunk was there
    fs = store.open("pets/texts-ensemble", TINY)
    assert fs.verify().ok
    direct = encode(_tower(), [text for texts in many.texts for text in texts])
    np.testing.assert_allclose(fs["embedding"], direct, rtol=1e-5, atol=1e-6)
    calls.clear()
    assert made(store, many)[0].state == "present"
    assert calls == []


def _tower() -> TextTower:
    from featurebank.extract.backbones import text_tower

    return text_tower(resolve(TINY))


@pytest.mark.usefixtures("model")
def test_one_backbone_that_fails_stops_no_other(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store")
    good = resolve(TINY)
    moved = replace(good, weights=replace(good.weights, path=tmp_path / "gone.safetensors"))
    other = resolve("mobilenetv2@random")
    first, second, third = made(store, specs=[replace(moved, name="open_clip:gone/tiny"), other, good])
    assert (first.state, second.state, third.state) == ("failed", "failed", "sealed")
    assert "gone.safetensors: expected a checkpoint" in first.error
    assert "which has a text tower; found packaged" in second.error


@pytest.mark.usefixtures("model")
def test_prompts_beyond_the_context_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = FeatureStore(tmp_path / "store")
    caplog.set_level(logging.WARNING, "featurebank")
    long = prompts(templates=("a {}", "a photo " * 80 + "{}"))
    assert made(store, long)[0].state == "sealed"
    assert "3 of 6 prompts have more than 77 tokens; their ends are not read" in caplog.text


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"logit_scale": 0.0, "logit_bias": 0.0},
        {"logit_scale": -3.0, "logit_bias": 0.0},
        {"logit_scale": "100", "logit_bias": 0.0},
        {"logit_scale": True, "logit_bias": 0.0},
        {"logit_scale": [100.0], "logit_bias": 0.0},
        {"logit_scale": 10**400, "logit_bias": 0.0},
        {"logit_scale": 100.0, "logit_bias": None},
    ],
)
def test_a_scale_that_makes_no_sense_is_none(told: dict[str, Any], tmp_path: Path) -> None:
    from featurebank.store import FeatureSetWriter, Output, Records

    records = Records(ids=["a"], labels=np.zeros(1, np.int64), content_hash=np.zeros((1, 16), np.uint8))
    outputs = [Output(name="embedding", shape=(2,), dtype="float32")]
    path = tmp_path / "set.h5"
    with FeatureSetWriter.create(path, key={"texts": {}}, outputs=outputs, records=records, provenance=told) as writer:
        writer.write_chunk("embedding", 0, np.ones((1, 2), np.float32))
        writer.mark_ok(0, 1)
        with writer.seal() as fs:
            assert logit_numbers(fs) is None
