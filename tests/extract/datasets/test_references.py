"""Loaders against the readers that others wrote for the same files: torchvision's and pytorch-ood's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets as tv  # type: ignore[import-untyped]
from official_layouts import LAYOUTS
from PIL import Image

from featurebank.extract.datasets import DatasetSpec, Split, open_split

Make = Callable[[str], Any]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def of_flowers(root: Path, patch: pytest.MonkeyPatch) -> Make:
    (root.parent / "flowers-102").symlink_to(root)
    for key, name in (("label", "imagelabels.mat"), ("setid", "setid.mat")):
        patch.setitem(tv.Flowers102._file_dict, key, (name, md5(root / name)))
    return lambda split: tv.Flowers102(root.parent, split)


def of_cifar10(root: Path, patch: pytest.MonkeyPatch) -> Make:
    top = root / "cifar-10-batches-py"
    patch.setattr(tv.CIFAR10, "train_list", [[f"data_batch_{k}", md5(top / f"data_batch_{k}")] for k in range(1, 6)])
    patch.setattr(tv.CIFAR10, "test_list", [["test_batch", md5(top / "test_batch")]])
    patch.setitem(tv.CIFAR10.meta, "md5", md5(top / "batches.meta"))
    return lambda split: tv.CIFAR10(root, train=split == "train")


def of_cifar100(root: Path, patch: pytest.MonkeyPatch) -> Make:
    top = root / "cifar-100-python"
    for split in ("train", "test"):
        patch.setattr(tv.CIFAR100, f"{split}_list", [[split, md5(top / split)]])
    patch.setitem(tv.CIFAR100.meta, "md5", md5(top / "meta"))
    return lambda split: tv.CIFAR100(root, train=split == "train")


def beneath(
    folder: str, make: Callable[[Path, str], Any], part: str = "."
) -> Callable[[Path, pytest.MonkeyPatch], Make]:
    """For readers that expect the official files, or a part of them, below a folder of their own."""

    def prepare(root: Path, patch: pytest.MonkeyPatch) -> Make:  # noqa: ARG001 (what the others need)
        place = root.parent / "reference"
        (place / folder).parent.mkdir(parents=True, exist_ok=True)
        (place / folder).symlink_to(root / part)
        return lambda split: make(place, split)

    return prepare


REFERENCES = {
    "aircraft": (
        ("train", "val", "trainval", "test"),
        beneath("fgvc-aircraft-2013b", tv.FGVCAircraft, "fgvc-aircraft-2013b"),
    ),
    "cifar10": (("train", "test"), of_cifar10),
    "cifar100": (("train", "test"), of_cifar100),
    "dtd": (("train", "val", "test"), beneath("dtd", tv.DTD)),
    "flowers102": (("train", "val", "test"), of_flowers),
    "food101": (("train", "test"), beneath("food-101", tv.Food101, "food-101")),
    "oxford_pets": (
        ("trainval", "test"),
        beneath("oxford-iiit-pet", tv.OxfordIIITPet),
    ),
    "stanford_cars": (("train", "test"), beneath("stanford_cars", tv.StanfordCars)),
}


def pixels(content: Any) -> np.ndarray[Any, Any]:
    from io import BytesIO

    return np.asarray(Image.open(BytesIO(content)).convert("RGB") if isinstance(content, bytes) else content)


@pytest.mark.parametrize("name", REFERENCES)
def test_torchvision_finds_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS[name](tmp_path / name)
    splits, prepare = REFERENCES[name]
    make = prepare(tmp_path / name, monkeypatch)
    for split in splits:
        found: Split = open_split(DatasetSpec(name=f"{name}@partial", split=split, root=tmp_path / name))
        reference = make(split)
        assert len(found) == len(reference) > 0
        for row in range(len(found)):
            image, label = reference[row]
            assert label == found.labels[row]
            assert np.array_equal(pixels(found.read(row)), np.asarray(image.convert("RGB")))
        if name not in {"flowers102", "oxford_pets"}:
            assert list(found.class_names) == list(reference.classes)


def test_pytorch_ood_reads_the_same_list(tmp_path: Path) -> None:
    reference = pytest.importorskip("pytorch_ood.dataset.img").ImageListDataset
    LAYOUTS["openood_imagenet1k"](tmp_path)
    lines = reference(
        str(tmp_path / "images_largescale"), str(tmp_path / "benchmark_imglist" / "imagenet" / "test_imagenet.txt")
    )
    found = open_split(DatasetSpec(name="openood_imagenet1k@partial", split="test", root=tmp_path))
    assert found.labels.tolist() == lines.labels
    assert [str(tmp_path / name) for name in found.ids] == lines.files
