"""Every kind of dataset, written in torchvision's own layout, against torchvision's own loader."""

from __future__ import annotations

import csv
import hashlib
import json
import pickle
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets as tv  # type: ignore[import-untyped]
from PIL import Image

from featurebank.extract.datasets import DatasetSpec, Subset, dataset_digest, names, open_split, splits
from featurebank.extract.datasets._records import ArraySplit, FileSplit, ReaderSplit
from featurebank.extract.datasets._torchvision import ARGUMENTS, NOT_CLASSIFICATION
from featurebank.extract.errors import AssetError
from featurebank.store.errors import UnknownNameError

Draw = Callable[..., Path]
Write = Callable[[Path, Draw, pytest.MonkeyPatch], None]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def write_mnist(name: str) -> Write:
    def write(root: Path, draw: Draw, patch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
        generator = np.random.default_rng(0)
        raw = root / name / "raw"
        raw.mkdir(parents=True)
        for part, n in (("train", 12), ("t10k", 7)):
            pixels = generator.integers(0, 256, (n, 28, 28), dtype=np.uint8)
            (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 2051, n, 28, 28) + pixels.tobytes())
            labels = (np.arange(n, dtype=np.uint8) * 3) % 10
            (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, n) + labels.tobytes())

    return write


def write_cifar10(root: Path, draw: Draw, patch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)

    def batch(name: str) -> list[str]:
        data = generator.integers(0, 256, (4, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": [1, 0, 9, 3]}))
        return [name, md5(folder / name)]

    patch.setattr(tv.CIFAR10, "train_list", [batch(f"data_batch_{k}") for k in range(1, 6)])
    patch.setattr(tv.CIFAR10, "test_list", [batch("test_batch")])
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {k}" for k in range(10)]}))
    patch.setitem(tv.CIFAR10.meta, "md5", md5(folder / "batches.meta"))


def write_svhn(root: Path, draw: Draw, patch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    from scipy.io import savemat  # type: ignore[import-untyped]

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 5), dtype=np.uint8)
    root.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test", "extra"):
        path = root / f"{split}_32x32.mat"
        savemat(path, {"X": pixels, "y": np.array([[1], [10], [3], [9], [2]])})
        patch.setitem(tv.SVHN.split_list, split, ["", path.name, md5(path)])


def write_fer2013(root: Path, draw: Draw, patch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    generator = np.random.default_rng(0)
    folder = root / "fer2013"
    folder.mkdir(parents=True)
    for name, head in (("train", ["emotion", "pixels"]), ("test", ["pixels"])):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(head)
            for k in range(4):
                pixels = " ".join(map(str, generator.integers(0, 256, 48 * 48)))
                writer.writerow([k, pixels] if name == "train" else [pixels])
        patch.setitem(tv.FER2013._RESOURCES, name, (f"{name}.csv", md5(folder / f"{name}.csv")))


def write_images(*paths: str, texts: dict[str, str] | None = None) -> Write:
    def write(root: Path, draw: Draw, patch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
        for number, path in enumerate(paths):
            draw(root / path, number)
        for path, content in (texts or {}).items():
            text(root / path, content)

    return write


def write_flowers(root: Path, draw: Draw, patch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    folder = root / "flowers-102"
    for number in range(1, 7):
        draw(folder / f"jpg/image_{number:05d}.jpg", number)
    savemat(folder / "imagelabels.mat", {"labels": np.array([[3, 1, 2, 1, 2, 3]])})
    savemat(folder / "setid.mat", {"trnid": [[2, 1]], "valid": [[4, 3]], "tstid": [[6, 5]]})
    patch.setattr(tv.Flowers102, "_check_integrity", lambda self: True)  # noqa: ARG005


def write_celeba(root: Path, draw: Draw, patch: pytest.MonkeyPatch) -> None:
    files = [f"{k:06d}.jpg" for k in range(1, 7)]  # two a split: torchvision cannot read one
    for k, name in enumerate(files):
        draw(root / "celeba/img_align_celeba" / name, k)
    text(root / "celeba/list_eval_partition.txt", "".join(f"{f} {k % 3}\n" for k, f in enumerate(files)))
    text(root / "celeba/identity_CelebA.txt", "".join(f"{f} {k}\n" for k, f in enumerate(files)))
    for name, head in (("bbox_celeba", "x y"), ("landmarks_align_celeba", "x y"), ("attr_celeba", "Bald Young")):
        rows = "".join(f"{f} {1 - 2 * (k % 2)} {-1 if k < 2 else 1}\n" for k, f in enumerate(files))
        text(root / f"celeba/list_{name}.txt", f"6\n{head}\n{rows}")
    patch.setattr(tv.CelebA, "_check_integrity", lambda self: True)  # noqa: ARG005


def write_omniglot(root: Path, draw: Draw, patch: pytest.MonkeyPatch) -> None:
    for part in ("background", "evaluation"):
        for k, name in enumerate(["Z/character02/2.png", "Z/character01/1.png", "A/character01/9.png"]):
            path = draw(root / f"omniglot-py/images_{part}/{name}", k)
            Image.open(path).convert("1").save(path)
    patch.setattr(tv.Omniglot, "_check_integrity", lambda self: True)  # noqa: ARG005


PETS = "Abyssinian_1 1 1 1\nbeagle_1 2 2 1\n"
SPECIES = ["00000_A_b_c_d_e_f_g", "00001_A_b_c_d_e_f_h"]

FILES, ARRAY, ITEMS = FileSplit, ArraySplit, ReaderSplit
LAYOUTS: dict[str, tuple[type, Write]] = {
    "MNIST": (ARRAY, write_mnist("MNIST")),
    "FashionMNIST": (ARRAY, write_mnist("FashionMNIST")),
    "KMNIST": (ARRAY, write_mnist("KMNIST")),
    "CIFAR10": (ARRAY, write_cifar10),
    "SVHN": (ARRAY, write_svhn),
    "FER2013": (ITEMS, write_fer2013),
    "Flowers102": (FILES, write_flowers),
    "CelebA": (FILES, write_celeba),
    "Omniglot": (FILES, write_omniglot),
    "EuroSAT": (FILES, write_images(*(f"eurosat/2750/{c}/{c}_{k}.jpg" for c in ("River", "Forest") for k in (1, 2)))),
    "Country211": (
        FILES,
        write_images(*(f"country211/{s}/{c}/{s}.jpg" for s in ("train", "valid", "test") for c in ("AD", "CH"))),
    ),
    "RenderedSST2": (
        FILES,
        write_images(
            *(f"rendered-sst2/{s}/{c}/{s}.png" for s in ("train", "valid", "test") for c in ("negative", "positive"))
        ),
    ),
    "DTD": (
        FILES,
        write_images(
            *(f"dtd/dtd/images/{c}/{c}_{k}.jpg" for c in ("woven", "dotted") for k in range(3)),
            texts={
                f"dtd/dtd/labels/{s}1.txt": f"woven/woven_{k}.jpg\ndotted/dotted_{k}.jpg\n"
                for k, s in enumerate(("train", "val", "test"))
            },
        ),
    ),
    "FGVCAircraft": (
        FILES,
        write_images(
            *(f"fgvc-aircraft-2013b/data/images/{k:07d}.jpg" for k in range(3)),
            texts={"fgvc-aircraft-2013b/data/variants.txt": "707-320\nA 380\n"}
            | {
                f"fgvc-aircraft-2013b/data/images_variant_{s}.txt": "0000002 707-320\n0000000 A 380\n"
                for s in ("train", "val", "trainval", "test")
            },
        ),
    ),
    "OxfordIIITPet": (
        FILES,
        write_images(
            "oxford-iiit-pet/images/Abyssinian_1.jpg",
            "oxford-iiit-pet/images/beagle_1.jpg",
            texts={f"oxford-iiit-pet/annotations/{s}.txt": PETS for s in ("trainval", "test")},
        ),
    ),
    "Food101": (
        FILES,
        write_images(
            *(f"food-101/images/{c}/{k}.jpg" for c in ("waffles", "pizza") for k in range(2)),
            texts={
                f"food-101/meta/{s}.json": json.dumps({"waffles": ["waffles/1"], "pizza": ["pizza/0", "pizza/1"]})
                for s in ("train", "test")
            },
        ),
    ),
    "GTSRB": (
        FILES,
        write_images(
            *(f"gtsrb/GTSRB/Training/{c}/a.ppm" for c in ("00000", "00001")),
            *(f"gtsrb/GTSRB/Final_Test/Images/{k}.ppm" for k in range(2)),
            texts={"gtsrb/GT-final_test.csv": "Filename;ClassId\n1.ppm;7\n0.ppm;2\n"},
        ),
    ),
    "Caltech101": (
        FILES,
        write_images(
            *(f"caltech101/101_ObjectCategories/{c}/image_{k:04d}.jpg" for c in ("ant", "yin") for k in (1, 2)),
            "caltech101/101_ObjectCategories/BACKGROUND_Google/image_0001.jpg",
            texts={f"caltech101/Annotations/{c}/x.mat": "" for c in ("ant", "yin")},
        ),
    ),
    "Caltech256": (
        FILES,
        write_images(
            *(
                f"caltech256/256_ObjectCategories/{c}/{c[:3]}_{k:04d}.jpg"
                for c in ("001.ak47", "002.bat")
                for k in (1, 2)
            )
        ),
    ),
    "SUN397": (
        FILES,
        write_images(
            *(f"SUN397/{c}/sun_{k}.jpg" for c in ("z/zoo", "a/abbey") for k in "ba"),
            texts={"SUN397/ClassName.txt": "/a/abbey\n/z/zoo\n"},
        ),
    ),
    "INaturalist": (
        FILES,
        write_images(*(f"{v}/{s}/{k}.jpg" for v in ("2021_train", "2021_valid") for s in SPECIES for k in "ba")),
    ),
}
ORDERED_BY_US = {"Omniglot", "SUN397", "INaturalist"}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest, tmp_path: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    LAYOUTS[name][1](tmp_path, draw, monkeypatch)
    return name


def rgb(data: Any) -> np.ndarray:
    image = Image.open(BytesIO(data)) if isinstance(data, bytes) else Image.fromarray(data)
    return np.asarray(image.convert("RGB"))


def test_equals_torchvision(layout: str, tmp_path: Path) -> None:
    kind = LAYOUTS[layout][0]
    name = f"torchvision:{layout}"
    known = ["2021_train", "2021_valid"] if layout == "INaturalist" else splits(name)
    for split in known:
        ours = open_split(DatasetSpec(name=name, split=split, root=tmp_path))
        theirs = getattr(tv, layout)(str(tmp_path), **ARGUMENTS[layout][split])
        assert type(ours) is kind
        assert len(ours) == len(theirs) > 0
        read = [(rgb(ours.read(k)), ours.labels[k]) for k in range(len(ours))]
        want = [(np.asarray(image.convert("RGB")), label) for image, label in theirs]
        if layout in ORDERED_BY_US:
            assert list(ours.ids) == sorted(ours.ids)
            read, want = (sorted(records, key=lambda record: record[0].tobytes()) for records in (read, want))
        for (pixels, label), (image, target) in zip(read, want, strict=True):
            np.testing.assert_array_equal(pixels, image)
            if layout != "Omniglot":
                np.testing.assert_array_equal(label, -1 if target is None else np.asarray(target))
        assert all(not name.startswith("/") for name in ours.ids)
        assert ours.content_hashes().any(axis=1).all()


def test_class_names_fit_the_labels(layout: str, tmp_path: Path) -> None:
    expected = {
        "MNIST": "0 - zero", "FashionMNIST": "T-shirt/top", "KMNIST": "o", "CIFAR10": "class 0", "SVHN": None,
        "FER2013": None, "Flowers102": None, "CelebA": "Bald", "Omniglot": "A/character01", "EuroSAT": "Forest",
        "Country211": "AD", "RenderedSST2": "negative", "DTD": "dotted", "FGVCAircraft": "707-320",
        "OxfordIIITPet": "Abyssinian", "Food101": "pizza", "GTSRB": None, "Caltech101": "ant", "Caltech256": "001.ak47",
        "SUN397": "abbey", "INaturalist": SPECIES[0],
    }  # fmt: skip
    split = "2021_train" if layout == "INaturalist" else splits(f"torchvision:{layout}")[0]
    ours = open_split(DatasetSpec(name=f"torchvision:{layout}", split=split, root=tmp_path))
    if layout == "Flowers102" and ours.class_names:
        assert len(ours.class_names) == 102
    else:
        assert next(iter(ours.class_names), None) == expected[layout]


@pytest.mark.parametrize("name", ["EuroSAT", "CIFAR10", "FER2013"])
def test_subset_and_pickle(name: str, tmp_path: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS[name][1](tmp_path, draw, monkeypatch)
    split = splits(f"torchvision:{name}")[0]
    spec = DatasetSpec(name=f"torchvision:{name}", split=split, root=tmp_path, subset=Subset(size=3))
    ours = open_split(spec)
    assert len(ours) == 3
    again = pickle.loads(pickle.dumps(ours))  # noqa: S301
    assert dataset_digest(again) == dataset_digest(ours)
    assert len(pickle.dumps(ours)) < 4000
    whole = open_split(DatasetSpec(name=spec.name, split=split, root=tmp_path))
    rows = [list(whole.ids).index(record) for record in ours.ids]
    np.testing.assert_array_equal(ours.content_hashes(), whole.content_hashes()[rows])


def test_every_dataset_of_torchvision_is_known() -> None:
    public = {name for name in tv.__all__ if isinstance(getattr(tv, name), type)}
    assert public == set(ARGUMENTS) | NOT_CLASSIFICATION
    assert not set(ARGUMENTS) & NOT_CLASSIFICATION
    assert "torchvision:CIFAR10" in names()


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_the_splits_are_those_that_torchvision_accepts(name: str, tmp_path: Path) -> None:
    """torchvision names the values it accepts when it is given another; every one of ours must be among them."""
    for arguments in ARGUMENTS[name].values():
        options = {"download": False} if name == "SEMEION" else {}
        with pytest.raises(Exception) as caught:  # noqa: PT011 (whatever a loader says without its files)
            getattr(tv, name)(str(tmp_path), **arguments, **options)
        assert "Unknown value" not in str(caught.value)
        assert not isinstance(caught.value, TypeError)


def test_missing_files_offline(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"CIFAR10: expected its files under .*FEATUREBANK_OFFLINE.*put torchvision's"):
        open_split(DatasetSpec(name="torchvision:CIFAR10", split="test", root=tmp_path))
    with pytest.raises(AssetError, match="torchvision cannot download it"):
        open_split(DatasetSpec(name="torchvision:ImageNet", split="val", root=tmp_path))


def test_missing_files_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATUREBANK_OFFLINE", "0")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(tv.CIFAR10, "download", lambda self: pytest.fail("must not be tried"))  # noqa: ARG005
    with pytest.raises(AssetError, match=r"cifar-10-python\.tar\.gz cannot be reached"):
        open_split(DatasetSpec(name="torchvision:CIFAR10", split="test", root=tmp_path))


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'torchvision:CIFAR10'"):
        open_split(DatasetSpec(name="torchvision:CIFAR", split="test"))
    with pytest.raises(UnknownNameError, match="unknown dataset 'torchvision:Kinetics'"):
        splits("torchvision:Kinetics")
    with pytest.raises(UnknownNameError, match="did you mean 'test'"):
        open_split(DatasetSpec(name="torchvision:CIFAR10", split="tets", root=tmp_path))
