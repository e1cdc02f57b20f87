"""The ways in which the studies' own code read their datasets wrongly without noticing, each as a test of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets as tv  # type: ignore[import-untyped]
from layout_files import picture, write_mat, write_text
from official_layouts import LAYOUTS
from PIL import Image

from featurebank.extract.datasets import (
    DatasetSpec,
    Place,
    Split,
    class_mask,
    dataset_digest,
    examine,
    named,
    open_split,
)
from featurebank.extract.datasets.loaders.retrieval import write_revisited_truth
from featurebank.extract.errors import AssetError, DatasetError


def opened(root: Path, name: str, split: str) -> Split:
    LAYOUTS[name.partition("@")[0]](root)
    return open_split(DatasetSpec(name=f"{name}{',' if '@' in name else '@'}partial", split=split, root=root))


# Splits: what is selected on is never what is reported.


def test_flowers_are_tested_on_the_test_split_not_on_val(tmp_path: Path) -> None:
    """The evaluation split was hard-wired to val: 1,020 images instead of 6,149."""
    assert named("flowers102").splits == {"train": 1020, "val": 1020, "test": 6149}
    val, test = opened(tmp_path, "flowers102", "val"), opened(tmp_path, "flowers102", "test")
    assert not set(val.ids) & set(test.ids)
    assert len(test) > len(val)


def test_aircraft_is_tested_on_the_test_list_not_on_the_rest_of_the_training_list(tmp_path: Path) -> None:
    train, val, test = (opened(tmp_path / split, "aircraft", split) for split in ("trainval", "val", "test"))
    assert named("aircraft").splits["test"] == named("aircraft").splits["val"] == 3333
    assert set(val.ids) < set(train.ids)
    assert not set(test.ids) & set(train.ids)


def test_chexpert_gives_a_validation_part_without_the_test_patients(tmp_path: Path) -> None:
    """valid was both validation and test; here a fifth of the training patients validates."""
    spec = named("chexpert")
    rows = ["Path,Sex,Age,Frontal/Lateral,Atelectasis,Cardiomegaly,Consolidation,Edema,Pleural Effusion"]
    for patient in range(20):
        for view in (1, 2):
            path = f"CheXpert-v1.0-small/train/patient{patient:05d}/study1/view{view}_frontal.jpg"
            picture(tmp_path / path)
            rows.append(f"{path},Male,50,Frontal,,,,,")
    write_text(tmp_path / "CheXpert-v1.0-small" / "train.csv", *rows)
    parts = [
        spec.open(DatasetSpec(name="chexpert", split=f"train-{part}", root=tmp_path), "partial")
        for part in ("train80", "test20")
    ]
    patients = [set(part.columns["patient"].tolist()) for part in parts]
    assert [len(part) for part in parts] == [32, 8]
    assert not patients[0] & patients[1]


def test_a_dataset_without_an_official_split_is_divided_by_what_every_machine_has(tmp_path: Path) -> None:
    """EuroSAT's split was a file on somebody's disk, Galaxy10's an unseeded draw."""
    one, two = (opened(tmp_path / str(k), "plantclef20", "train-train80") for k in range(2))
    assert dataset_digest(one) == dataset_digest(two)


# Labels.


def test_pet_labels_are_the_files_own_in_every_process(tmp_path: Path) -> None:
    """The label map came from list(set()): another one in every process."""
    LAYOUTS["oxford_pets"](tmp_path)
    code = (
        "import sys; from pathlib import Path; from featurebank.extract.datasets import DatasetSpec, open_split; "
        "split = open_split(DatasetSpec(name='oxford_pets@partial', split='trainval', root=Path(sys.argv[1]))); "
        "print(split.labels.tolist(), list(split.class_names))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True,
                       env={"PYTHONHASHSEED": seed})
        for seed in ("0", "1", "2")
    ]  # fmt: skip
    assert {run.stdout.strip() for run in runs} == {"[0, 1, 0] ['Abyssinian', 'american_bulldog']"}


def test_caltech_labels_are_indices_of_the_folders_indexed_once(tmp_path: Path) -> None:
    """Images were looked up by an index of an index; and BACKGROUND_Google is no class."""
    found = opened(tmp_path, "caltech101", "all")
    assert list(found.class_names) == ["accordion", "ant"]
    assert all(found.class_names[label] in name for name, label in zip(found.ids, found.labels, strict=True))
    assert named("caltech101").splits["all"] == 8677


def test_imagenet_v2_folders_are_numbers_not_text(tmp_path: Path) -> None:
    found = opened(tmp_path, "imagenet_v2", "matched-frequency")
    assert found.labels.tolist() == [0, 1, 2, 10, 100, 999]
    assert sorted(map(str, found.labels)) != [str(label) for label in found.labels]


def test_imagenet_a_and_r_are_scored_over_their_200_classes(tmp_path: Path) -> None:
    for name in ("imagenet_a", "imagenet_r"):
        mask = class_mask(name)
        found = opened(tmp_path / name, name, "test")
        assert mask.shape == (1000,)
        assert mask.sum() == 200
        assert mask[found.labels].all()
        assert len(found.class_names) == 1000
    assert (class_mask("imagenet_a") != class_mask("imagenet_r")).any()
    with pytest.raises(DatasetError, match="expected imagenet_a or imagenet_r"):
        class_mask("imagenet_v2")


def test_imagenet_labels_of_the_development_kit_are_translated(tmp_path: Path) -> None:
    """The kit numbers classes in its own order: its class 1 is n02119789, not n01440764."""
    kit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    kinds = np.empty((3, 1), dtype=[("ILSVRC2012_ID", object), ("WNID", object)])
    for row, (number, wnid) in enumerate(((1, "n02119789"), (2, "n02100735"), (490, "n01440764"))):
        kinds[row, 0] = (number, wnid)
    write_mat(kit / "meta.mat", synsets=kinds)
    write_text(kit / "ILSVRC2012_validation_ground_truth.txt", "490", "1")
    for k in (1, 2):
        picture(tmp_path / "val" / f"ILSVRC2012_val_{k:08d}.JPEG")
    found = open_split(DatasetSpec(name="imagenet1k@partial", split="val", root=tmp_path))
    assert found.labels.tolist() == [0, 278]
    assert found.class_names[278] == "kit fox, Vulpes macrotis"


def test_tiny_imagenet_validation_is_labelled_by_its_text_file(tmp_path: Path) -> None:
    """Read as class folders, val is one class called images."""
    assert opened(tmp_path, "tiny_imagenet", "val").labels.tolist() == [0, 1, 1]
    assert opened(tmp_path / "b", "tiny_imagenet", "train").labels.tolist() == [0, 0, 1, 1]


def test_coco_labels_have_no_gaps(tmp_path: Path) -> None:
    found = opened(tmp_path, "coco", "train")
    assert list(found.class_names) == ["person", "stop sign", "toothbrush"]
    assert found.labels.shape == (3, 3)
    assert found.labels[2].tolist() == [0, 0, 0]  # An image without boxes is a record.


def test_svhn_zero_is_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    path = tmp_path / "test_32x32.mat"
    write_mat(path, X=np.zeros((32, 32, 3, 3), np.uint8), y=np.array([[1], [10], [9]]))
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(tv.SVHN.split_list, "test", ["", path.name, digest])
    found = open_split(DatasetSpec(name="svhn@partial", split="test", root=tmp_path))
    assert found.labels.tolist() == [1, 0, 9]


def test_rsna_images_with_two_boxes_stand_once(tmp_path: Path) -> None:
    found = opened(tmp_path, "rsna_pneumonia", "train")
    assert len(found) == len(set(found.ids)) == 3
    assert found.labels.tolist() == [0, 1, 0]


def test_galaxy_labels_are_whole_numbers(tmp_path: Path) -> None:
    """They were one-hot floats."""
    found = opened(tmp_path, "galaxy10", "all")
    assert found.labels.dtype == np.int64
    assert found.labels.shape == (5,)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("mixed", [[1, 0, 0, 1, 0], [1, 0, 0, 0, 0]]),
        ("zeros", [[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]),
        ("ones", [[1, 1, 0, 1, 0], [1, 0, 1, 0, 1]]),
        ("ignore", [[1, -1, 0, -1, 0], [-1, 0, -1, 0, -1]]),
    ],
)
def test_chexpert_uncertain_findings_follow_the_stated_policy(
    tmp_path: Path, policy: str, expected: list[list[int]]
) -> None:
    found = opened(tmp_path, f"chexpert@uncertain={policy}", "train")
    assert found.labels.tolist() == expected
    assert list(found.class_names) == ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]


def test_chexpert_lateral_views_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    assert len(opened(tmp_path, "chexpert", "train")) == 2
    assert len(opened(tmp_path / "all", "chexpert@views=all", "train")) == 3
    chosen, _ = named("chexpert").chosen("views=all")
    assert chosen.splits == {"train": 223414, "valid": 234}


def test_breakhis_images_of_a_patient_stay_together(tmp_path: Path) -> None:
    found = opened(tmp_path, "breakhis", "400x")
    assert found.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert list(dict.fromkeys(found.columns["patient"].tolist())) == ["14-22549AB", "14-9133", "14-2523"]
    kinds = opened(tmp_path / "type", "breakhis@labels=type", "40x")
    assert list(kinds.class_names) == ["adenosis", "fibroadenoma", "ductal_carcinoma"]


# Images.


def test_revisited_queries_are_cut_to_their_boxes(tmp_path: Path) -> None:
    found = opened(tmp_path, "roxford5k", "queries")
    whole = opened(tmp_path, "roxford5k@queries=whole", "queries")
    pixels = np.asarray(Image.open(tmp_path / found.ids[0]).convert("RGB"))
    box = found.read(0)
    assert isinstance(box, np.ndarray)
    assert np.array_equal(box, pixels[1:9, 2:12])
    assert whole.read(0) == (tmp_path / found.ids[0]).read_bytes()
    assert dataset_digest(found) != dataset_digest(whole)
    assert found.columns["left"].tolist() == [2.5, 0.0]


def test_revisited_truth_names_easy_hard_and_junk(tmp_path: Path) -> None:
    LAYOUTS["roxford5k"](tmp_path)
    assert write_revisited_truth(Place(tmp_path, "roxford5k"), tmp_path / "truth.json") == 2
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert truth["jpg/all_souls_13.jpg"] == {
        "easy": ["jpg/all_souls_1.jpg"],
        "hard": ["jpg/bodleian_3.jpg"],
        "junk": [],
    }
    assert truth["jpg/ashmolean_0.jpg"]["junk"] == ["jpg/all_souls_1.jpg"]


def test_objectnet_has_no_red_border(tmp_path: Path) -> None:
    found = opened(tmp_path, "objectnet", "test")
    for row in range(len(found)):
        pixels = found.read(row)
        assert isinstance(pixels, np.ndarray)
        assert pixels.shape == (6, 8, 3)
        assert not (pixels == [255, 0, 0]).all(axis=2).any()


def test_landmark_queries_are_those_that_are_scored(tmp_path: Path) -> None:
    assert len(opened(tmp_path, "gldv2", "queries")) == 1
    assert named("gldv2").splits["queries"] == 1129


# Files.


def test_the_one_percent_lists_are_local_and_fixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were fetched over HTTP while the dataset was constructed."""
    monkeypatch.setattr("socket.socket.connect", None)
    assert opened(tmp_path, "imagenet1k", "train_1pct").labels.tolist() == [3, 0]
    (tmp_path / "imagenet_subsets" / "1percent.txt").unlink()
    with pytest.raises(DatasetError, match=r"imagenet_subsets/1percent\.txt, found nothing"):
        open_split(DatasetSpec(name="imagenet1k", split="train_1pct", root=tmp_path))


def test_nothing_is_read_or_downloaded_by_looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader touched a hard-coded path when it was imported; others downloaded in the constructor."""
    monkeypatch.setenv("FEATUREBANK_OFFLINE", "0")
    monkeypatch.setattr("socket.socket.connect", None)
    state = examine(named("svhn"), tmp_path, "test")
    assert state.missing == ("test_32x32.mat",)
    with pytest.raises((AssetError, DatasetError), match="missing: test_32x32"):
        open_split(DatasetSpec(name="svhn", split="test", root=tmp_path))


def test_every_dataset_knows_its_number_of_classes() -> None:
    """Loaders without one ended in a KeyError."""
    assert [name for name in ("dtd", "voc2007", "oxford_pets", "sun397", "stanford_cars", "food101", "caltech101")
            if not named(name).classes] == []  # fmt: skip


def test_a_list_in_another_order_is_another_dataset(tmp_path: Path) -> None:
    found = opened(tmp_path, "food101", "train")
    lines = (tmp_path / "food-101" / "meta" / "train.txt").read_text().splitlines()
    write_text(tmp_path / "food-101" / "meta" / "train.txt", *reversed(lines))
    other = open_split(DatasetSpec(name="food101@partial", split="train", root=tmp_path))
    assert dataset_digest(other) != dataset_digest(found)
