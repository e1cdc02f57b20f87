"""What must and what must not change a fingerprint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featurebank.extract.backbones.contract import BackboneSpec, Weights
from featurebank.extract.datasets.contract import Subset
from featurebank.extract.key import DatasetKey, feature_fingerprint, feature_key
from featurebank.extract.preprocessing import Decode, Preprocessing

Arguments = dict[str, Any]


def arguments() -> Arguments:
    preprocessing = Preprocessing(
        height=224,
        width=224,
        resize_height=256,
        resize_width=256,
        interpolation="bicubic",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    weights = Weights(sha256="ab" * 32, path=Path("/somewhere/weights.pth"), origin="somewhere")
    backbone = BackboneSpec(
        name="net", source="timm", architecture="resnet50", weights=weights, preprocessing=preprocessing
    )
    return {
        "backbone": backbone,
        "dataset": DatasetKey(name="pets", split="train", digest="cd" * 32),
        "precision": "bfloat16",
        "dtype": "float16",
    }


def backbone(**changes: Any) -> Callable[[Arguments], Arguments]:
    return lambda a: {**a, "backbone": dataclasses.replace(a["backbone"], **changes)}


def weights(**changes: Any) -> Callable[[Arguments], Arguments]:
    return lambda a: backbone(weights=dataclasses.replace(a["backbone"].weights, **changes))(a)


def preprocessing(**changes: Any) -> Callable[[Arguments], Arguments]:
    return lambda a: backbone(preprocessing=dataclasses.replace(a["backbone"].preprocessing, **changes))(a)


def decode(**changes: Any) -> Callable[[Arguments], Arguments]:
    return preprocessing(decode=Decode(**changes))


def dataset(**changes: Any) -> Callable[[Arguments], Arguments]:
    return lambda a: {**a, "dataset": dataclasses.replace(a["dataset"], **changes)}


def plain(**changes: Any) -> Callable[[Arguments], Arguments]:
    return lambda a: {**a, **changes}


MUST: dict[str, Callable[[Arguments], Arguments]] = {
    "backbone name": backbone(name="net2"),
    "backbone source": backbone(source="torchvision"),
    "architecture": backbone(architecture="resnet101"),
    "adapter": backbone(adapter="flat_blocks"),
    "weights digest": weights(sha256="ac" * 32),
    "random weights": weights(sha256="random:0"),
    "fewer outputs": backbone(outputs=("pooled",)),
    "more outputs": backbone(outputs=("pooled", "logits", "cls")),
    "order of outputs": backbone(outputs=("logits", "pooled")),
    "height": preprocessing(height=256),
    "width": preprocessing(width=256),
    "resize mode": preprocessing(resize="exact"),
    "resize height": preprocessing(resize_height=248),
    "resize width": preprocessing(resize_width=248),
    "interpolation": preprocessing(interpolation="bilinear"),
    "fill": preprocessing(fill=(128, 128, 128)),
    "mean": preprocessing(mean=(0.5, 0.5, 0.5)),
    "mean by the last digit": preprocessing(mean=(0.485, 0.456, 0.4060000000000001)),
    "std": preprocessing(std=(0.5, 0.5, 0.5)),
    "channel order": preprocessing(channels="BGR"),
    "decoder": decode(library="nvjpeg"),
    "EXIF": decode(exif=False),
    "background of transparency": decode(background=(0, 0, 0)),
    "transparency dropped": decode(background=None),
    "largest image": decode(max_pixels=10_000_000),
    "precision": plain(precision="float32"),
    "other precision": plain(precision="float16"),
    "stored dtype": plain(dtype="float32"),
    "dataset name": dataset(name="cats"),
    "split": dataset(split="test"),
    "dataset digest": dataset(digest="ce" * 32),
    "subset": dataset(subset=Subset(size=100)),
    "size of the subset": dataset(subset=Subset(size=101)),
    "seed of the subset": dataset(subset=Subset(size=100, seed=1)),
    "subset not stratified": dataset(subset=Subset(size=100, stratified=False)),
}


def rebuilt(a: Arguments) -> Arguments:
    spec = a["backbone"]
    again = {field.name: getattr(spec, field.name) for field in reversed(dataclasses.fields(spec))}
    return {**a, "backbone": BackboneSpec(**again)}


MUST_NOT: dict[str, Callable[[Arguments], Arguments]] = {
    "where the weights lie": weights(path=Path("/elsewhere/copy.pth")),
    "no path of weights": weights(path=None),
    "where the weights came from": weights(origin="a mirror"),
    "order of arguments": rebuilt,
    "a default spelt out: resize": preprocessing(resize="shorter"),
    "a default spelt out: fill": preprocessing(fill=(0, 0, 0)),
    "a default spelt out: channels": preprocessing(channels="RGB"),
    "a default spelt out: decode": preprocessing(decode=Decode()),
    "a default spelt out: decoder": decode(library="pillow"),
    "a default spelt out: EXIF": decode(exif=True),
    "a default spelt out: background": decode(background=(255, 255, 255)),
    "a default spelt out: outputs": backbone(outputs=("pooled", "logits")),
    "a default spelt out: adapter": backbone(adapter=""),
    "a default spelt out: no subset": dataset(subset=None),
    "an equal copy of the record": lambda a: backbone(preprocessing=dataclasses.replace(a["backbone"].preprocessing))(
        a
    ),
}


def test_the_tables_are_long_enough() -> None:
    assert len(MUST) >= 25
    assert len(MUST_NOT) >= 10


@pytest.mark.parametrize("name", MUST)
def test_must_change_the_fingerprint(name: str) -> None:
    assert feature_fingerprint(**MUST[name](arguments())) != feature_fingerprint(**arguments())


def test_every_change_gives_a_fingerprint_of_its_own() -> None:
    made = [feature_fingerprint(**change(arguments())) for change in MUST.values()]
    assert len(set(made)) == len(made)


@pytest.mark.parametrize("name", MUST_NOT)
def test_must_not_change_the_fingerprint(name: str) -> None:
    assert feature_fingerprint(**MUST_NOT[name](arguments())) == feature_fingerprint(**arguments())


def test_the_fingerprint_is_pinned() -> None:
    """A change here means that every store in the world is computed again: raise the key's version if it is meant."""
    made = [
        feature_fingerprint(**change(arguments()))
        for change in (plain(), plain(precision="float32"), backbone(source="packaged"))
    ]
    assert made == [
        "9af6ed7c69cf9dab17728eaa6e226550e90a26b2c8f68d8fe584d52d610c5248",
        "a2bb0335c0f272d2664a9baf7e5f342b128a8b890389a8f3f23ebe3fd7ba870b",
        "653cb68e320c97be35699a291f9d0f0862cf6a105634e9c2d4beb653f8e90a2d",
    ]


def test_no_path_enters_the_key() -> None:
    assert "somewhere" not in str(feature_key(**arguments()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (plain(precision="bf16"), "precision must be one of float32, bfloat16, float16, got 'bf16'"),
        (plain(dtype="int8"), "dtype must be one of float16, float32, got 'int8'"),
        (backbone(outputs=()), "outputs must be distinct and at least one"),
        (backbone(outputs=("pooled", "pooled")), "outputs must be distinct and at least one"),
        (weights(sha256=""), "have no digest"),
        (preprocessing(mean=(float("nan"), 0.0, 0.0)), "finite numbers"),
    ],
)
def test_what_has_no_key_is_refused(change: Callable[[Arguments], Arguments], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        feature_key(**change(arguments()))


def test_unknown_types_raise_instead_of_falling_back() -> None:
    with pytest.raises(TypeError, match="a key must be made of"):
        feature_fingerprint(**preprocessing(fill={1, 2})(arguments()))
