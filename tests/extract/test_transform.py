"""Pixel for pixel against torchvision's and timm's own pipelines."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from limited import run_limited
from numpy.typing import NDArray
from PIL import Image

from featurebank.extract.errors import ImageError
from featurebank.extract.preprocessing import Interpolation, Preprocessing
from featurebank.extract.transform import Transform, normalisation

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
INTERPOLATIONS: tuple[Interpolation, ...] = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with noise: neither flat, which hides errors of position, nor white noise, which hides none."""
    generator = np.random.default_rng((seed, width, height))
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x * 3 + y, x + y * 2, x * y // 7], axis=-1)
    return Image.fromarray(((smooth + generator.integers(0, 64, smooth.shape)) % 256).astype(np.uint8))


def timm_record(size: tuple[int, int], crop_pct: float, mode: str, interpolation: Interpolation) -> Preprocessing:
    """The record that stands for a timm configuration."""
    resize = [math.floor(side / crop_pct) for side in size]
    return Preprocessing(
        height=size[0],
        width=size[1],
        resize={"center": "shorter", "squash": "exact", "border": "longer"}[mode],  # type: ignore[arg-type]
        resize_height=resize[0],
        resize_width=resize[1],
        interpolation=interpolation,
        fill=tuple(round(255 * m) for m in MEAN) if mode == "border" else (0, 0, 0),  # type: ignore[arg-type]
        mean=MEAN,
        std=STD,
    )


def timm_pixels(image: Image.Image, **settings: Any) -> NDArray[np.uint8]:
    from timm.data import create_transform  # type: ignore[attr-defined]

    pixels: NDArray[np.uint8] = create_transform(is_training=False, normalize=False, **settings)(image).numpy()
    return pixels.transpose(1, 2, 0)


sides = st.integers(1, 300) | st.sampled_from([1, 2, 223, 224, 225, 255, 256, 257])


@settings(max_examples=100, deadline=None)
@given(
    width=sides,
    height=sides,
    size=st.tuples(st.integers(2, 96), st.integers(2, 96)) | st.integers(2, 120).map(lambda side: (side, side)),
    crop_pct=st.sampled_from([1.0, 0.875, 0.9, 0.95, 0.96, 0.8, 1.1]),
    mode=st.sampled_from(["center", "squash", "border"]),
    interpolation=st.sampled_from(INTERPOLATIONS),
)
@example(width=640, height=427, size=(224, 224), crop_pct=0.875, mode="center", interpolation="bicubic")
@example(width=427, height=640, size=(224, 224), crop_pct=0.875, mode="center", interpolation="bilinear")
@example(width=1, height=1, size=(224, 224), crop_pct=0.875, mode="center", interpolation="lanczos")
@example(width=256, height=256, size=(224, 224), crop_pct=0.875, mode="center", interpolation="bicubic")
@example(width=1, height=200, size=(32, 32), crop_pct=0.875, mode="center", interpolation="bicubic")
@example(width=200, height=1, size=(32, 32), crop_pct=0.875, mode="squash", interpolation="bicubic")
@example(width=50, height=500, size=(64, 65), crop_pct=0.9, mode="center", interpolation="bicubic")
def test_equals_timm(
    *,
    width: int,
    height: int,
    size: tuple[int, int],
    crop_pct: float,
    mode: str,
    interpolation: Interpolation,
) -> None:
    resized = [math.floor(side / crop_pct) for side in size]
    if mode == "border" and round(min(width, height) / max(width / resized[1], height / resized[0])) == 0:
        return  # timm fails there; see test_a_side_never_vanishes
    if mode == "center" and max(width / height, height / width) * max(resized) ** 2 > 5e6:
        return  # the reference would take gigabytes
    image = photo(width, height)
    expected = timm_pixels(
        image, input_size=(3, *size), crop_pct=crop_pct, crop_mode=mode, interpolation=interpolation, mean=MEAN, std=STD
    )
    found = Transform(timm_record(size, crop_pct, mode, interpolation))(image)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=60, deadline=None)
@given(
    width=sides,
    height=sides,
    crop=st.integers(1, 150),
    resize=st.integers(1, 150),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]),
)
@example(width=2000, height=1, crop=24, resize=28, interpolation="bilinear")
@example(width=1, height=2000, crop=24, resize=28, interpolation="bicubic")
@example(width=300, height=200, crop=224, resize=232, interpolation="bilinear")
def test_equals_the_torchvision_preset(
    *, width: int, height: int, crop: int, resize: int, interpolation: Interpolation
) -> None:
    from torchvision.transforms import InterpolationMode  # type: ignore[import-untyped]
    from torchvision.transforms._presets import ImageClassification  # type: ignore[import-untyped]

    image = photo(width, height)
    record = Preprocessing(
        height=crop,
        width=crop,
        resize_height=resize,
        resize_width=resize,
        interpolation=interpolation,
        mean=MEAN,
        std=STD,
    )
    if max(width / height, height / width) * resize**2 > 5e6:
        return
    preset = ImageClassification(
        crop_size=crop, resize_size=resize, interpolation=InterpolationMode(interpolation), mean=MEAN, std=STD
    )
    scale, shift = normalisation(record)
    found = Transform(record)(image) * scale + shift
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.transpose(2, 0, 1), preset(image).numpy(), rtol=0, atol=1e-6)


@settings(max_examples=200, deadline=None)
@given(mean=st.floats(-1, 2), std=st.floats(1 / 255, 2))
def test_normalisation_is_the_formula(mean: float, std: float) -> None:
    record = replace(timm_record((8, 8), 1.0, "center", "box"), mean=(mean,) * 3, std=(std,) * 3)
    scale, shift = normalisation(record)
    x = np.arange(256, dtype=np.uint8)
    exact = (np.arange(256) / 255 - mean) / std
    assert np.abs(x * scale[0] + shift[0] - exact).max() <= 1e-6 * max(1.0, np.abs(exact).max())


def test_normalisation_refuses_a_deviation_of_zero() -> None:
    with pytest.raises(ValueError, match="std must be positive"):
        normalisation(replace(timm_record((8, 8), 1.0, "center", "box"), std=(1.0, 0.0, 1.0)))


def test_without_resize_only_the_crop_is_taken() -> None:
    record = replace(timm_record((5, 4), 1.0, "center", "box"), resize="none", fill=(9, 8, 7))
    image = photo(10, 3)
    pixels = Transform(record)(image)
    np.testing.assert_array_equal(pixels[1:4], np.asarray(image)[:, 3:7])
    assert (pixels[[0, 4]] == (9, 8, 7)).all()


def test_bgr_is_rgb_reversed_and_shares_its_geometry() -> None:
    rgb = timm_record((32, 32), 0.875, "center", "bicubic")
    bgr = replace(rgb, channels="BGR", mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))
    image = photo(60, 45)
    np.testing.assert_array_equal(Transform(bgr)(image), Transform(rgb)(image)[..., ::-1])
    np.testing.assert_array_equal(Transform(bgr).pixels(image), Transform(rgb)(image))
    assert Transform(bgr)(image).flags.c_contiguous
    assert Transform(bgr).geometry == Transform(rgb).geometry


@pytest.mark.parametrize(
    "change",
    [
        {"height": 31},
        {"width": 31},
        {"resize": "exact"},
        {"resize_height": 40},
        {"resize_width": 40},
        {"interpolation": "bilinear"},
        {"fill": (1, 0, 0)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_moves_a_pixel_changes_the_geometry(change: dict[str, Any]) -> None:
    record = timm_record((32, 32), 0.875, "center", "bicubic")
    changed = Transform(replace(record, **change))
    assert changed.geometry != Transform(record).geometry


def test_a_side_never_vanishes() -> None:
    record = timm_record((32, 32), 1.0, "border", "bilinear")
    pixels = Transform(record)(Image.new("RGB", (1, 2000), (250, 0, 0)))
    column = [tuple(int(v) for v in pixels[0, x]) for x in range(32)]
    assert column.count((250, 0, 0)) == 1
    assert column.count(record.fill) == 31


THIN = """
image = Image.new("RGB", (1, 15_000), (200, 100, 50))
image.putpixel((0, 7500), (0, 0, 0))
for size in ((1, 15_000), (15_000, 1)):
    given = image if size == image.size else image.transpose(Image.Transpose.TRANSPOSE)
    for interpolation in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"):
        pixels = Transform(Preprocessing(
            height=224, width=224, resize_height=256, resize_width=256, interpolation=interpolation,
            mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
        ))(given)
        print(pixels.shape, pixels.max(), pixels.min())
"""


def test_a14_a_thin_image_takes_no_memory_for_what_is_cut_off() -> None:
    """15,000 pixels, whose shorter side of 1 becomes 256: in full, 983 million of them, 4 GB."""
    imports = "from PIL import Image\nfrom featurebank.extract.preprocessing import Preprocessing\n"
    imports += "from featurebank.extract.transform import Transform\n"
    printed = run_limited(THIN, imports=imports, megabytes=200).splitlines()
    assert printed[::6] == ["(224, 224, 3) 200 0"] * 2
    assert all(line.startswith("(224, 224, 3)") for line in printed)
    assert len(printed) == 12


@settings(max_examples=150, deadline=None)
@given(
    width=sides | st.integers(1, 3000),
    height=st.integers(1, 40) | sides,
    tall=st.booleans(),
    resize=st.tuples(st.integers(1, 150), st.integers(1, 150)) | st.integers(1, 150).map(lambda side: (side, side)),
    crop=st.tuples(st.integers(1, 96), st.integers(1, 96)),
    mode=st.sampled_from(["shorter", "exact", "longer"]),
    interpolation=st.sampled_from(INTERPOLATIONS),
)
@example(width=1, height=4000, tall=False, resize=(64, 64), crop=(56, 56), mode="shorter", interpolation="nearest")
@example(width=1, height=4000, tall=True, resize=(64, 64), crop=(56, 56), mode="shorter", interpolation="bicubic")
@example(width=300, height=900, tall=False, resize=(64, 64), crop=(56, 56), mode="shorter", interpolation="lanczos")
@example(width=300, height=900, tall=True, resize=(200, 30), crop=(56, 56), mode="exact", interpolation="hamming")
@example(width=64, height=64, tall=True, resize=(64, 90), crop=(56, 57), mode="exact", interpolation="box")
def test_a14_what_is_kept_of_a_large_resize_is_what_all_of_it_gives(
    *,
    width: int,
    height: int,
    tall: bool,
    resize: tuple[int, int],
    crop: tuple[int, int],
    mode: Any,
    interpolation: Interpolation,
) -> None:
    record = Preprocessing(
        height=crop[0], width=crop[1], resize=mode, resize_height=resize[0], resize_width=resize[1],
        interpolation=interpolation, mean=MEAN, std=STD,
    )  # fmt: skip
    transform = Transform(record)
    image = photo(height, width) if tall else photo(width, height)
    rows, columns = transform.placement(*image.size)
    assume(rows.size * columns.size < 4_000_000)
    with mock.patch("featurebank.extract.transform.WHOLE", 1 << 30):
        whole = transform.pixels(image)
    with mock.patch("featurebank.extract.transform.WHOLE", -1):
        np.testing.assert_array_equal(transform.pixels(image), whole)


def test_a14_a_side_that_no_resize_gives_is_an_error() -> None:
    record = timm_record((224, 224), 1.0, "center", "bilinear")
    with pytest.raises(ImageError, match="1x500000 pixels, resized to 224x112000000: more than 100000000 along a side"):
        Transform(record)(Image.new("RGB", (1, 500_000)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "sizes must be at least 1"),
        ({"resize": "longest"}, "resize must be one of shorter, exact, longer, none, got 'longest'"),
        ({"interpolation": "cubic"}, "interpolation must be one of nearest, bilinear"),
        ({"channels": "rgb"}, "channels must be one of RGB, BGR, got 'rgb'"),
        ({"margins": "ceil"}, "margins must be one of round, floor, got 'ceil'"),
    ],
)
def test_impossible_records_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Transform(replace(timm_record((32, 32), 1.0, "center", "bilinear"), **change))
