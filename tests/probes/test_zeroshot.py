"""Zero-shot classification against CLIP's formula written out, and the prompts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone  # type: ignore[import-untyped]
from sklearn.exceptions import NotFittedError  # type: ignore[import-untyped]

from featurebank.probes import _rows
from featurebank.probes.prompts import IMAGENET_TEMPLATES, PLAIN_TEMPLATE, render_prompts
from featurebank.probes.zeroshot import ZeroShotClassifier


def features(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float16)


def clip(images: Any, text: Any, scale: float) -> Any:
    """As in CLIP's notebook: normalise, mean over templates, normalise, cosine, softmax."""
    image = torch.nn.functional.normalize(torch.from_numpy(images).double(), dim=-1)
    weights = torch.nn.functional.normalize(torch.from_numpy(text).double(), dim=-1).mean(1)
    weights = weights / weights.norm(dim=-1, keepdim=True)
    logits = scale * image @ weights.T
    return logits.numpy(), logits.softmax(-1).numpy()


@pytest.mark.parametrize("templates", [1, 8])
def test_it_is_clips_formula(templates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rows, "BLOCK_VALUES", 32 * 7)
    images, text = features(50, 32), features(6, templates, 32)
    probe = ZeroShotClassifier(logit_scale=20.0).fit(text)
    logits, probabilities = clip(images, text, 20.0)
    np.testing.assert_allclose(probe.logits(images), logits, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(probe.predict_proba(images), probabilities, rtol=1e-11)
    np.testing.assert_array_equal(probe.predict(images), logits.argmax(1))
    assert probe.score(images, logits.argmax(1)) == 1.0


def test_one_template_is_none() -> None:
    text = features(6, 32)
    np.testing.assert_array_equal(
        ZeroShotClassifier().fit(text).weights_, ZeroShotClassifier().fit(text[:, None]).weights_
    )


def test_the_length_of_a_prompts_features_does_not_matter() -> None:
    text = features(6, 3, 32).astype(np.float64)
    longer = text * np.array([1.0, 10.0, 0.1])[:, None]
    np.testing.assert_allclose(
        ZeroShotClassifier().fit(text).weights_, ZeroShotClassifier().fit(longer).weights_, rtol=1e-12
    )


def test_probabilities_do_not_overflow_and_a_zero_image_is_undecided() -> None:
    probe = ZeroShotClassifier(logit_scale=1e6).fit(np.eye(4))
    assert probe.predict_proba(np.eye(4)).tolist() == np.eye(4).tolist()
    assert probe.predict_proba(np.zeros((1, 4))).tolist() == [[0.25] * 4]
    assert probe.predict(np.zeros((1, 4))).tolist() == [0]


def test_prompts_are_class_by_class() -> None:
    assert render_prompts(["tench", "a {b}"]) == [["a photo of a tench."], ["a photo of a a {b}."]]
    prompts = render_prompts(["cat", "dog"], (*IMAGENET_TEMPLATES, PLAIN_TEMPLATE))
    assert [len(texts) for texts in prompts] == [8, 8]
    assert prompts[0][2] == "a origami cat."
    assert prompts[1][6:] == ["a photo of the small dog.", "a photo of a dog."]


def test_it_can_be_cloned_and_must_be_fitted() -> None:
    probe = clone(ZeroShotClassifier(logit_scale=5.0))
    assert probe.get_params() == {"logit_scale": 5.0, "logit_bias": 0.0}
    with pytest.raises(NotFittedError):
        probe.predict(np.eye(4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ZeroShotClassifier().fit(features(32)), r"\(K, D\) or \(K, T, D\) with at least two"),
        (lambda: ZeroShotClassifier().fit(features(1, 32)), "at least two classes"),
        (lambda: ZeroShotClassifier().fit(features(2, 0, 32)), "found shape"),
        (lambda: ZeroShotClassifier().fit([[1.0, np.nan], [0.0, 1.0]]), "text features must be finite"),
        (lambda: ZeroShotClassifier().fit([[1.0, 0.0], [0.0, 0.0]]), "zero vector of class 1"),
        (lambda: ZeroShotClassifier().fit([[[1.0], [-1.0]], [[1.0], [1.0]]]), "zero vector of class 0"),
        (lambda: ZeroShotClassifier(logit_scale=0).fit(features(2, 4)), "logit_scale must be above 0"),
        (lambda: ZeroShotClassifier().fit(features(2, 4)).predict(features(3, 5)), "expecting 4 features"),
        (lambda: ZeroShotClassifier().fit(features(2, 2)).predict([[np.inf, 0.0]]), "row 0, column 0"),
        (lambda: render_prompts([]), "class_names must be a list"),
        (lambda: render_prompts("cat"), "class_names must be a list"),
        (lambda: render_prompts(["cat"], []), "templates must be a list"),
        (lambda: render_prompts(["cat"], ["a photo"]), "exactly one"),
        (lambda: render_prompts(["cat"], ["{} and {}"]), "exactly one"),
    ],
)
def test_bad_input_is_one_clear_error(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
