"""Sets with findings, boxes, queries and instances, in their official layouts."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
from layout_files import picture, write_csv, write_json, write_text
from PIL import Image

__all__ = [
    "breakhis",
    "chexpert",
    "cityscapes",
    "coco",
    "copydays",
    "gldv2",
    "in_shop",
    "instre",
    "objectnet",
    "online_products",
    "revisited",
    "rsna_pneumonia",
    "sim10k",
    "visda2017",
    "voc2007",
    "voc_detection",
    "voc_xml",
]


def breakhis(root: Path) -> None:
    top = root / "BreaKHis_v1" / "histology_slides" / "breast"
    for tumour, letter, kind, short, slide in (
        ("benign", "B", "adenosis", "A", "14-22549AB"),
        ("benign", "B", "fibroadenoma", "F", "14-9133"),
        ("malignant", "M", "ductal_carcinoma", "DC", "14-2523"),
    ):
        for zoom in ("40X", "400X"):
            for k in (1, 2):
                name = f"SOB_{letter}_{short}-{slide}-{zoom[:-1]}-{k:03d}.png"
                picture(top / tumour / "SOB" / kind / f"SOB_{letter}_{short}_{slide}" / zoom / name)


def rsna_pneumonia(root: Path) -> None:
    header = ("patientId", "x", "y", "width", "height", "Target")
    rows = (("p-1", "", "", "", "", 0), ("p-2", 1, 1, 3, 3, 1), ("p-2", 5, 1, 2, 3, 1), ("p-3", "", "", "", "", 0))
    write_csv(root / "stage_2_train_labels.csv", header, *rows)
    for name in ("p-1", "p-2", "p-3"):
        picture(root / "stage_2_train_images" / f"{name}.png")
    picture(root / "stage_2_test_images" / "q-1.png")


def chexpert(root: Path) -> None:
    findings = ["No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"]
    findings += ["Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"]
    findings += ["Fracture", "Support Devices"]
    header = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *findings)
    top = "CheXpert-v1.0-small"

    def row(path: str, view: str, **values: str) -> list[str]:
        by_name = {name.replace("_", " "): value for name, value in values.items()}
        return [f"{top}/{path}", "Female", "68", view, "AP", *(by_name.get(name, "") for name in findings)]

    rows = {
        "train": [
            row(
                "train/patient00001/study1/view1_frontal.jpg",
                "Frontal",
                Cardiomegaly="-1.0",
                Edema="-1.0",
                Atelectasis="1.0",
            ),
            row("train/patient00001/study1/view2_lateral.jpg", "Lateral", Edema="1.0"),
            row(
                "train/patient00002/study1/view1_frontal.jpg",
                "Frontal",
                Atelectasis="-1.0",
                Consolidation="-1.0",
                Pleural_Effusion="-1.0",
                Edema="0.0",
            ),
        ],
        "valid": [row("valid/patient64541/study1/view1_frontal.jpg", "Frontal", Pleural_Effusion="1.0")],
    }
    for split, lines in rows.items():
        write_csv(root / top / f"{split}.csv", header, *lines)
        for line in lines:
            picture(root / line[0])


def voc2007(root: Path) -> None:
    from featurebank.extract.datasets.loaders.detection import VOC

    top = root / "VOCdevkit" / "VOC2007"
    for split, names in (("train", ("000012", "000017")), ("test", ("000001",))):
        write_text(top / "ImageSets" / "Main" / f"{split}.txt", *names)
        for name in names:
            picture(top / "JPEGImages" / f"{name}.jpg")
        for kind in VOC:
            flags = {"000012": "1" if kind == "car" else "-1", "000017": "0" if kind == "dog" else "-1"}
            lines = [f"{name} {flags.get(name, '-1'):>2}" for name in names]
            write_text(top / "ImageSets" / "Main" / f"{kind}_{split}.txt", *lines)


def voc_xml(*objects: tuple[str, tuple[int, int, int, int], bool], size: tuple[int, int] = (8, 6)) -> str:
    """Kind, corners from 1 to the last pixel, and whether it is hard to see, of each object."""
    entries = "".join(
        f"<object><name>{kind}</name><difficult>{int(hard)}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for kind, (x1, y1, x2, y2), hard in objects
    )
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{entries}</annotation>"


def voc_detection(year: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        top = root / "VOCdevkit" / f"VOC{year}"
        write_text(top / "ImageSets" / "Main" / "train.txt", "000012", "000017")
        for name, objects in {
            "000012": (("car", (1, 1, 8, 6), False), ("dog", (2, 2, 4, 5), True)),
            "000017": (),
        }.items():
            picture(top / "JPEGImages" / f"{name}.jpg")
            write_text(top / "Annotations" / f"{name}.xml", voc_xml(*objects))

    return write


def revisited(name: str, protocol: int = 2) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        database, queries = ["all_souls_1", "ashmolean_7", "bodleian_3", "christ_2"], ["all_souls_13", "ashmolean_0"]
        for image in (*database, *queries):
            picture(root / "jpg" / f"{image}.jpg", size=(20, 10))
        truth = [
            {"bbx": [2.5, 1.0, 12.0, 9.0], "easy": np.array([0]), "hard": [2], "junk": np.array([], np.int64)},
            {"bbx": np.array([0.0, 0.0, 20.0, 10.0]), "easy": [1, 3], "hard": [], "junk": [0]},
        ]
        content = {"imlist": database, "qimlist": queries, "gnd": truth}
        (root / f"gnd_{name}.pkl").write_bytes(pickle.dumps(content, protocol=protocol))

    return write


def gldv2(root: Path) -> None:
    places = {"train": ("aaf4", "b0c1", "b0c2"), "index": ("0012", "0013"), "test": ("7e01", "7e02", "7e03")}
    for part, names in places.items():
        for name in names:
            picture(root / part / name[0] / name[1] / name[2] / f"{name}.jpg")
    write_csv(
        root / "train.csv",
        ("id", "url", "landmark_id"),
        *(((n, "http://x", k) for n, k in (("aaf4", 7), ("b0c1", 203093), ("b0c2", 7)))),
    )
    write_csv(root / "train_clean.csv", ("landmark_id", "images"), (7, "aaf4 b0c2"))
    write_csv(root / "index.csv", ("id",), ("0012",), ("0013",))
    write_csv(root / "index_image_to_landmark.csv", ("id", "landmark_id"), ("0012", 20))
    write_csv(
        root / "recognition_solution_v2.1.csv",
        ("id", "landmarks", "Usage"),
        ("7e01", "20 21", "Public"),
        ("7e02", "", "Private"),
        ("7e03", "", "Ignored"),
    )
    write_csv(
        root / "retrieval_solution_v2.1.csv",
        ("id", "images", "Usage"),
        ("7e01", "0012", "Public"),
        ("7e02", "None", "Ignored"),
        ("7e03", "None", "Ignored"),
    )


def copydays(root: Path) -> None:
    for block in (2000, 2001):
        picture(root / "original" / f"{block}00.jpg")
        picture(root / "crops" / "50" / f"{block}00.jpg")
        picture(root / "jpeg" / "3" / f"{block}00.jpg")
        picture(root / "strong" / f"{block}01.jpg")
    picture(root / "strong" / "200102.jpg")


def instre(root: Path) -> None:
    for part, name in (("S1", "01a_canada_book"), ("S1", "02b_mug"), ("S2", "01a_tower"), ("M", "01_toy_x_book")):
        for k in (1, 2):
            picture(root / f"INSTRE-{part}" / name / f"{k:03d}.jpg")
            write_text(root / f"INSTRE-{part}" / name / f"{k:03d}.txt", "1 1 5 5")


def objectnet(root: Path) -> None:
    top, titles = root / "objectnet-1.0", {"air_freshener": "Air freshener", "band_aid": "Band Aid"}
    write_json(top / "mappings" / "folder_to_objectnet_label.json", titles)
    for name in titles:
        for k in range(3):
            path = picture(top / "images" / name / f"{k}.png", size=(12, 10))
            pixels = np.array(Image.open(path))
            pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:] = ([255, 0, 0],) * 4
            Image.fromarray(pixels).save(path)


def online_products(root: Path) -> None:
    top = root / "Stanford_Online_Products"
    for split, rows in (
        ("train", ((1, 1, 1, "bicycle_final/1_0"), (2, 2, 1, "bicycle_final/2_0"))),
        ("test", ((3, 11319, 1, "chair_final/3_0"),)),
    ):
        write_text(
            top / f"Ebay_{split}.txt",
            "image_id class_id super_class_id path",
            *(f"{a} {b} {c} {d}.JPG" for a, b, c, d in rows),
        )
        for *_, name in rows:
            picture(top / f"{name}.JPG")


def in_shop(root: Path) -> None:
    rows = [
        ("WOMEN/Dresses/id_00000002/02_1_front", "id_00000002", "train"),
        ("MEN/Denim/id_00000080/01_1_front", "id_00000080", "query"),
        ("MEN/Denim/id_00000080/01_2_side", "id_00000080", "gallery"),
    ]
    write_text(
        root / "Eval" / "list_eval_partition.txt",
        "3",
        "image_name item_id evaluation_status",
        *(f"img/{name}.jpg    {item} {status}" for name, item, status in rows),
    )
    for name, _, _ in rows:
        picture(root / "Img" / "img" / f"{name}.jpg")


def visda2017(root: Path) -> None:
    rows = {
        "train": ("aeroplane/src_1_a.png 0", "bicycle/src_2_b.png 1"),
        "validation": ("bicycle/c.jpg 1",),
        "test": ("trunk01/test_0.jpg 0",),
    }
    for split, lines in rows.items():
        write_text(root / split / "image_list.txt", *lines)
        for line in lines:
            picture(root / split / line.split()[0])


def coco(root: Path) -> None:
    kinds = [{"id": k, "name": name} for k, name in ((90, "toothbrush"), (1, "person"), (13, "stop sign"))]
    for split in ("train", "val"):
        images = [{"id": k, "file_name": f"{k:012d}.jpg", "height": 6, "width": 8} for k in (9, 25, 30)]
        notes = [
            {
                "id": number,
                "image_id": image,
                "category_id": kind,
                "bbox": [1, number, 2, 2],
                "iscrowd": int(kind == 13),
            }
            for number, (image, kind) in enumerate(((25, 1), (25, 1), (25, 90), (9, 13)))
        ]
        for note in notes[:3]:
            note["segmentation"] = [[1, 0, 3, 0, 3, 2, 1, 2]]
        notes[3]["segmentation"] = {"size": [6, 8], "counts": [9, 2, 4, 2, 31]}
        write_json(
            root / "annotations" / f"instances_{split}2017.json",
            {"images": images, "annotations": notes, "categories": kinds},
        )
        for image in images:
            picture(root / f"{split}2017" / str(image["file_name"]))
    write_json(
        root / "annotations" / "image_info_test2017.json", {"images": [{"id": 1, "file_name": "000000000001.jpg"}]}
    )
    picture(root / "test2017" / "000000000001.jpg")


def sim10k(root: Path) -> None:
    top = root / "VOC2012"
    for name, kinds in (("3384645", ("car", "car", "person")), ("3384828", ())):
        write_text(top / "Annotations" / f"{name}.xml", voc_xml(*((kind, (1, 2, 4, 5), False) for kind in kinds)))
        picture(top / "JPEGImages" / f"{name}.jpg")
    write_text(top / "ImageSets" / "Main" / "trainval10k.txt", "3384645", "3384828")


def cityscapes(root: Path) -> None:
    for split, city, labels in (
        ("train", "aachen", ("road", "car", "cargroup", "person")),
        ("train", "bochum", ("sky",)),
        ("val", "lindau", ("bicycle",)),
        ("test", "berlin", ("ego vehicle",)),
    ):
        name = f"{city}_000000_000019"
        picture(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
        objects = [{"label": label, "polygon": [[0, 0], [1, 0], [1, 1]]} for label in labels]
        write_json(
            root / "gtFine" / split / city / f"{name}_gtFine_polygons.json",
            {"imgHeight": 6, "imgWidth": 8, "objects": objects},
        )
