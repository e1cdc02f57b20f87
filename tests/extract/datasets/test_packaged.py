"""The real packaged data, from the machine's asset cache; skipped, with the asset's name, where it cannot be had."""

from __future__ import annotations

import gzip
import json
import logging
import pickle
import socket
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featurebank.extract import assets as asset_cache
from featurebank.extract.datasets import DatasetSpec, Split, Subset, _packaged, dataset_digest, open_split, splits
from featurebank.extract.datasets._idx import parse_idx, read_idx
from featurebank.extract.datasets._packaged import FASHION_MNIST, MNIST_5K
from featurebank.extract.datasets._packaged_files import EMOJI, IMAGENET_20, TUXPAINT
from featurebank.extract.decode import decode
from featurebank.extract.errors import AssetError
from featurebank.extract.preprocessing import Decode
from featurebank.extract.reaching import unreachable
from featurebank.store.errors import UnknownNameError


def need(asset: asset_cache.Asset) -> Path:
    try:
        return asset_cache.fetch(asset)
    except AssetError as error:
        pytest.skip(f"{asset.package} {asset.version} cannot be had: {str(error).splitlines()[0]}")


def opened(name: str, split: str, **facts: Any) -> Split:
    return open_split(DatasetSpec(name=name, split=split, **facts))


@pytest.mark.usefixtures("assets")
@pytest.mark.parametrize(("split", "n"), [("train", 60_000), ("test", 10_000)])
def test_fashion_mnist(split: str, n: int) -> None:
    folder = need(FASHION_MNIST)
    clothes = opened("fashion_mnist", split)
    assert len(clothes) == n
    assert np.bincount(clothes.labels).tolist() == [n // 10] * 10
    assert list(clothes.class_names)[8:] == ["Bag", "Ankle boot"]
    part = "train" if split == "train" else "t10k"
    raw = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
    last = np.frombuffer(raw[-784:], np.uint8).reshape(28, 28)
    np.testing.assert_array_equal(clothes.read(n - 1), last)
    assert clothes.content_hashes().shape == (n, 16)


@pytest.mark.usefixtures("assets")
def test_fashion_mnist_opens_in_milliseconds_and_is_the_same_from_a_given_folder() -> None:
    folder = need(FASHION_MNIST)
    first = opened("fashion_mnist", "test")
    start = time.perf_counter()
    opened("fashion_mnist", "test")
    assert time.perf_counter() - start < 0.25
    assert dataset_digest(opened("fashion_mnist", "test", root=folder)) == dataset_digest(first)


@pytest.mark.usefixtures("assets")
def test_fashion_mnist_equals_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import FashionMNIST  # type: ignore[import-untyped]

    folder = need(FASHION_MNIST)
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in folder.glob("t10k-*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    for path in folder.glob("train-*.gz"):
        (raw / path.stem).touch()
    theirs = FashionMNIST(str(tmp_path), train=False)
    ours = opened("fashion_mnist", "test", root=tmp_path)
    assert list(ours.class_names) == theirs.classes
    assert ours.labels.tolist() == theirs.targets.tolist()
    for row in (0, 1234, 9999):
        np.testing.assert_array_equal(ours.read(row), np.asarray(theirs[row][0]))


@pytest.mark.usefixtures("assets")
def test_mnist_5k() -> None:
    need(MNIST_5K)
    digits = opened("mnist_5k", "all")
    assert np.bincount(digits.labels).tolist() == [500] * 10
    rows = gzip.decompress(asset_cache.fetch(MNIST_5K).read_bytes()).splitlines()
    for row in (0, 2500, 4999):
        values = np.array(rows[row].split(b","), dtype=np.int64)
        np.testing.assert_array_equal(np.asarray(digits.read(row)).reshape(-1), values[:784])
        assert digits.labels[row] == values[784]


@pytest.mark.usefixtures("assets")
def test_sets_of_one_split_divide_into_four_fifths_and_one() -> None:
    whole, train, test = (opened("digits", split) for split in ("all", "all-train80", "all-test20"))
    assert sorted([*train.ids, *test.ids]) == sorted(whole.ids)
    assert np.bincount(test.labels).tolist() == [count // 5 for count in np.bincount(whole.labels)]
    place = list(whole.ids).index(test.ids[7])
    np.testing.assert_array_equal(test.read(7), whole.read(place))
    again = pickle.loads(pickle.dumps(test))  # noqa: S301
    np.testing.assert_array_equal(again.read(7), whole.read(place))
    with pytest.raises(UnknownNameError, match="known: all"):
        opened("imagenet_20", "all-train80")


@pytest.mark.usefixtures("assets")
def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    reference = load_digits()
    digits = opened("digits", "all")
    pixels = np.stack([digits.read(row) for row in range(len(digits))])
    assert digits.labels.tolist() == reference.target.tolist()
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.floor(reference.images * 255 / 16 + 0.5))
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.usefixtures("assets")
def test_imagenet_20() -> None:
    need(IMAGENET_20)
    images = opened("imagenet_20", "all")
    assert len(images) == 20
    assert images.labels[:3].tolist() == [243, 559, 438]
    assert images.ids[0] == "imagenet_00_243.jpg"
    assert decode(images.read(0), Decode()).size == (512, 512)
    assert len(images.class_names) == 1000
    assert "bull mastiff" in images.class_names[243]


@pytest.mark.usefixtures("assets")
def test_emoji_of_two_vendors_are_the_same_in_the_same_order() -> None:
    folder = need(EMOJI["google"])
    need(EMOJI["twitter"])
    google, twitter = (opened("emoji", vendor) for vendor in ("google", "twitter"))
    assert len(google) == len(twitter) == 1911
    assert list(google.ids) == list(twitter.ids)
    assert google.labels.tolist() == twitter.labels.tolist() == list(range(1911))
    assert not set(map(bytes, google.content_hashes())) & set(map(bytes, twitter.content_hashes()))
    row = list(google.class_names).index("car")
    assert google.ids[row] == "1f697.png"
    assert {name: str(values[row]) for name, values in google.columns.items()} == {
        "name": "AUTOMOBILE",
        "category": "Travel & Places",
        "subcategory": "transport-ground",
    }
    assert google.read(row) == (folder / "img" / "google" / "64" / "1f697.png").read_bytes()
    for split in (google, twitter):
        image = decode(split.read(row), Decode())
        assert (image.size, image.mode) == ((64, 64), "RGB")
        assert image.getpixel((0, 0)) == (255, 255, 255), "what is transparent is white"


def test_emoji_of_a_folder(tmp_path: Path) -> None:
    vendors = ("google", "twitter")
    entries = [
        {"image": f"{name}.png", "short_name": name, "name": name.upper(), "category": "Drawn", "subcategory": "by us"}
        | {f"has_img_{vendor}": vendor in who for vendor in vendors}
        for name, who in (("a", vendors), ("b", ("google",)), ("c", vendors), ("d", ()))
    ]
    (tmp_path / "emoji.json").write_text(json.dumps(entries))
    for number, vendor in enumerate(vendors):
        images = tmp_path / "img" / vendor / "64"
        images.mkdir(parents=True)
        for name in "abc":
            Image.new("RGBA", (64, 64), (number, 0, 0, 255)).save(images / f"{name}.png")
    twitter = opened("emoji", "twitter", root=tmp_path)
    assert (list(twitter.ids), twitter.labels.tolist()) == (["a.png", "c.png"], [0, 1])
    assert (list(twitter.class_names), twitter.columns["name"].tolist()) == (["a", "c"], ["A", "C"])
    assert twitter.read(0) == (tmp_path / "img" / "twitter" / "64" / "a.png").read_bytes()
    (tmp_path / "emoji.json").write_text("{")
    with pytest.raises(AssetError, match=r"emoji\.json: expected JSON"):
        opened("emoji", "google", root=tmp_path)
    (tmp_path / "emoji.json").unlink()
    with pytest.raises(AssetError, match=r"emoji\.json: expected a readable file.*check the root"):
        opened("emoji", "google", root=tmp_path)


@pytest.mark.usefixtures("assets")
def test_tuxpaint() -> None:
    folder = need(TUXPAINT)
    stamps = opened("tuxpaint", "all")
    assert len(stamps) == 796
    assert len(stamps.class_names) == 16
    counts = dict(zip(stamps.class_names, np.bincount(stamps.labels).tolist(), strict=True))
    assert (counts["animals"], counts["symbols"], counts["naturalforces"]) == (146, 247, 3)
    row = list(stamps.ids).index("animals/marsupials/koala.png")
    assert stamps.class_names[stamps.labels[row]] == "animals"
    assert stamps.columns["group"][row] == "animals/marsupials"
    assert stamps.read(row) == (folder / "animals" / "marsupials" / "koala.png").read_bytes()
    sides = [side for row in range(len(stamps)) for side in Image.open(BytesIO(bytes(stamps.read(row)))).size]
    assert max(sides) == 2348


@pytest.mark.usefixtures("assets")
def test_subsets_are_equal_shares() -> None:
    need(FASHION_MNIST)
    part = opened("fashion_mnist", "train", subset=Subset(size=1200))
    assert np.bincount(part.labels).tolist() == [120] * 10
    whole = opened("fashion_mnist", "train")
    row = int(part.ids[77].removeprefix("train/"))
    np.testing.assert_array_equal(part.read(77), whole.read(row))


def write_idx(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, n in (("train", 3), ("t10k", 2)):
        body = bytes([0, 0, 8, 3, 0, 0, 0, n, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes(784 * n)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(body)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, n]) + bytes(n))


def test_files_that_are_not_the_pinned_ones_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path)
    with pytest.raises(AssetError, match=r"train-images-idx3-ubyte: expected SHA-256 c59f468a.* found [0-9a-f]{64}"):
        opened("fashion_mnist", "train", root=tmp_path)
    (tmp_path / "mnist_5k.csv.gz").write_bytes(gzip.compress(b"0,1\n"))
    with pytest.raises(AssetError, match=r"mnist_5k\.csv\.gz: expected SHA-256"):
        opened("mnist_5k", "all", root=tmp_path)
    with pytest.raises(AssetError, match=r"digits\.csv\.gz: expected a readable file"):
        opened("digits", "all", root=tmp_path)


def test_a_root_without_the_files(tmp_path: Path) -> None:
    with pytest.raises(
        AssetError, match=r"expected train-images-idx3-ubyte or train-images-idx3-ubyte\.gz, found neither"
    ):
        opened("fashion_mnist", "train", root=tmp_path)


def test_without_any_source_every_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_package(asset: asset_cache.Asset) -> Path:
        raise AssetError(f"no {asset.package}")

    monkeypatch.setattr(_packaged, "fetch", no_package)
    with pytest.raises(AssetError, match=r"forbidden by FEATUREBANK_OFFLINE.*no dataset-fashion-mnist.*give a root"):
        opened("fashion_mnist", "train")


def test_debian_is_asked_when_torchvision_cannot_download(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_packaged, "_download_fashion_mnist", lambda root: f"no network for {root.name}")
    monkeypatch.setattr(_packaged, "fetch", lambda asset: tmp_path)  # noqa: ARG005
    monkeypatch.setattr(_packaged, "_check_sha256", lambda content, expected, where: None)  # noqa: ARG005
    write_idx(tmp_path)
    with caplog.at_level(logging.INFO, "featurebank"):
        assert len(opened("fashion_mnist", "train")) == 3
    assert "from the Debian package dataset-fashion-mnist" in caplog.text
    assert "no network for torchvision" in caplog.text


def test_torchvisions_download_comes_first(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(_packaged, "fetch", lambda asset: pytest.fail("must not be asked"))  # noqa: ARG005
    monkeypatch.setattr(_packaged, "_check_sha256", lambda content, expected, where: None)  # noqa: ARG005

    def download(root: Path) -> str:
        write_idx(root / "FashionMNIST" / "raw")
        return ""

    monkeypatch.setattr(_packaged, "_download_fashion_mnist", download)
    with caplog.at_level(logging.INFO, "featurebank"):
        assert len(opened("fashion_mnist", "test")) == 2
        assert len(opened("fashion_mnist", "train")) == 3
    assert "downloaded by torchvision" in caplog.text
    assert "from torchvision's download" in caplog.text


def test_parsed_arrays_are_kept_and_a_damaged_copy_is_made_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    read = _packaged._read

    def spy(path: Path) -> bytes:
        calls.append(path.name)
        return read(path)

    monkeypatch.setattr(_packaged, "_read", spy)
    first = dataset_digest(opened("digits", "all"))
    assert dataset_digest(opened("digits", "all")) == first
    assert calls == ["digits.csv.gz"]
    (pixels,) = (asset_cache.cache_dir() / "arrays").glob("*/pixels-*.npy")
    with pixels.open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    assert dataset_digest(opened("digits", "all")) == first
    assert "is damaged and is made again" in caplog.text
    assert dataset_digest(opened("digits", "all")) == first
    assert calls == ["digits.csv.gz"] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "unsigned bytes"),
        (b"\0\0\x0d\x01\0\0\0\0", "found '00 00 0d 01'"),
        (b"\x1f\x8b\x08\x01", "found '1f 8b 08 01'"),
        (b"\0\0\x08\x03\0\0\0\x01", "a header of 16 bytes, found 8|header of 16 bytes"),
        (b"\0\0\x08\x01\0\0\0\x03ab", r"expected 3 values for shape \(3,\), found 2"),
        (b"\0\0\x08\x01\0\0\0\x01ab", r"expected 1 values for shape \(1,\), found 2"),
    ],
)
def test_damaged_idx(content: bytes, message: str) -> None:
    with pytest.raises(AssetError, match=message):
        parse_idx(content, where="labels")


@pytest.mark.parametrize(
    "content", [b"no gzip", gzip.compress(bytes(5000), mtime=0)[:-9], gzip.compress(b"abc", mtime=0)[:12] + b"\xff" * 9]
)
def test_damaged_gzip(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labels.gz").write_bytes(content)
    with pytest.raises(AssetError, match=r"labels\.gz: expected a readable IDX file"):
        read_idx(tmp_path / "labels.gz")


def test_names_and_splits() -> None:
    assert list(splits("fashion_mnist")) == ["train", "test"]
    assert list(splits("digits")) == list(splits("tuxpaint")) == ["all"]
    assert list(splits("emoji")) == ["google", "twitter"]
    with pytest.raises(UnknownNameError, match="did you mean 'fashion_mnist'"):
        opened("fashion-mnist", "train")
    with pytest.raises(UnknownNameError, match="unknown split of emoji 'gogle'; did you mean 'google'"):
        opened("emoji", "gogle")
    with pytest.raises(UnknownNameError, match="unknown split of digits 'train'; known: all"):
        opened("digits", "train")


def test_an_address_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.perf_counter()
        reason = unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}/", seconds=0.3)
        assert time.perf_counter() - start < 3
    assert "timed out" in reason or "did not answer within 0.3 s" in reason
    assert "cannot be reached" in unreachable("http://127.0.0.1:9/")


def test_a_name_that_never_resolves_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def resolve(*_: object, **__: object) -> None:
        answered.wait(30)
        raise socket.gaierror("too late")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    start = time.perf_counter()
    assert "did not answer within 0.1 s" in unreachable("http://example.invalid/", seconds=0.1)
    assert time.perf_counter() - start < 5
    answered.set()
    for thread in threading.enumerate():
        if thread.name == "reachable":
            thread.join(5)
