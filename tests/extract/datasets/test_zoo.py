"""Every loader of the zoo on a tiny copy of its official layout: what it finds, what it says where that is wrong."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from official_layouts import LAYOUTS

from featurebank.extract.datasets import DatasetSpec, Split, Subset, examine, named, names, open_split, splits
from featurebank.extract.datasets._named import PACKAGES, _Named, manifest
from featurebank.extract.errors import DatasetError
from featurebank.store.errors import UnknownNameError

LISTED = {"imagenet200", "openimage_o"}
"""Their lists come with a package, thousands of images long: no fixture is whole."""

DATA = {name for name, row in manifest().items() if repr(row.loader) not in {"packaged", "arrays.torchvision"}}


def opened(root: Path, name: str, split: str, **settings: Any) -> Split:
    return open_split(DatasetSpec(name=name, split=split, root=root, **settings))


@pytest.fixture
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The layout of the dataset that the test is about."""
    name = str(request.node.callspec.params["name"]).partition("@")[0]
    LAYOUTS[name](tmp_path / name)
    return tmp_path / name


# What is found: name, split, ids with what all have in common left out, labels.

FOUND: Sequence[tuple[str, str, str, Sequence[str], Sequence[Any]]] = [
    ("aircraft", "test", "fgvc-aircraft-2013b/data/images/{}.jpg", ["0062765", "0062766", "0100500"], [1, 2, 0]),
    ("aircraft@level=family", "test", "fgvc-aircraft-2013b/data/images/{}.jpg", ["0062765", "0062766", "0100500"],
     [2, 0, 1]),
    ("aircraft@level=manufacturer", "val", "fgvc-aircraft-2013b/data/images/{}.jpg", ["0037511"], [1]),
    ("caltech101", "all", "101_ObjectCategories/{}.jpg",
     ["accordion/image_0002", "ant/image_0001", "ant/image_0002"], [0, 1, 1]),
    ("chexpert", "train", "CheXpert-v1.0-small/train/{}/study1/view1_frontal.jpg", ["patient00001", "patient00002"],
     [[1, 0, 0, 1, 0], [1, 0, 0, 0, 0]]),
    ("chexpert", "valid", "CheXpert-v1.0-small/valid/{}/study1/view1_frontal.jpg", ["patient64541"], [[0, 0, 0, 0, 1]]),
    ("cifar10", "train", "train/{}", [f"{k:05d}" for k in range(10)], [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]),
    ("cifar10", "test", "test/{}", ["00000", "00001", "00002"], [3, 8, 0]),
    ("cifar100", "train", "train/{}", [f"{k:05d}" for k in range(4)], [19, 29, 0, 11]),
    ("cifar100@labels=coarse", "test", "test/{}", ["00000", "00001"], [10, 10]),
    ("cityscapes", "train", "leftImg8bit/train/{}_000000_000019_leftImg8bit.png", ["aachen/aachen", "bochum/bochum"],
     [[1, 0, 1, 0, 0, 0, 0, 0], [0] * 8]),
    ("cityscapes", "test", "leftImg8bit/test/{}_000000_000019_leftImg8bit.png", ["berlin/berlin"], [-1]),
    ("coco", "val", "val2017/{}.jpg", ["000000000009", "000000000025", "000000000030"], [[0, 1, 0], [1, 0, 1],
     [0, 0, 0]]),
    ("coco", "test", "test2017/{}.jpg", ["000000000001"], [-1]),
    ("copydays", "original", "original/{}.jpg", ["200000", "200100"], [2000, 2001]),
    ("copydays", "strong", "strong/{}.jpg", ["200001", "200101", "200102"], [2000, 2001, 2001]),
    ("copydays", "jpeg", "jpeg/3/{}.jpg", ["200000", "200100"], [2000, 2001]),
    ("country211", "valid", "country211/valid/{}/valid.jpg", ["AD", "CH"], [0, 1]),
    ("cub200", "train", "CUB_200_2011/images/{}.jpg", ["001.Black_footed_Albatross/B_2", "002.Laysan/L_1"], [0, 1]),
    ("cub200", "test", "CUB_200_2011/images/{}.jpg", ["001.Black_footed_Albatross/B_1", "101.White_Pelican/W_1"],
     [0, 100]),
    ("cub200", "classes_101_200", "CUB_200_2011/images/{}.jpg", ["101.White_Pelican/W_1"], [100]),
    ("dtd", "train", "dtd/images/{}.jpg", ["banded/banded_0004", "zigzagged/zigzagged_0004"], [0, 1]),
    ("dtd@partition=10", "test", "dtd/images/{}.jpg", ["banded/banded_0002", "zigzagged/zigzagged_0002"], [0, 1]),
    ("eurosat", "all", "2750/{}.jpg", ["AnnualCrop/AnnualCrop_10", "AnnualCrop/AnnualCrop_2", "Forest/Forest_1"],
     [0, 0, 1]),
    ("flowers102", "train", "jpg/image_{}.jpg", ["00003", "00006"], [0, 4]),
    ("flowers102", "val", "jpg/image_{}.jpg", ["00007", "00009"], [4, 4]),
    ("flowers102", "test", "jpg/image_{}.jpg", ["00008", "00001", "00002", "00004", "00005"], [0, 76, 76, 101, 101]),
    ("food101", "train", "food-101/images/{}.jpg", ["apple_pie/1005649", "baby_back_ribs/1005293"], [0, 1]),
    ("galaxy10", "all", "all/{}", [f"{k:05d}" for k in range(5)], [0, 3, 9, 3, 1]),
    ("gldv2", "train", "train/{}.jpg", ["a/a/f/aaf4", "b/0/c/b0c1", "b/0/c/b0c2"], [7, 203093, 7]),
    ("gldv2", "train_clean", "train/{}.jpg", ["a/a/f/aaf4", "b/0/c/b0c2"], [7, 7]),
    ("gldv2", "index", "index/0/0/1/{}.jpg", ["0012", "0013"], [20, -1]),
    ("gldv2", "queries", "test/7/e/0/{}.jpg", ["7e01"], [20]),
    ("imagenet1k", "val", "val/{}.JPEG", [f"n014{a}/ILSVRC2012_val_0000000{b}" for a, b in
     (("40764", 1), ("43537", 2), ("84850", 3), ("91361", 4), ("94475", 5))], [0, 1, 2, 3, 4]),
    ("imagenet1k", "train_1pct", "train/{}.JPEG", ["n01491361/n01491361_10029", "n01440764/n01440764_7"], [3, 0]),
    ("imagenet200", "test", "images_largescale/imagenet_1k/val/{}.JPEG",
     ["ILSVRC2012_val_00009034", "ILSVRC2012_val_00033737", "ILSVRC2012_val_00008541"], [0, 66, 133]),
    ("imagenet_a", "test", "imagenet-a/{}.jpg",
     ["n01498041/n01498041-0", "n01498041/n01498041-1", "n01531178/n01531178-0", "n01531178/n01531178-1"],
     [6, 6, 11, 11]),
    ("imagenet_c", "fog-3", "fog/3/{}.JPEG",
     ["n01440764/n01440764-0", "n01440764/n01440764-1", "n01443537/n01443537-0", "n01443537/n01443537-1"],
     [0, 0, 1, 1]),
    ("imagenet_o", "test", "imagenet-o/{}.jpg",
     ["n01440764/n01440764-0", "n01440764/n01440764-1", "n01443537/n01443537-0", "n01443537/n01443537-1"], [-1] * 4),
    ("imagenet_r", "test", "imagenet-r/{}.jpg",
     ["n01443537/n01443537-0", "n01443537/n01443537-1", "n01484850/n01484850-0", "n01484850/n01484850-1"],
     [1, 1, 2, 2]),
    ("imagenet_sketch", "test", "sketch/{}.JPEG",
     ["n01491361/n01491361-0", "n01491361/n01491361-1", "n01494475/n01494475-0", "n01494475/n01494475-1"],
     [3, 3, 4, 4]),
    ("imagenet_v2", "threshold-0.7", "imagenetv2-threshold0.7-format-val/{}.jpeg",
     [f"{k}/threshold0.7-{k}" for k in (0, 1, 2, 10, 100, 999)], [0, 1, 2, 10, 100, 999]),
    ("in_shop", "query", "Img/img/MEN/Denim/{}.jpg", ["id_00000080/01_1_front"], [80]),
    ("in_shop", "gallery", "Img/img/MEN/Denim/{}.jpg", ["id_00000080/01_2_side"], [80]),
    ("inat2017", "val", "train_val_images/Plants/{}.jpg", ["2/2", "2/8"], [2, 2]),
    ("inat2018", "train", "train_val2018/Plants/{}.jpg", ["1/1", "0/3", "2/5", "1/7"], [1, 0, 2, 1]),
    ("inat2019", "test", "test2019/Plants/{}.jpg", ["0/9"], [-1]),
    ("inat2021", "train_mini", "train_mini/{}.jpg", ["00000_Animalia_Annelida/train_mini-00000_Animalia_Annelida",
     "00001_Animalia_Arthropoda/train_mini-00001_Animalia_Arthropoda",
     "00002_Plantae_Rosa/train_mini-00002_Plantae_Rosa"],
     [0, 1, 2]),
    ("inat2021", "public_test", "public_test/{}.jpg", ["a"], [-1]),
    ("inaturalist_ood", "test", "images_largescale/inaturalist/images/{}.jpg", ["0", "1"], [-1, -1]),
    ("instre", "all", "INSTRE-{}.jpg", [f"{folder}/00{k}" for folder in
     ("S1/01a_canada_book", "S1/02b_mug", "S2/01a_tower", "M/01_toy_x_book") for k in (1, 2)],
     [0, 0, 1, 1, 2, 2, 3, 3]),
    ("instre", "s2", "INSTRE-S2/01a_tower/{}.jpg", ["001", "002"], [0, 0]),
    ("mnist", "test", "test/{}", [f"{k:05d}" for k in range(7)], [0, 3, 6, 9, 2, 5, 8]),
    ("nabirds", "train", "nabirds/images/{}.jpg", ["0817/a", "0295/b"], [1, 0]),
    ("ninco", "test", "images_largescale/ninco/{}.jpeg", ["amphiuma means/a"], [-1]),
    ("objectnet", "test", "objectnet-1.0/images/{}.png", [f"{kind}/{k}" for kind in
     ("air_freshener", "band_aid") for k in range(3)], [0, 0, 0, 1, 1, 1]),
    ("openimage_o", "test", "images_largescale/openimage_o/images/{}.jpg",
     ["b85bd6c20e9c378a", "6989a0fc56bff34d", "c80ae17b84b33e77"], [-1, -1, -1]),
    ("openood_imagenet1k", "test", "images_largescale/imagenet_1k/val/ILSVRC2012_val_0000000{}.JPEG", ["1", "2"],
     [65, 970]),
    ("oxford_pets", "trainval", "images/{}.jpg", ["Abyssinian_100", "american_bulldog_1", "Abyssinian_7"], [0, 1, 0]),
    ("places365_ood", "test", "images_classic/places365/{}.jpg", ["airfield/1"], [-1]),
    ("plantclef20", "test", "test/{}.jpg", ["Acer/4", "Betula/3"], [0, 1]),
    ("plantvillage", "all", "Plant_leave_diseases_dataset_without_augmentation/{}",
     ["Apple___healthy/image (1).JPG", "Background_without_leaves/image (1).jpg"], [0, 1]),
    ("rendered_sst2", "test", "rendered-sst2/test/{}/test.png", ["negative", "positive"], [0, 1]),
    ("resisc45", "all", "NWPU-RESISC45/{}.jpg", ["airplane/airplane_001", "airport/airport_001"], [0, 1]),
    ("roxford5k", "database", "jpg/{}.jpg", ["all_souls_1", "ashmolean_7", "bodleian_3", "christ_2"], [-1] * 4),
    ("rparis6k", "queries", "jpg/{}.jpg", ["all_souls_13", "ashmolean_0"], [-1, -1]),
    ("rsna_pneumonia", "train", "stage_2_train_images/{}.png", ["p-1", "p-2", "p-3"], [0, 1, 0]),
    ("rsna_pneumonia", "test", "stage_2_test_images/{}.png", ["q-1"], [-1]),
    ("sim10k", "trainval", "VOC2012/JPEGImages/{}.jpg", ["3384645", "3384828"], [[1, 0, 1], [0, 0, 0]]),
    ("ssb_hard", "test", "images_largescale/ssb_hard/{}.JPEG", ["n00005787/n00005787_13"], [-1]),
    ("stanford_cars", "train", "cars_train/{}.jpg", ["00001", "00002"], [2, 0]),
    ("stanford_cars", "test", "cars_test/{}.jpg", ["00001", "00002"], [1, 1]),
    ("stanford_dogs", "train", "Images/{}.jpg", ["n02085620-Chihuahua/a", "n02085782-Japanese_spaniel/c"], [0, 1]),
    ("stanford_dogs", "test", "Images/{}.jpg", ["n02085620-Chihuahua/b"], [0]),
    ("stanford_online_products", "test", "Stanford_Online_Products/{}.JPG", ["chair_final/3_0"], [11318]),
    ("sun397", "train", "SUN397/{}.jpg", ["a/apartment_building/outdoor/sun_c", "a/abbey/sun_aaa"], [2, 0]),
    ("sun397@partition=10", "train", "SUN397/{}.jpg", ["a/airport_terminal/sun_b"], [1]),
    ("sun397", "all", "SUN397/a/{}.jpg",
     ["abbey/sun_aaa", "airport_terminal/sun_b", "apartment_building/outdoor/sun_c"], [0, 1, 2]),
    ("textures_ood", "test", "images_classic/texture/{}.jpg", ["banded/banded_0002"], [-1]),
    ("tiny_imagenet", "val", "tiny-imagenet-200/val/images/{}.JPEG", ["val_0", "val_1", "val_2"], [0, 1, 1]),
    ("tiny_imagenet_ood", "test", "images_classic/tin/val/{}.JPEG", ["n01443537/val_0"], [-1]),
    ("uc_merced", "all", "UCMerced_LandUse/Images/{}.tif", ["agricultural/agricultural00", "airplane/airplane00"],
     [0, 1]),
    ("visda2017", "train", "train/{}.png", ["aeroplane/src_1_a", "bicycle/src_2_b"], [0, 1]),
    ("visda2017", "test", "test/{}.jpg", ["trunk01/test_0"], [0]),
    ("voc2007", "train", "VOCdevkit/VOC2007/JPEGImages/{}.jpg", ["000012", "000017"],
     [[int(k == 6) for k in range(20)], [-int(k == 11) for k in range(20)]]),
    ("voc2007_detection", "train", "VOCdevkit/VOC2007/JPEGImages/{}.jpg", ["000012", "000017"],
     [[int(k in {6, 11}) for k in range(20)], [0] * 20]),
    ("voc2012_detection", "train", "VOCdevkit/VOC2012/JPEGImages/{}.jpg", ["000012", "000017"],
     [[int(k in {6, 11}) for k in range(20)], [0] * 20]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "split", "pattern", "stems", "labels"), FOUND, ids=lambda value: str(value)[:40])
def test_ids_and_labels(
    *, root: Path, name: str, split: str, pattern: str, stems: Sequence[str], labels: Sequence[Any]
) -> None:
    found = opened(root, f"{name}{',' if '@' in name else '@'}partial", split)
    assert list(found.ids) == [pattern.format(stem) for stem in stems]
    assert found.labels.tolist() == list(labels)
    for row in range(len(found)):
        content = found.read(row)
        assert content == (root / found.ids[row]).read_bytes() if isinstance(content, bytes) else content.ndim in {2, 3}
    assert found.content_hashes().any(axis=1).all()


def test_every_own_loader_has_a_layout() -> None:
    assert set(LAYOUTS) >= DATA
    assert {name.partition("@")[0] for name, *_ in FOUND} >= DATA - {"breakhis"}


@pytest.mark.parametrize("name", ["imagenet_a", "flowers102", "cifar10", "coco"])
def test_the_official_numbers_are_asserted(root: Path, name: str) -> None:
    split = {"imagenet_a": "test", "coco": "val"}.get(name, "train")
    expected = f"{named(name).splits[split]:,} records, the official number, found"
    with pytest.raises(DatasetError, match=rf"{name} '{split}': expected {expected} .*{name}@partial"):
        opened(root, name, split)


@pytest.mark.parametrize("name", sorted(DATA - LISTED))
def test_whole_fixtures_pass_the_checks_when_their_numbers_are_the_official_ones(root: Path, name: str) -> None:
    """The checks pass where numbers agree: they are no mere refusals of small data."""
    row = named(name)
    for split in row.splits:
        state = examine(row, root, split)
        if state.found:
            small = replace(row, splits={split: state.found}, classes=None, when={})
            assert len(small.open(DatasetSpec(name=name, split=split, root=root))) == state.found


@pytest.mark.parametrize("name", sorted(DATA))
def test_every_missing_official_file_is_named(root: Path, name: str) -> None:
    row = named(name)
    split = next(split for split in row.splits if examine(row, root, split).found)
    for file in row.needed(split):
        hidden = (root / file).rename(root / "hidden")
        with pytest.raises(DatasetError, match=f"missing: .*{re.escape(file)}") as caught:
            opened(root, name, split)
        assert f"`featurebank datasets {name} --root {root}`" in str(caught.value)
        assert file in examine(row, root, split).missing
        hidden.rename(root / file)


@pytest.mark.parametrize("name", sorted(DATA - LISTED - {"cifar10", "cifar100", "galaxy10"}))
def test_each_missing_image_is_named(root: Path, name: str) -> None:
    row = named(name)
    split = next(split for split in row.splits if (examine(row, root, split).found or 0))
    found = opened(root, f"{name}@partial", split)
    image = root / found.ids[-1]
    image.unlink()
    state = examine(row, root, split)
    if len(found) == 1 and not state.missing:
        return  # The folder itself is what the loader lists.
    if state.missing:
        assert state.missing == (found.ids[-1],)
        assert state.found == len(found) - 1
        with pytest.raises(DatasetError, match=f"1 of them missing: {re.escape(found.ids[-1])}; `featurebank datasets"):
            opened(root, name, split)
    else:  # Folders without a list: fewer images than the official number.
        with pytest.raises(DatasetError, match=f"found {len(found) - 1:,};|expected .* found"):
            opened(root, name, split)
    if len(found) > 1:
        assert list(opened(root, f"{name}@partial", split).ids) == list(found.ids)[:-1]


WRONG = [
    ("cub200", "train", "CUB_200_2011/images.txt", "1", "2 fields a line"),
    ("flowers102", "train", "setid.mat", "no MATLAB", "a MATLAB file"),
    ("coco", "val", "annotations/instances_val2017.json", "{", "JSON"),
    ("coco", "val", "annotations/instances_val2017.json", "{}", "'images', 'annotations', 'categories'"),

        ("inat2019", "train", "train2019.json", '{"images": [], "categories": [{"id": 4, "name": "a"}]}',
     "category ids 0 to 0"),
    ("chexpert", "train", "CheXpert-v1.0-small/train.csv", "Path,Sex\na,b",
     "the columns Frontal/Lateral, Age, Atelectasis"),
    ("chexpert", "train", "CheXpert-v1.0-small/train.csv",
     "Path,Sex,Age,Frontal/Lateral,Atelectasis,Cardiomegaly,Consolidation,Edema,Pleural Effusion\na,b",
     "9 fields a line"),
    ("chexpert", "valid", "CheXpert-v1.0-small/valid.csv", "\ud800", "a CSV table"),
    ("food101", "train", "food-101/meta/train.txt", "pizza/1", "only the 2 classes"),
    ("sim10k", "trainval", "VOC2012/Annotations/3384645.xml", "<annotation>", "XML"),
    ("sim10k", "trainval", "VOC2012/Annotations/3384645.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "plain XML"),
    ("cityscapes", "train", "gtFine/train/aachen/aachen_000000_000019_gtFine_polygons.json", "[]", "objects"),
    ("roxford5k", "queries", "gnd_roxford5k.pkl", "no pickle", "a pickle of arrays and plain values"),
    ("cifar10", "test", "cifar-10-batches-py/test_batch", "\x80", "a pickle of arrays and plain values"),
    ("galaxy10", "all", "Galaxy10_DECals.h5", "", "an HDF5 file with images and ans"),
    ("voc2007", "train", "VOCdevkit/VOC2007/ImageSets/Main/car_train.txt", "000012 1", "a flag of 1, 0 or -1"),
    ("cub200", "train", "CUB_200_2011/image_class_labels.txt", "1 1\n2 one", "files that fit each other"),
    ("coco", "train", "annotations/instances_train2017.json",
     '{"images": [], "categories": [], "annotations": [{"image_id": 7, "category_id": 1}]}',
     "files that fit each other"),
    ("voc2012_detection", "train", "VOCdevkit/VOC2012/Annotations/000012.xml",
     "<a><object><name>wolf</name></object></a>", "objects among aeroplane"),
    ("objectnet", "test", "objectnet-1.0/mappings/folder_to_objectnet_label.json", "{}", "a label for every folder"),

        ("ninco", "test", "benchmark_imglist/imagenet/test_ninco.txt", "a.jpg cat",
     "a path below the root and a class index"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "split", "file", "content", "expected"), WRONG)
def test_files_that_are_not_what_they_should_be(
    *, root: Path, name: str, split: str, file: str, content: str, expected: str
) -> None:
    (root / file).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(DatasetError, match=re.escape(expected)) as caught:
        opened(root, f"{name}@partial", split)
    assert str(root / file if "fit each other" not in expected else root) in str(caught.value)
    state = examine(named(name), root, split)
    assert not state.ok
    assert state.error


@pytest.mark.parametrize(
    ("name", "split", "missing"),
    [
        ("imagenet1k", "val", "val/"),
        ("gldv2", "index", "index_image_to_landmark.csv"),
        ("instre", "s1", "INSTRE-S1/"),
        ("chexpert", "valid", "CheXpert-v1.0-small/"),
        ("stanford_dogs", "test", "test_list.mat"),
    ],
)
def test_what_is_missing_is_named_where_it_is_only_found_while_reading(
    tmp_path: Path, name: str, split: str, missing: str
) -> None:
    state = examine(named(name), tmp_path, split)
    assert state.missing == (missing,)
    assert not state.ok
    with pytest.raises(DatasetError, match=f"{tmp_path / missing.rstrip('/')}, found nothing"):
        opened(tmp_path, name, split)


def test_strange_folders_are_refused(tmp_path: Path) -> None:
    LAYOUTS["imagenet_a"](tmp_path)
    (tmp_path / "imagenet-a" / "n01440764").mkdir()
    with pytest.raises(DatasetError, match=r"expected folders of the 200 classes of imagenet_a .* found n01440764"):
        opened(tmp_path, "imagenet_a@partial", "test")
    (tmp_path / "imagenet-a" / "cats").mkdir()
    with pytest.raises(DatasetError, match="expected an id of ImageNet-1k"):
        opened(tmp_path, "imagenet_a@partial", "test")
    for name, split, folder, expected in (
        ("imagenet_v2", "top-images", "imagenetv2-top-images-format-val/1000", "folders called 0 to 999"),
        ("inat2021", "val", "val/Rosa", "folders called 00000_… by class"),
    ):
        LAYOUTS[name](tmp_path)
        (tmp_path / folder).mkdir()
        with pytest.raises(DatasetError, match=expected):
            opened(tmp_path, f"{name}@partial", split)
    LAYOUTS["copydays"](tmp_path)
    (tmp_path / "original" / "a.jpg").touch()
    with pytest.raises(DatasetError, match="images called by a number"):
        opened(tmp_path, "copydays@partial", "original")


# Names, options, parts.


def test_the_manifest_is_whole() -> None:
    assert len(manifest()) >= 55
    assert set(PACKAGES.names()) == {name for name, row in manifest().items() if repr(row.loader) == "packaged"}
    for name, row in manifest().items():
        assert row.title
        assert row.splits
        assert row.licence
        assert row.obtain
        assert row.images or row.needs
        assert all(n is None or n > 0 for n in row.splits.values())
        assert isinstance(row.loader, _Named)
        if repr(row.loader) != "packaged":
            inspect.signature(row.loader.function).bind(None, "train", **row.arguments)
        for choice in row.when:
            option, _, value = choice.partition("=")
            assert value in row.options[option]
        assert name in names()
        assert list(splits(name)) == list(row.splits)


def test_unknown_names_splits_and_options(tmp_path: Path) -> None:
    for name, split, message in (
        ("flower102", "train", "unknown dataset 'flower102'; did you mean 'flowers102'"),
        ("flowers102", "tset", "unknown split of flowers102 'tset'; did you mean 'test'"),
        ("flowers102@partail", "test", "unknown option of flowers102 'partail'; did you mean 'partial'"),
        ("flowers102@per_class=0", "test", "unknown option of flowers102 'per_class'"),
        ("chexpert@views=side", "valid", "unknown value of chexpert@views 'side'; known: all, frontal"),
    ):
        with pytest.raises(UnknownNameError, match=re.escape(message)):
            opened(tmp_path, name, split)


def test_a_dataset_without_root_lies_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["eurosat"](tmp_path / "eurosat")
    spec = DatasetSpec(name="eurosat@partial", split="all")
    with pytest.raises(DatasetError, match=r"datasets/eurosat/2750, found nothing, and no EuroSAT_RGB/"):
        open_split(spec)
    monkeypatch.setenv("FEATUREBANK_DATA", str(tmp_path))
    assert len(open_split(spec)) == 3


def test_the_first_of_each_class(tmp_path: Path) -> None:
    LAYOUTS["instre"](tmp_path)
    found = opened(tmp_path, "instre@partial,per_class=1", "s1")
    assert [name[-7:] for name in found.ids] == ["001.jpg", "001.jpg"]
    assert found.labels.tolist() == [0, 1]
    LAYOUTS["roxford5k"](tmp_path)
    with pytest.raises(DatasetError, match="expected one class a record"):
        opened(tmp_path, "roxford5k@partial,per_class=1", "database")


def test_every_split_divides_into_the_same_two_parts(tmp_path: Path) -> None:
    for kind, n in (("Forest", 10), ("River", 6), ("SeaLake", 4)):
        for k in range(n):
            path = tmp_path / "2750" / kind / f"{kind}_{k}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    whole, train, test = (opened(tmp_path, "eurosat@partial", f"all{part}") for part in ("", "-train80", "-test20"))
    assert np.bincount(test.labels).tolist() == [2, 1]
    assert sorted([*train.ids, *test.ids]) == list(whole.ids)
    forest = sorted(whole.ids[:10], key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert set(test.ids[:2]) == set(forest[:2])
    assert len(opened(tmp_path, "eurosat@partial", "all-train80", subset=Subset(size=8))) == 8


def test_pixels_pickle_with_their_part(tmp_path: Path) -> None:
    import pickle

    LAYOUTS["cifar10"](tmp_path)
    part = opened(tmp_path, "cifar10@partial", "train-train80", subset=Subset(size=4))
    again: Split = pickle.loads(pickle.dumps(part))  # noqa: S301
    assert list(again.ids) == list(part.ids)
    assert np.array_equal(np.asarray(again.read(3)), np.asarray(part.read(3)))


def test_torchvision_reads_its_own_with_our_names_and_checks(tmp_path: Path) -> None:
    LAYOUTS["country211"](tmp_path)
    with pytest.raises(DatasetError, match="country211 'test': expected 21,100 records"):
        opened(tmp_path, "country211", "test")
    found = opened(tmp_path, "country211@partial", "test", subset=Subset(size=1))
    assert len(found) == 1
    assert found.spec.label == "country211"
    assert examine(named("country211"), tmp_path, "valid").found == 2
    with pytest.raises(DatasetError, match="expected no part"):
        opened(tmp_path, "country211@partial", "test-test20")
    assert "it is not downloaded now" in examine(named("gtsrb"), tmp_path, "test").error
