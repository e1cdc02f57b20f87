"""Images on their way into training: extraction's pixels, timm's augmentation, the same bits for any workers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms_factory import create_transform

from featurebank.extract.datasets.contract import DatasetSpec
from featurebank.extract.errors import DatasetError
from featurebank.extract.preprocessing import Preprocessing
from featurebank.pipelines.jobs.finetune.augment import AUGMENTATIONS, Augmentation
from featurebank.pipelines.jobs.finetune.images import ImageRows, loaded
from featurebank.pipelines.training.draws import seed_of, seeded_everywhere
from featurebank.pipelines.training.order import order, windows

SQUARE = Preprocessing(
    height=32,
    width=32,
    resize_height=36,
    resize_width=36,
    interpolation="bicubic",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


@dataclass
class Pictures:
    """A split of noisy gradients, in memory."""

    contents: Sequence[bytes]

    @property
    def spec(self) -> DatasetSpec:
        return DatasetSpec(name="pictures", split="train")

    @property
    def ids(self) -> list[str]:
        return [f"image {number}" for number in range(len(self.contents))]

    def read(self, index: int) -> bytes:
        return self.contents[index]


def pictures(count: int = 6, height: int = 50, width: int = 70) -> Pictures:
    generator = np.random.default_rng(0)
    ramp = np.linspace(0, 200, height * width * 3).reshape(height, width, 3)
    contents = []
    for _ in range(count):
        file = BytesIO()
        Image.fromarray((ramp + generator.integers(0, 50, ramp.shape)).astype(np.uint8)).save(file, "PNG")
        contents.append(file.getvalue())
    return Pictures(contents)


def rows_of(
    split: Pictures, preprocessing: Preprocessing = SQUARE, augmentation: Augmentation | None = None, seed: int = 0
) -> ImageRows:
    every = np.arange(len(split.contents))
    return ImageRows(split, every, preprocessing, augmentation=augmentation, seed=seed)  # type: ignore[arg-type]


def test_without_augmentation_images_are_those_that_extraction_sees() -> None:
    split = pictures(1)
    tall = replace(SQUARE, height=40, width=24, resize="exact", resize_height=44, resize_width=30)
    image = Image.open(BytesIO(split.contents[0])).resize((30, 44), Image.Resampling.BICUBIC).crop((3, 2, 27, 42))
    values = (np.asarray(image, np.float64) / 255 - tall.mean) / tall.std
    found = rows_of(split, tall)[0, 0]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), values.transpose(2, 0, 1), rtol=0, atol=1e-6)
    blue_first = replace(tall, channels="BGR", mean=tall.mean[::-1], std=tall.std[::-1])
    assert torch.equal(rows_of(split, blue_first)[0, 0], found.flip(0))


def test_augmented_images_are_those_of_timm_with_the_same_seed() -> None:
    split, wide = pictures(3), replace(SQUARE, height=24)
    theirs = create_transform(
        (3, 24, 32),
        is_training=True,
        scale=(0.08, 1.0),
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="random",
        re_prob=1.0,
        re_mode="pixel",
        mean=wide.mean,
        std=wide.std,
    )
    bob = AUGMENTATIONS["bob"]
    assert bob is not None
    ours = rows_of(split, wide, replace(bob, erase=1.0), seed=5)
    for row, content in enumerate(split.contents):
        with seeded_everywhere(5, "augment", 7, split.ids[row]):
            expected = theirs(Image.open(BytesIO(content)))
        torch.testing.assert_close(ours[7, row], expected, rtol=0, atol=1e-5)


def test_randaugment_at_its_strongest_keeps_no_bit_of_some_images() -> None:
    images = rows_of(pictures(1), augmentation=Augmentation(auto_augment="rand-m10-n1-p1-inc1"))
    black = -torch.tensor(SQUARE.mean) / torch.tensor(SQUARE.std)
    found = [epoch for epoch in range(60) if torch.allclose(images[epoch, 0], black.view(3, 1, 1), atol=1e-5)]
    assert 0 < len(found) < 20


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
def test_a_batch_has_the_same_bits_for_any_workers_and_any_order() -> None:
    everything = Augmentation(
        scale=(0.3, 1.0),
        flip=0.5,
        shift=0.2,
        jitter=0.4,
        auto_augment="rand-m9-mstd0.5-inc1",
        erase=1.0,
        interpolation="random",
    )
    images = rows_of(pictures(), augmentation=everything)
    batches = [[(0, 3), (0, 1), (0, 5)], [(0, 0)], [(1, 3), (1, 1)]]
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    alone, beside = list(loaded(images, batches, 0)), list(loaded(images, batches, 2))
    after = random.getstate(), torch.get_rng_state(), np.random.get_state()[1]  # type: ignore[index]  # noqa: NPY002
    assert before[0] == after[0]
    assert torch.equal(before[1], after[1])
    np.testing.assert_array_equal(before[2], after[2])
    assert [rows.tolist() for rows, _ in beside] == [[3, 1, 5], [0], [3, 1]]
    for (_, one), (_, other), batch in zip(alone, beside, batches, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, torch.stack([images[place] for place in reversed(batch)]).flip(0))
    assert not torch.equal(alone[0][1][0], alone[2][1][0])


def test_an_image_moves_by_whole_pixels_onto_the_mean_colour() -> None:
    shifted = rows_of(pictures(1), augmentation=Augmentation(shift=0.25))
    still = rows_of(pictures(1))[0, 0]
    moved = torch.stack([shifted[epoch, 0] for epoch in range(8)])
    border = (moved.abs() < 0.01).all(1)
    for image, empty in zip(moved, border, strict=True):
        top, left = (int(empty.all(1 - side).logical_not().nonzero()[0]) for side in (0, 1))
        kept = image[:, top:, left:][:, : 32 - 8, : 32 - 8]
        places = [(y, x) for y in range(9) for x in range(9) if torch.equal(kept, still[:, y : y + 24, x : x + 24])]
        assert len(places) == 1
    assert 0 < border.float().mean() < 0.5


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named(workers: int) -> None:
    split = pictures(3)
    split.contents = [*split.contents[:2], b"GIF87a"]
    with pytest.raises(DatasetError) as caught:
        list(loaded(rows_of(split), [[(0, 0), (0, 2)]], workers))
    assert str(caught.value) == (
        "pictures/train: an image that is tuned on must be readable; found 'image 2': not a readable image, begins "
        "with b'GIF87a'; mend the file, or extract the set again, which leaves it out"
    )


def test_draws_are_functions_of_seed_purpose_and_numbers() -> None:
    draws = {
        seed_of(seed, purpose, *numbers)
        for seed in (0, 1)
        for purpose in ("order", "augment")
        for numbers in ((), (0,), (1,), (1, 2), (12,), ("12",), (1, "2"))
    }
    assert len(draws) == 28
    assert seed_of(0, "order", np.int64(3)) == seed_of(0, "order", 3)

    def drawn() -> tuple[float, ...]:
        with seeded_everywhere(3, "step", 4):
            return random.random(), np.random.rand(), float(torch.rand(()))  # noqa: NPY002, S311

    first = drawn()
    torch.rand(5)
    assert drawn() == first


@pytest.mark.cuda
def test_draws_on_the_device_are_seeded_and_restored() -> None:
    torch.cuda.manual_seed(0)
    expected = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(0)
    drawn = []
    for _ in range(2):
        with seeded_everywhere(3, "step", 4):
            drawn.append(torch.rand(3, device="cuda"))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(torch.rand(3, device="cuda"), expected)


def test_generators_are_restored_after_an_error() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with pytest.raises(KeyError), seeded_everywhere(3, "step"):
        raise KeyError
    assert torch.equal(torch.rand(3), expected)


def concatenated(parts: Sequence[NDArray[np.int64]]) -> list[int]:
    return [int(row) for part in parts for row in part]


def test_windows_are_the_epochs_order_in_parts() -> None:
    parts = windows(0, 2, 23, 5)
    assert [len(part) for part in parts] == [5, 5, 5, 5, 3]
    assert concatenated(parts) == order(0, 2, 23).tolist()
    assert sorted(concatenated(parts)) == list(range(23))
    assert concatenated(windows(0, 3, 23, 5)) != concatenated(parts) != concatenated(windows(1, 2, 23, 5))


def test_even_windows_leave_another_row_out_each_epoch() -> None:
    left_out = set()
    for epoch in range(8):
        parts = windows(0, epoch, 9, 4, even=True)
        assert [len(part) for part in parts] == [4, 4]
        left_out |= set(range(9)) - set(concatenated(parts))
    assert len(left_out) > 3
    with pytest.raises(ValueError, match="batch_size even, for mixing; found n 9 and batch_size 3"):
        windows(0, 0, 9, 3, even=True)
