"""ImageNet, the sets around it, and iNaturalist, in their official layouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from layout_files import picture, write_json, write_text

__all__ = [
    "IN_A",
    "IN_R",
    "WNIDS",
    "competition",
    "imagenet1k",
    "imagenet200",
    "imagenet_c",
    "imagenet_v2",
    "inat2021",
    "openood_images",
    "openood_list",
    "tiny_imagenet",
    "wordnet_folders",
]

WNIDS = ("n01440764", "n01443537", "n01484850", "n01491361", "n01494475")  # ImageNet-1k's classes 0 to 4
IN_A = ("n01498041", "n01531178")  # classes 6 and 11, which ImageNet-A holds
IN_R = ("n01443537", "n01484850")  # classes 1 and 2, which ImageNet-R holds


def imagenet1k(root: Path) -> None:
    for k, wnid in enumerate(WNIDS):
        for number in (10026, 7, 300):
            picture(root / "train" / wnid / f"{wnid}_{number + k}.JPEG")
        picture(root / "val" / wnid / f"ILSVRC2012_val_{k + 1:08d}.JPEG")
    write_text(root / "imagenet_subsets" / "1percent.txt", f"{WNIDS[3]}_10029.JPEG", f"{WNIDS[0]}_7.JPEG")
    write_text(root / "imagenet_subsets" / "10percent.txt", *(f"{w}_{300 + k}.JPEG" for k, w in enumerate(WNIDS)))


def imagenet_v2(root: Path) -> None:
    for part in ("matched-frequency", "threshold0.7", "top-images"):
        for number in (0, 1, 2, 10, 100, 999):
            picture(root / f"imagenetv2-{part}-format-val" / str(number) / f"{part}-{number}.jpeg")


def wordnet_folders(folder: str, ids: Sequence[str], suffix: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for wnid in ids:
            for k in range(2):
                picture(root / folder / wnid / f"{wnid}-{k}{suffix}")
        write_text(root / folder / "README.txt", "no image")

    return write


def imagenet_c(root: Path) -> None:
    for severity in (1, 3):
        wordnet_folders(f"fog/{severity}", WNIDS[:2], ".JPEG")(root)


def openood_images(root: Path) -> None:
    from featurebank.extract.datasets.loaders.openood import _shipped

    names = json.loads(_shipped("test_openimage_o.json").read_text())[:3]
    for name in names:
        picture(root / "images_largescale" / "openimage_o" / "images" / name)


def imagenet200(root: Path) -> None:
    from featurebank.extract.datasets.loaders.openood import _shipped

    for line in _shipped("imagenet200_test.txt").read_text().splitlines()[::3000]:
        picture(root / "images_largescale" / "imagenet_1k" / "val" / line.split()[0])


def openood_list(list_name: str, images: str, files: Mapping[str, int]) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for name in files:
            picture(root / images / name)
        write_text(root / "benchmark_imglist" / list_name, *(f"{name} {label}" for name, label in files.items()))

    return write


def tiny_imagenet(root: Path) -> None:
    top, ids = root / "tiny-imagenet-200", ("n02124075", "n01443537")
    write_text(top / "wnids.txt", *ids)
    write_text(top / "words.txt", "n01443537\tgoldfish, Carassius auratus", "n02124075\tEgyptian cat", "n1\tentity")
    for wnid in ids:
        for k in range(2):
            picture(top / "train" / wnid / "images" / f"{wnid}_{k}.JPEG")
        write_text(top / "train" / wnid / f"{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t0\t7\t5")
    for k, wnid in enumerate((*ids, ids[1])):
        picture(top / "val" / "images" / f"val_{k}.JPEG")
        with (top / "val" / "val_annotations.txt").open("a") as file:
            file.write(f"val_{k}.JPEG\t{wnid}\t0\t0\t7\t5\n")
    picture(top / "test" / "images" / "test_0.JPEG")


def competition(year: int, folder: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        kinds = [
            {"id": k, "name": name, "supercategory": "Plants"} for k, name in ((1, "Rosa"), (0, "Alba"), (2, "Ilex"))
        ]
        for split, numbers in (("train", (7, 3, 5, 1)), ("val", (8, 2)), ("test", (9,))):
            part = folder if split != "test" else f"test{year}"
            images = [{"id": k, "file_name": f"{part}/Plants/{k % 3}/{k}.jpg"} for k in numbers]
            for image in images:
                picture(root / str(image["file_name"]))
            notes = [{"id": k + 100, "image_id": k, "category_id": k % 3} for k in numbers]
            value = {"images": images, "categories": kinds} | ({} if split == "test" else {"annotations": notes})
            write_json(root / f"{split}{year}.json", value)

    return write


def inat2021(root: Path) -> None:
    names = ("00000_Animalia_Annelida", "00001_Animalia_Arthropoda", "00002_Plantae_Rosa")
    for split in ("train", "train_mini", "val"):
        for name in names:
            picture(root / split / name / f"{split}-{name}.jpg")
    picture(root / "public_test" / "a.jpg")
