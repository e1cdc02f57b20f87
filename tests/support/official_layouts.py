"""Datasets in their official layouts, a few tiny images each: what the loaders of the zoo are tested on."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from layout_files import class_folders, picture, structs, write_json, write_mat, write_text
from layouts_annotated import (
    breakhis,
    chexpert,
    cityscapes,
    coco,
    copydays,
    gldv2,
    in_shop,
    instre,
    objectnet,
    online_products,
    revisited,
    rsna_pneumonia,
    sim10k,
    visda2017,
    voc2007,
    voc_detection,
)
from layouts_imagenet import (
    IN_A,
    IN_R,
    WNIDS,
    competition,
    imagenet1k,
    imagenet200,
    imagenet_c,
    imagenet_v2,
    inat2021,
    openood_images,
    openood_list,
    tiny_imagenet,
    wordnet_folders,
)

__all__ = ["LAYOUTS"]


def nabirds(root: Path) -> None:
    top, images = root / "nabirds", {"0001-a": "0817/a", "0002-b": "0295/b", "0003-c": "0817/c"}
    for name in images.values():
        picture(top / "images" / f"{name}.jpg")
    write_text(top / "images.txt", *(f"{k} {name}.jpg" for k, name in images.items()))
    write_text(top / "image_class_labels.txt", *(f"{k} {int(name[:4])}" for k, name in images.items()))
    write_text(top / "train_test_split.txt", "0001-a 1", "0002-b 1", "0003-c 0")
    write_text(top / "classes.txt", "0 Birds", "295 Common Eider", "817 Bobolink (Adult Male)")


def cub200(root: Path) -> None:
    top = root / "CUB_200_2011"
    names = [
        "001.Black_footed_Albatross/B_1",
        "001.Black_footed_Albatross/B_2",
        "002.Laysan/L_1",
        "101.White_Pelican/W_1",
    ]
    labels = [1, 1, 2, 101]
    for name in names:
        picture(top / "images" / f"{name}.jpg")
    write_text(top / "images.txt", *(f"{k} {name}.jpg" for k, name in enumerate(names, 1)))
    write_text(top / "image_class_labels.txt", *(f"{k} {label}" for k, label in enumerate(labels, 1)))
    write_text(top / "train_test_split.txt", "1 0", "2 1", "3 1", "4 0")
    write_text(top / "classes.txt", *(f"{k} {k:03d}.Bird" for k in range(1, 201)))
    write_text(top / "bounding_boxes.txt", *(f"{k} 60.0 27.0 325.5 304.0" for k in range(1, 5)))


def stanford_dogs(root: Path) -> None:
    names = ["n02085620-Chihuahua/a", "n02085620-Chihuahua/b", "n02085782-Japanese_spaniel/c"]
    for name in names:
        picture(root / "Images" / f"{name}.jpg")
    for split, rows in (("train", (0, 2)), ("test", (1,))):
        cells = np.array([[f"{names[k]}.jpg"] for k in rows], dtype=object)
        labels = np.array([[1 if "Chi" in names[k] else 2] for k in rows])
        write_mat(root / f"{split}_list.mat", file_list=cells, labels=labels)


def oxford_pets(root: Path) -> None:
    rows = {
        "trainval": ("Abyssinian_100 1 1 1", "american_bulldog_1 2 2 1", "Abyssinian_7 1 1 1"),
        "test": ("Birman_2 3 1 3",),
    }
    for split, lines in rows.items():
        write_text(root / "annotations" / f"{split}.txt", *lines)
        for line in lines:
            picture(root / "images" / f"{line.split()[0]}.jpg")
    write_text(root / "annotations" / "list.txt", "#Image CLASS-ID SPECIES BREED ID", *rows["trainval"])


def flowers102(root: Path) -> None:
    for k in range(1, 10):
        picture(root / "jpg" / f"image_{k:05d}.jpg")
    write_mat(root / "imagelabels.mat", labels=np.array([[77, 77, 1, 102, 102, 5, 5, 1, 5]], np.uint8))
    numbers = {"trnid": [[3, 6]], "valid": [[7, 9]], "tstid": [[8, 1, 2, 4, 5]]}
    write_mat(root / "setid.mat", **{name: np.array(value, np.uint16) for name, value in numbers.items()})


def cifar_batch(path: Path, n: int, seed: int, **lists: Sequence[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).integers(0, 256, (n, 3072), dtype=np.uint8)
    path.write_bytes(pickle.dumps({"data": data, **lists}, protocol=2))


def cifar10(root: Path) -> None:
    top = root / "cifar-10-batches-py"
    for k in range(1, 6):
        cifar_batch(top / f"data_batch_{k}", 2, k, labels=[k, 9])
    cifar_batch(top / "test_batch", 3, 9, labels=[3, 8, 0])
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (top / "batches.meta").write_bytes(pickle.dumps({"label_names": names, "num_vis": 3072}, protocol=2))


def cifar100(root: Path) -> None:
    top = root / "cifar-100-python"
    cifar_batch(top / "train", 4, 0, fine_labels=[19, 29, 0, 11], coarse_labels=[11, 15, 4, 14])
    cifar_batch(top / "test", 2, 1, fine_labels=[49, 33], coarse_labels=[10, 10])
    names = {"fine_label_names": [f"fine {k}" for k in range(100)], "coarse_label_names": [f"c {k}" for k in range(20)]}
    (top / "meta").write_bytes(pickle.dumps(names, protocol=2))


def aircraft(root: Path) -> None:
    top = root / "fgvc-aircraft-2013b" / "data"
    write_text(top / "variants.txt", "707-320", "727-200", "A300B4")
    write_text(top / "families.txt", "A300", "Boeing 707", "Boeing 727")
    write_text(top / "manufacturers.txt", "Airbus", "Boeing")
    kinds = {"707-320": ("Boeing 707", "Boeing"), "727-200": ("Boeing 727", "Boeing"), "A300B4": ("A300", "Airbus")}
    rows = {
        "train": [("0034309", "707-320"), ("0034958", "A300B4")],
        "val": [("0037511", "727-200")],
        "test": [("0062765", "727-200"), ("0062766", "A300B4"), ("0100500", "707-320")],
    }
    rows["trainval"] = rows["train"] + rows["val"]
    for split, pairs in rows.items():
        for number, variant in pairs:
            picture(top / "images" / f"{number}.jpg")
            for level, name in (
                ("variant", variant),
                ("family", kinds[variant][0]),
                ("manufacturer", kinds[variant][1]),
            ):
                with (top / f"images_{level}_{split}.txt").open("a") as file:
                    file.write(f"{number} {name}\n")


def stanford_cars(root: Path) -> None:
    names = np.array([["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012"]], dtype=object)
    write_mat(root / "devkit" / "cars_meta.mat", class_names=names)
    for split, classes in (("train", (3, 1)), ("test", (2, 2))):
        rows = [
            {"bbox_x1": 1, "bbox_y1": 2, "bbox_x2": 7, "bbox_y2": 5, "class": kind, "fname": f"{k:05d}.jpg"}
            for k, kind in enumerate(classes, 1)
        ]
        for row in rows:
            picture(root / f"cars_{split}" / str(row["fname"]))
        file = "devkit/cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
        write_mat(root / file, annotations=structs(rows))


def food101(root: Path) -> None:
    top = root / "food-101"
    write_text(top / "meta" / "classes.txt", "apple_pie", "baby_back_ribs")
    rows = {
        "train": ("apple_pie/1005649", "baby_back_ribs/1005293"),
        "test": ("apple_pie/1011328", "baby_back_ribs/1011328"),
    }
    for split, lines in rows.items():
        write_text(top / "meta" / f"{split}.txt", *lines)
        write_json(top / "meta" / f"{split}.json", {line.partition("/")[0]: [line] for line in lines})
        for line in lines:
            picture(top / "images" / f"{line}.jpg")


def dtd(root: Path) -> None:
    names = [f"{kind}/{kind}_{k:04d}.jpg" for kind in ("banded", "zigzagged") for k in (2, 4, 9)]
    for name in names:
        picture(root / "dtd" / "images" / name)
    for partition in range(1, 11):
        for k, split in enumerate(("train", "val", "test")):
            shift = (k + partition) % 3
            write_text(root / "dtd" / "labels" / f"{split}{partition}.txt", names[shift], names[3 + shift])


def sun397(root: Path) -> None:
    write_text(root / "SUN397" / "ClassName.txt", "/a/abbey", "/a/airport_terminal", "/a/apartment_building/outdoor")
    rows = ["/a/abbey/sun_aaa.jpg", "/a/airport_terminal/sun_b.jpg", "/a/apartment_building/outdoor/sun_c.jpg"]
    for row in rows:
        picture(root / "SUN397" / row[1:])
    write_text(root / "Partitions" / "Training_01.txt", rows[2], rows[0])
    write_text(root / "Partitions" / "Testing_01.txt", rows[1])
    write_text(root / "Partitions" / "Training_10.txt", rows[1])


def galaxy10(root: Path) -> None:
    import h5py  # type: ignore[import-untyped]

    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / "Galaxy10_DECals.h5", "w") as file:
        pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
        file.create_dataset("images", data=pixels, compression="gzip")
        file["ans"] = np.array([0, 3, 9, 3, 1], np.uint8)


def mnist(root: Path) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 12), ("t10k", 7)):
        pixels = np.random.default_rng(n).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 2051, n, 28, 28) + pixels.tobytes())
        labels = (np.arange(n, dtype=np.uint8) * 3) % 10
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, n) + labels.tobytes())


LAYOUTS: Mapping[str, Callable[[Path], None]] = {
    "aircraft": aircraft,
    "breakhis": breakhis,
    "caltech101": class_folders(
        "101_ObjectCategories",
        "BACKGROUND_Google/image_0001.jpg",
        "ant/image_0001.jpg",
        "accordion/image_0002.jpg",
        "ant/image_0002.jpg",
    ),
    "chexpert": chexpert,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "cityscapes": cityscapes,
    "coco": coco,
    "copydays": copydays,
    "country211": class_folders(
        "country211", *(f"{s}/{c}/{s}.jpg" for s in ("train", "valid", "test") for c in ("AD", "CH"))
    ),
    "cub200": cub200,
    "dtd": dtd,
    "eurosat": class_folders(
        "2750", "Forest/Forest_1.jpg", "AnnualCrop/AnnualCrop_10.jpg", "AnnualCrop/AnnualCrop_2.jpg"
    ),
    "flowers102": flowers102,
    "food101": food101,
    "galaxy10": galaxy10,
    "gldv2": gldv2,
    "imagenet1k": imagenet1k,
    "imagenet200": imagenet200,
    "imagenet_a": wordnet_folders("imagenet-a", IN_A, ".jpg"),
    "imagenet_c": imagenet_c,
    "imagenet_o": wordnet_folders("imagenet-o", WNIDS[:2], ".jpg"),
    "imagenet_r": wordnet_folders("imagenet-r", IN_R, ".jpg"),
    "imagenet_sketch": wordnet_folders("sketch", WNIDS[3:], ".JPEG"),
    "imagenet_v2": imagenet_v2,
    "in_shop": in_shop,
    "inat2017": competition(2017, "train_val_images"),
    "inat2018": competition(2018, "train_val2018"),
    "inat2019": competition(2019, "train_val2019"),
    "inat2021": inat2021,
    "inaturalist_ood": openood_list(
        "imagenet/test_inaturalist.txt",
        "images_largescale",
        {"inaturalist/images/0.jpg": -1, "inaturalist/images/1.jpg": -1},
    ),
    "instre": instre,
    "mnist": mnist,
    "nabirds": nabirds,
    "ninco": openood_list("imagenet/test_ninco.txt", "images_largescale", {"ninco/amphiuma means/a.jpeg": -1}),
    "objectnet": objectnet,
    "openimage_o": openood_images,
    "openood_imagenet1k": openood_list(
        "imagenet/test_imagenet.txt",
        "images_largescale",
        {"imagenet_1k/val/ILSVRC2012_val_00000001.JPEG": 65, "imagenet_1k/val/ILSVRC2012_val_00000002.JPEG": 970},
    ),
    "oxford_pets": oxford_pets,
    "places365_ood": openood_list("cifar10/test_places365.txt", "images_classic", {"places365/airfield/1.jpg": -1}),
    "plantclef20": class_folders("", "train/Acer/1.jpg", "train/Betula/2.jpg", "test/Betula/3.jpg", "test/Acer/4.jpg"),
    "plantvillage": class_folders(
        "Plant_leave_diseases_dataset_without_augmentation",
        "Apple___healthy/image (1).JPG",
        "Background_without_leaves/image (1).jpg",
    ),
    "rendered_sst2": class_folders(
        "rendered-sst2", *(f"{s}/{c}/{s}.png" for s in ("train", "valid", "test") for c in ("negative", "positive"))
    ),
    "resisc45": class_folders("NWPU-RESISC45", "airport/airport_001.jpg", "airplane/airplane_001.jpg"),
    "roxford5k": revisited("roxford5k"),
    "rparis6k": revisited("rparis6k", protocol=4),
    "rsna_pneumonia": rsna_pneumonia,
    "sim10k": sim10k,
    "ssb_hard": openood_list(
        "imagenet/test_ssb_hard.txt", "images_largescale", {"ssb_hard/n00005787/n00005787_13.JPEG": -1}
    ),
    "stanford_cars": stanford_cars,
    "stanford_dogs": stanford_dogs,
    "stanford_online_products": online_products,
    "sun397": sun397,
    "textures_ood": openood_list(
        "imagenet/test_textures.txt", "images_classic", {"texture/banded/banded_0002.jpg": -1}
    ),
    "tiny_imagenet": tiny_imagenet,
    "tiny_imagenet_ood": openood_list("cifar10/test_tin.txt", "images_classic", {"tin/val/n01443537/val_0.JPEG": -1}),
    "uc_merced": class_folders("UCMerced_LandUse/Images", "agricultural/agricultural00.tif", "airplane/airplane00.tif"),
    "visda2017": visda2017,
    "voc2007": voc2007,
    "voc2007_detection": voc_detection("2007"),
    "voc2012_detection": voc_detection("2012"),
}
