"""ImageNet-1k and the test sets that share its classes; labels are always its 1,000, in order of their WordNet ids.

The ids, and which 200 of them ImageNet-A and -R hold, come from timm's data files, read without importing timm.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets._listing import Listing
from featurebank.extract.datasets._place import Place
from featurebank.extract.datasets.loaders.folders import folder_classes
from featurebank.extract.errors import DatasetError

__all__ = ["class_mask", "corrupted", "numbered", "tiny", "train_val", "wordnet"]

TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
META = "ILSVRC2012_devkit_t12/data/meta.mat"


def train_val(place: Place, split: str, *, lists: dict[str, str]) -> Listing:
    """``train/<id>/`` and ``val/<id>/``; or ``val/`` without sub-folders, labelled by the development kit.

    The kit numbers classes its own way, not in order of the WordNet ids: ``meta.mat`` translates. ``lists`` maps
    further splits to text files of training images, as SimCLR's fixed 1 % and 10 %.
    """
    if split in lists:
        return _share(place, lists[split])
    if split == "train" or place.folders("val"):
        return wordnet(place, split, folder=split)
    kinds = place.mat(META, "synsets")["synsets"]
    ids = {int(kind["ILSVRC2012_ID"]): str(kind["WNID"]) for kind in kinds}
    labels = [_index()[ids[int(line)]] for line in place.lines(TRUTH)]
    files = [f"val/ILSVRC2012_val_{k:08d}.JPEG" for k in range(1, len(labels) + 1)]
    return Listing(files=files, labels=labels, class_names=_names())


def _share(place: Place, file: str) -> Listing:
    names = place.lines(file)
    ids = [name.partition("_")[0] for name in names]
    return Listing(
        files=[f"train/{wordnet_id}/{name}" for wordnet_id, name in zip(ids, names, strict=True)],
        labels=[_label(place, wordnet_id) for wordnet_id in ids],
        class_names=_names(),
    )


def wordnet(place: Place, split: str, *, folder: str, mask: str = "") -> Listing:
    """One folder per WordNet id.

    Args:
        place: the root.
        split: unused where the folder is the same for all.
        folder: the folder of the class folders; ``{split}`` is the split.
        mask: the name of the published classes that the folders must be among.
    """
    top = folder.replace("{split}", split)
    folders = place.folders(top)
    labels = {name: _label(place, name) for name in folders}
    if mask:
        allowed = class_mask(mask)
        if strangers := [name for name in folders if not allowed[labels[name]]]:
            raise place.error(top, ", ".join(strangers[:5]), f"folders of the 200 classes of {mask}")
    return folder_classes(place, top, folders, labels, _names())


def corrupted(place: Place, split: str) -> Listing:
    """ImageNet-C: ``<corruption>/<severity>/<id>/``; a split is one corruption at one severity."""
    corruption, _, severity = split.rpartition("-")
    return wordnet(place, split, folder=f"{corruption}/{severity}")


def numbered(place: Place, split: str, *, folders: dict[str, str]) -> Listing:
    """ImageNet-V2: folders are called by the class index. As text they sort 0, 1, 10, 100: that is no class order."""
    top = folders[split]
    names = place.folders(top)
    if strangers := [name for name in names if not (name.isdecimal() and int(name) < len(_ids()))]:
        raise place.error(top, ", ".join(strangers[:5]), "folders called 0 to 999")
    names.sort(key=int)
    return folder_classes(place, top, names, {name: int(name) for name in names}, _names())


def tiny(place: Place, split: str) -> Listing:
    """Tiny ImageNet: ``wnids.txt`` orders the 200 classes; a text file labels the validation images.

    They lie in one folder: read as class folders, ``val`` would be one class called ``images``.
    """
    top = "tiny-imagenet-200"
    ids = place.lines(f"{top}/wnids.txt")
    words = dict(line.partition("\t")[::2] for line in place.lines(f"{top}/words.txt"))
    names = [words.get(wordnet_id, wordnet_id) for wordnet_id in ids]
    index = {wordnet_id: k for k, wordnet_id in enumerate(ids)}
    if split == "train":
        return folder_classes(place, f"{top}/train", ids, index, names)
    if split == "test":
        return Listing(files=place.images(f"{top}/test/images"), class_names=names, seen=True)
    rows = place.fields(f"{top}/val/val_annotations.txt", 6)
    return Listing(
        files=[f"{top}/val/images/{row[0]}" for row in rows],
        labels=[index[row[1]] for row in rows],
        class_names=names,
    )


def class_mask(name: str) -> NDArray[np.bool_]:
    """(1000,) which ImageNet-1k classes ``imagenet_a`` or ``imagenet_r`` holds: 200 each. Logits are cut to these.

    Raises:
        DatasetError: another name, or timm, whose data files hold the lists, is not installed.

    >>> int(class_mask("imagenet_a").sum())
    200
    """
    if name not in {"imagenet_a", "imagenet_r"}:
        raise DatasetError(f"expected imagenet_a or imagenet_r, which have 200 of the 1,000 classes, found {name!r}")
    mask = np.zeros(len(_ids()), np.bool_)
    mask[[int(line) for line in _data_file(f"{name}_indices.txt").read_text("utf-8").split()]] = True
    return mask


@functools.cache
def _ids() -> tuple[str, ...]:
    return tuple(_data_file("imagenet_synsets.txt").read_text("utf-8").split())


@functools.cache
def _index() -> dict[str, int]:
    return {name: k for k, name in enumerate(_ids())}


@functools.cache
def _names() -> tuple[str, ...]:
    lines = _data_file("imagenet_synset_to_lemma.txt").read_text("utf-8").splitlines()
    lemmas = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return tuple(lemmas.get(name, name) for name in _ids())


def _label(place: Place, wordnet_id: str) -> int:
    if wordnet_id not in _index():
        raise place.error(wordnet_id, repr(wordnet_id), "an id of ImageNet-1k, such as n01440764,")
    return _index()[wordnet_id]


def _data_file(name: str) -> Path:
    spec = importlib.util.find_spec("timm")
    path = Path(spec.origin).parent / "data" / "_info" / name if spec and spec.origin else Path(name)
    if not path.is_file():
        raise DatasetError(
            f"expected {name} among timm's data files, found none; install timm: it lists ImageNet's ids"
        )
    return path
