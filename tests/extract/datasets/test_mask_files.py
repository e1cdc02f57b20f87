"""Masks that lie as files beside images: where they are, what they may hold, and what is said of all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featurebank.extract import datasets
from featurebank.extract.datasets.contract import DatasetSpec
from featurebank.extract.datasets.mask_files import MaskFiles
from featurebank.extract.datasets.objects import Annotated
from featurebank.extract.errors import DatasetError

NAMES = ("ground", "wall")
MASK = np.array([[0, 1, 255], [1, 1, 0]], np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / "images" / "test" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "images" / "test" / name / f"{name}0.png")
    return tmp_path


def masked(folder: Path, template: str = "{split}/{stem}.png") -> MaskFiles:
    split = datasets.open_split(DatasetSpec(name=f"folder:{folder}/images", split="test"))
    return MaskFiles(split, f"{folder}/{template}", NAMES)


def save(folder: Path, mask: np.ndarray[Any, Any], place: str = "test/a0.png") -> None:
    (folder / place).parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(mask).save(folder / place)


@pytest.mark.parametrize(
    ("template", "place"),
    [("{split}/{stem}.png", "test/a0.png"), ("m/{id}.png", "m/a/a0.png"), ("{stem}_{split}", "a0_test")],
)
def test_a_mask_is_found_by_its_images_name(folder: Path, template: str, place: str) -> None:
    split = masked(folder, template)
    assert split.path(0) == folder / place
    assert isinstance(split, Annotated)


@pytest.mark.parametrize("mode", ["L", "P"])
def test_numbers_are_read_as_they_are_of_grey_and_of_palettes(folder: Path, mode: str) -> None:
    save(folder, MASK)
    image = Image.fromarray(MASK)
    if mode == "P":
        image.putpalette([7, 8, 9] * 256)
    image.save(folder / "test" / "a0.png")
    split = masked(folder)
    assert np.array_equal(split.mask(0), MASK)
    shown = split.objects(0)
    assert (shown.height, shown.width, len(shown)) == (2, 3, 0)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MASK.T.copy(), "must have its size, 3 x 2 once it is upright; found 2 x 3"),
        (np.full((2, 3), 2, np.uint8), "numbers 0 to 1, or 255 where a pixel does not count; found 2"),
        (np.zeros((2, 3, 3), np.uint8), "must have one 8-bit number a pixel; found mode RGB"),
        (np.zeros((2, 3), np.uint16), "must have one 8-bit number a pixel; found mode I;16"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(folder: Path, mask: np.ndarray[Any, Any], message: str) -> None:
    save(folder, mask)
    with pytest.raises(DatasetError, match=message) as raised:
        masked(folder).objects(0)
    assert "a0.png" in str(raised.value)


def test_an_image_without_a_mask_and_a_damaged_mask_are_named(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"'a/a0\.png' must have a mask; found none that can be read"):
        masked(folder).annotations_digest()
    save(folder, MASK)
    (folder / "test" / "a0.png").write_bytes(b"GIF89a")
    with pytest.raises(DatasetError, match=r"the mask of 'a/a0\.png' must be a PNG; found"):
        masked(folder).mask(0)


def test_the_digest_is_of_the_masks_alone(folder: Path) -> None:
    for place in ("test/a0.png", "test/b0.png", "other/test/a0.png", "other/test/b0.png"):
        save(folder, MASK, place)
    first = masked(folder).annotations_digest()
    assert masked(folder, "other/{split}/{stem}.png").annotations_digest() == first
    save(folder, MASK[::-1].copy(), "test/b0.png")
    assert masked(folder).annotations_digest() != first


@pytest.mark.parametrize(
    ("template", "names", "message"),
    [
        ("masks.png", NAMES, "must have {stem} or {id} in it; found masks.png"),
        ("{id}.png", ("a", "a"), "1 to 255 classes of different names; found 2"),
        ("{id}.png", (), "1 to 255 classes of different names; found 0"),
    ],
)
def test_a_template_without_a_place_and_names_that_are_not_unique_are_refused(
    folder: Path, template: str, names: tuple[str, ...], message: str
) -> None:
    split = datasets.open_split(DatasetSpec(name=f"folder:{folder}/images", split="test"))
    with pytest.raises(DatasetError) as raised:
        MaskFiles(split, template, names)
    assert message in str(raised.value)
