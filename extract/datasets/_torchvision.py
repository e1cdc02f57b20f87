"""torchvision's classification datasets, ``torchvision:CIFAR10``, with the files as torchvision keeps them.

Some of torchvision's own loaders unpickle files (CIFAR) after comparing their MD5 with the published one.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.assets import cache_dir, is_offline
from featurebank.extract.datasets._records import ArraySplit, FileSplit, ReaderSplit
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.errors import AssetError, DatasetError
from featurebank.extract.reaching import unreachable
from featurebank.store.errors import unknown_name
from featurebank.store.places import expanded

log = logging.getLogger("featurebank")

Arguments = Mapping[str, Mapping[str, object]]
"""Split to the constructor's keywords."""


def _by(argument: str, *values: str) -> Arguments:
    return {value: {argument: value} for value in values}


_TRAIN_FLAG: Final[Arguments] = {"train": {"train": True}, "test": {"train": False}}
_WHOLE: Final[Arguments] = {"all": {}}
_EMNIST = ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")

ARGUMENTS: Final[Mapping[str, Arguments]] = {
    "CIFAR10": _TRAIN_FLAG,
    "CIFAR100": _TRAIN_FLAG,
    "CLEVRClassification": _by("split", "train", "val", "test"),
    "Caltech101": _WHOLE,
    "Caltech256": _WHOLE,
    "CelebA": _by("split", "train", "valid", "test", "all"),
    "Country211": _by("split", "train", "valid", "test"),
    "DTD": _by("split", "train", "val", "test"),
    "EMNIST": {f"{s}-{part}": {"split": s, "train": part == "train"} for s in _EMNIST for part in ("train", "test")},
    "EuroSAT": _WHOLE,
    "FER2013": _by("split", "train", "test"),
    "FGVCAircraft": _by("split", "train", "val", "trainval", "test"),
    "FashionMNIST": _TRAIN_FLAG,
    "Flowers102": _by("split", "train", "val", "test"),
    "Food101": _by("split", "train", "test"),
    "GTSRB": _by("split", "train", "test"),
    "INaturalist": _by("version", "2017", "2018", "2019", "2021_train", "2021_train_mini", "2021_valid"),
    "ImageNet": _by("split", "train", "val"),
    "Imagenette": _by("split", "train", "val"),
    "KMNIST": _TRAIN_FLAG,
    "LFWPeople": _by("split", "train", "test", "10fold"),
    "MNIST": _TRAIN_FLAG,
    "Omniglot": {"background": {"background": True}, "evaluation": {"background": False}},
    "OxfordIIITPet": _by("split", "trainval", "test"),
    "PCAM": _by("split", "train", "val", "test"),
    "Places365": _by("split", "train-standard", "train-challenge", "val"),
    "QMNIST": _by("what", "train", "test", "test10k", "test50k", "nist"),
    "RenderedSST2": _by("split", "train", "val", "test"),
    "SEMEION": _WHOLE,
    "STL10": _by("split", "train", "test", "unlabeled", "train+unlabeled"),
    "SUN397": _WHOLE,
    "SVHN": _by("split", "train", "test", "extra"),
    "StanfordCars": _by("split", "train", "test"),
    "USPS": _TRAIN_FLAG,
}
"""How each dataset's constructor takes its splits. Datasets newer than this table are understood by their signature."""

NOT_CLASSIFICATION: Final = frozenset(
    {"CREStereo", "CarlaStereo", "Cityscapes", "CocoCaptions", "CocoDetection", "DatasetFolder", "ETH3DStereo"}
    | {"FakeData", "FallingThingsStereo", "Flickr30k", "Flickr8k", "FlyingChairs", "FlyingThings3D", "HD1K", "HMDB51"}
    | {"ImageFolder", "InStereo2k", "Kinetics", "Kitti", "Kitti2012Stereo", "Kitti2015Stereo", "KittiFlow", "LFWPairs"}
    | {"LSUN", "LSUNClass", "Middlebury2014Stereo", "MovingMNIST", "PhotoTour", "SBDataset", "SBU", "SceneFlowStereo"}
    | {"Sintel", "SintelStereo", "UCF101", "VOCDetection", "VOCSegmentation", "VisionDataset", "WIDERFace"}
)
"""Detection, segmentation, flow, stereo, video, captions, pairs; generated images; LSUN, which is a database; and the
folder classes, for which there is ``folder:``."""

_FILES: Final[Mapping[str, Callable[[Any], list[str]]]] = {
    "Caltech101": lambda d: [
        f"{d.root}/101_ObjectCategories/{d.categories[y]}/image_{k:04d}.jpg" for k, y in zip(d.index, d.y, strict=True)
    ],
    "Caltech256": lambda d: [
        f"{d.root}/256_ObjectCategories/{d.categories[y]}/{y + 1:03d}_{k:04d}.jpg"
        for k, y in zip(d.index, d.y, strict=True)
    ],
    "CelebA": lambda d: [f"{d.root}/{d.base_folder}/img_align_celeba/{name}" for name in d.filename],
    "INaturalist": lambda d: [f"{d.root}/{d.all_categories[category]}/{name}" for category, name in d.index],
    "Omniglot": lambda d: [
        f"{d.target_folder}/{d._characters[character]}/{name}" for name, character in d._flat_character_images
    ],
}
"""Where the images lie, for datasets that put their paths together only when asked for an image."""

_LABELS: Final[Mapping[str, Callable[[Any], list[int]]]] = {
    "INaturalist": lambda d: [category for category, _ in d.index],
    # Its characters are numbered in the order in which the file system lists them; here in byte order.
    "Omniglot": lambda d: [sorted(d._characters).index(d._characters[k]) for _, k in d._flat_character_images],
}

_LISTED: Final = frozenset({"INaturalist", "Omniglot", "SUN397"})
"""Datasets whose images come in whatever order the file system lists them; here in the order of their paths."""


class TorchvisionSource:
    """``torchvision:NAME``, under ``root`` or the asset cache; downloaded where that is allowed and possible.

    Args:
        download: whether it is allowed; the environment's ``FEATUREBANK_OFFLINE`` forbids it too.
    """

    prefix = "torchvision:"

    def __init__(self, *, download: bool = True) -> None:
        self.download = download

    def names(self) -> Sequence[str]:
        """Every classification dataset, with the prefix."""
        return [self.prefix + name for name in sorted(ARGUMENTS)]

    def splits(self, spec_name: str, root: Path | None) -> Sequence[str]:  # noqa: ARG002 (the contract's signature)
        """The splits as torchvision calls them; ``train`` and ``test`` for a flag, ``all`` where there is one."""
        return list(self._arguments(spec_name))

    def open(self, spec: DatasetSpec) -> Split:
        """One split: raw bytes where torchvision keeps files, rows of its array, else its decoded images.

        Raises:
            UnknownNameError: no such dataset or split.
            AssetError: its files are missing and cannot be downloaded.
        """
        arguments = self._arguments(spec.name)
        if spec.split not in arguments:
            raise unknown_name(f"split of {spec.name}", spec.split, arguments)
        name = spec.name.removeprefix(self.prefix)
        dataset = _construct(name, spec, arguments[spec.split], download=self.download)
        if len(dataset) == 0:
            raise DatasetError(f"{spec.name} {spec.split!r}: expected images under {_root(spec)}, found none")
        return (_as_files(name, dataset, spec) or _as_array(dataset, spec) or _as_items(dataset, spec)).subset()

    def _arguments(self, spec_name: str) -> Arguments:
        name = spec_name.removeprefix(self.prefix)
        if name in ARGUMENTS:
            return ARGUMENTS[name]
        import torchvision.datasets  # type: ignore[import-untyped]

        if name in NOT_CLASSIFICATION or name not in torchvision.datasets.__all__:
            raise unknown_name("dataset", spec_name, self.names())
        parameters = inspect.signature(getattr(torchvision.datasets, name)).parameters
        if "train" in parameters:
            return _TRAIN_FLAG
        return _by("split", "train", "val", "test") if "split" in parameters else _WHOLE


def _reopen(spec: DatasetSpec) -> Split:
    return TorchvisionSource().open(spec)


def _root(spec: DatasetSpec) -> Path:
    return expanded(cache_dir() / "torchvision" if spec.root is None else spec.root).absolute()


def _construct(name: str, spec: DatasetSpec, arguments: Mapping[str, object], *, download: bool) -> Any:
    import torchvision.datasets

    factory = getattr(torchvision.datasets, name)
    root = _root(spec)
    can_download = _takes_download(factory)
    keywords = {"download": False} if can_download else {}
    try:
        return factory(str(root), **arguments, **keywords)
    except Exception as error:  # torchvision says "not found" with many exceptions.
        missing = error
    advice = f"put torchvision's files under {root}"
    found = (str(missing).strip() or type(missing).__name__).splitlines()[0]
    if isinstance(missing, ImportError):
        raise AssetError(f"{spec.name}: expected a package that its loader needs, found: {found}") from missing
    if not can_download or not download or is_offline():
        forbidden = "FEATUREBANK_OFFLINE forbids downloads" if download else "it is not downloaded now"
        why = forbidden if can_download else "torchvision cannot download it"
        raise AssetError(f"{spec.name}: expected its files under {root}, found: {found}; {why}; {advice}") from missing
    url = _first_url(factory)
    if url and (reason := unreachable(url)):
        raise AssetError(
            f"{spec.name}: expected its files under {root}, found: {found}; {reason}; {advice}"
        ) from missing
    log.info("%s: torchvision downloads it into %s", spec.name, root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(sys.stderr):
            return factory(str(root), **arguments, download=True)
    except Exception as error:
        raise AssetError(f"{spec.name}: torchvision cannot download it into {root}: {error}; {advice}") from error


def _takes_download(factory: type) -> bool:
    return any(
        "download" in inspect.signature(vars(c)["__init__"]).parameters
        for c in factory.__mro__
        if "__init__" in vars(c)
    )


def _first_url(factory: type) -> str:
    """Some address that the dataset downloads from: enough to see whether there is a network."""
    places = [*(vars(c) for c in factory.__mro__), vars(sys.modules[factory.__module__])]
    return next((url for place in places for value in place.values() if (url := _url_in(value))), "")


def _url_in(value: object) -> str:
    if isinstance(value, str):
        return value if value.startswith(("http://", "https://")) else ""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return next((url for item in value if (url := _url_in(item))), "")
    return ""


def _as_files(name: str, dataset: Any, spec: DatasetSpec) -> FileSplit | None:
    found = _files_and_labels(name, dataset)
    if found is None:
        return None
    files, labels = found
    if labels is None:
        labels = _integers(_LABELS[name](dataset)) if name in _LABELS else _labels(dataset)
    order = list(range(len(files)))
    if name in _LISTED:
        order.sort(key=files.__getitem__)
    root = _root(spec)
    relative = [_relative(Path(files[row]), root) for row in order]
    split = FileSplit(
        spec, relative, labels[order], _class_names(dataset, labels), folder=root, files=[files[k] for k in order]
    )
    same = all(_same_pixels(split.read(row), dataset[order[row]][0]) for row in {0, len(split) - 1})
    return split if same else None


def _files_and_labels(name: str, dataset: Any) -> tuple[list[str], NDArray[np.int64] | None] | None:
    if name in _FILES:
        return _FILES[name](dataset), None
    n = len(dataset)
    for attribute in ("samples", "imgs", "_samples"):
        pairs: Any = getattr(dataset, attribute, None)
        if _is_list(pairs, n) and isinstance(pairs[0], tuple) and isinstance(pairs[0][0], str | Path):
            return [str(pair[0]) for pair in pairs], _integers([pair[1] for pair in pairs])
    for attribute in ("_image_files", "_images", "data"):
        paths: Any = getattr(dataset, attribute, None)
        if _is_list(paths, n) and isinstance(paths[0], str | Path):
            return [str(path) for path in paths], None
    return None


def _is_list(value: object, n: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == n


def _relative(path: Path, root: Path) -> str:
    path = path.absolute()
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _same_pixels(content: bytes, image: Any) -> bool:
    """Whether a file is what the dataset returns, and not something it still crops or converts."""
    from io import BytesIO

    from PIL import Image

    with Image.open(BytesIO(content)) as file:
        return isinstance(image, Image.Image) and np.array_equal(
            np.asarray(file.convert("RGB")), np.asarray(image.convert("RGB"))
        )


def _as_array(dataset: Any, spec: DatasetSpec) -> ArraySplit | None:
    data: Any = getattr(dataset, "data", None)
    pixels = data.numpy() if hasattr(data, "numpy") else data
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or len(pixels) != len(dataset):
        return None
    if pixels.ndim == 4 and pixels.shape[1] == 3 and pixels.shape[3] != 3:
        pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    if not np.array_equal(pixels[-1], _pixels(dataset[len(dataset) - 1][0])):
        return None
    labels = _labels(dataset)
    return ArraySplit(
        spec, _numbered(spec, len(labels)), labels, _class_names(dataset, labels), pixels=pixels, reopen=_reopen
    )


def _as_items(dataset: Any, spec: DatasetSpec) -> ReaderSplit:
    """Records whose images only the dataset itself can give, decoded."""
    labels = _labels(dataset)
    return ReaderSplit(
        spec,
        _numbered(spec, len(labels)),
        labels,
        _class_names(dataset, labels),
        read=lambda row: _pixels(dataset[row][0]),
        reopen=_reopen,
    )


def _numbered(spec: DatasetSpec, n: int) -> list[str]:
    return [f"{spec.split}/{row:0{max(5, len(str(n - 1)))}d}" for row in range(n)]


def _labels(dataset: Any) -> NDArray[np.int64]:
    """(N,) or (N, L), taken whole where the dataset keeps them, else by asking for every item."""
    n = len(dataset)
    if getattr(dataset, "attr_names", None) is not None:
        return np.asarray(dataset.attr, np.int64)
    for attribute in ("targets", "labels", "_labels", "y"):
        values = getattr(dataset, attribute, None)
        if values is not None and len(values) == n:
            labels = _integers(list(values))
            if np.array_equal(labels[-1:], _integers([_label(dataset, n - 1)])):
                return labels
    return _integers([_label(dataset, row) for row in range(n)])


def _label(dataset: Any, row: int) -> Any:
    image, label = dataset[row]
    if hasattr(image, "close"):
        image.close()  # Some datasets return an image whose file is still open.
    return label


def _integers(values: Sequence[Any]) -> NDArray[np.int64]:
    if odd := [value for value in values if value is not None and int(value) != value]:
        raise DatasetError(f"expected the dataset to return class indices, found {odd[0]!r}")
    return np.array([-1 if value is None else int(value) for value in values], np.int64)


def _class_names(dataset: Any, labels: NDArray[np.int64]) -> list[str]:
    """The dataset's names where there is one for every label, else none."""
    for attribute in ("classes", "class_to_idx", "categories", "all_categories", "_characters", "attr_names"):
        values = getattr(dataset, attribute, None)
        if attribute == "_characters" and values is not None:
            values = sorted(values)
        if isinstance(values, Mapping):
            values = sorted(values, key=values.__getitem__)
        if not isinstance(values, list | tuple):
            continue
        names = [value[0] if isinstance(value, tuple) else str(value) for value in values]
        names = [name for name in names if name]
        fits = len(names) == labels.shape[1] if labels.ndim == 2 else len(names) > labels.max(initial=-1)
        if fits:
            return names
    return []


def _pixels(image: Any) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 3) uint8 of what a dataset returns as its image."""
    from PIL import Image

    if isinstance(image, Image.Image):
        return np.asarray(image if image.mode in {"L", "RGB"} else image.convert("RGB"))
    raise DatasetError(f"expected the dataset to return PIL images, found {type(image).__name__}")
