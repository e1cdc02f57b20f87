from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from runs import RESNET, VIT, run

from featurebank.extract.datasets import DatasetSpec, Split, Subset, dataset_digest, label_of, open_split, splits
from featurebank.extract.datasets._braces import expand_braces
from featurebank.extract.errors import DatasetError
from featurebank.store.errors import UnknownNameError

Draw = Callable[[Path, int], Path]


def shard(path: Path, members: Mapping[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def opened(pattern: str | Path, split: str = "all", subset: Subset | None = None) -> Split:
    return open_split(DatasetSpec(name=f"wds:{pattern}", split=split, subset=subset))


@pytest.fixture
def images(tmp_path: Path, draw: Draw) -> list[bytes]:
    return [draw(tmp_path / f"{k}.png", k).read_bytes() for k in range(4)]


@pytest.fixture
def shards(tmp_path: Path, images: list[bytes]) -> Path:
    """As img2dataset and webdataset's own writer write them."""
    folder = tmp_path / "birds"
    shard(folder / "train-000000.tar", {"000000.cls": b"3", "000000.png": images[0], "000000.txt": b"a bird",
                                        "000001.png": images[1], "000001.cls": b"12\n"})  # fmt: skip
    shard(
        folder / "train-000001.tar", {"./a/000000.jpg": images[2], "./a/000000.json": json.dumps({"label": 5}).encode()}
    )
    shard(folder / "val-000000.tar", {"000000.webp": images[3]})
    return folder


def test_a_pattern(shards: Path, images: list[bytes]) -> None:
    found = opened(shards / "train-{000000..000001}.tar")
    assert list(found.ids) == ["train-000000/000000", "train-000000/000001", "train-000001/a/000000"]
    assert found.labels.tolist() == [3, 12, 5]
    assert [found.read(k) for k in range(3)] == images[:3]
    assert list(opened(shards / "train-*.tar").ids) == list(found.ids)
    assert dataset_digest(pickle.loads(pickle.dumps(found))) == dataset_digest(found)  # noqa: S301


def test_a_folder_has_splits(shards: Path) -> None:
    assert splits(f"wds:{shards}") == ["train", "val"]
    assert len(opened(shards, "train", Subset(size=2))) == 2
    assert opened(shards, "val").labels.tolist() == [-1]
    with pytest.raises(UnknownNameError, match=r"unknown split .* 'vla'; did you mean 'val'"):
        opened(shards, "vla")


@pytest.mark.parametrize(
    ("pattern", "label"), [("/data/birds", "birds"), ("/data/birds/train-{0..9}.tar", "birds"), ("/d/cc/*.tar", "cc")]
)
def test_the_store_folder_is_named_after_the_shards(pattern: str, label: str) -> None:
    assert label_of(DatasetSpec(name=f"wds:{pattern}", split="all")) == label


def test_every_missing_shard_is_named(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"expected 4 shards .* 2 of them missing: train-000002.tar, train-000003.tar"
    ):
        opened(shards / "train-{000000..000003}.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"expected shards called <split>-<number>\.tar"):
        opened(tmp_path / "empty")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"0.cls": b"1"}, r"expected an image in each record, found only 0\.cls"),
        ({"0.png": b"x", "0.jpg": b"y"}, r"expected one image a record, found 0\.png, 0\.jpg"),
        ({"0.png": b"x", "0.cls": b"cat"}, r"expected a class index from -1 in 0\.cls, found b'cat'"),
        ({"0.png": b"x", "0.cls": b"-2"}, "expected a class index"),
        ({"0.png": b"x", "0.json": b"[1]"}, "expected a class index"),
        ({"0.png": b"x", "0.json": b'{"label": 1.5}'}, "expected a class index"),
        ({"0.png": b"x", "1.png": b"x", "0.cls": b"1"}, "expected an image in each record"),
    ],
)
def test_records_that_do_not_fit(tmp_path: Path, members: Mapping[str, bytes], message: str) -> None:
    shard(tmp_path / "a-0.tar", members)
    with pytest.raises(DatasetError, match=message):
        opened(tmp_path / "a-0.tar")


def test_packed_and_damaged_shards(tmp_path: Path, images: list[bytes]) -> None:
    shard(tmp_path / "packed.tar", {"0.png": images[0]}, mode="w:gz")
    with pytest.raises(DatasetError, match="expected a tar file that is not packed"):
        opened(tmp_path / "packed.tar")
    whole = shard(tmp_path / "cut.tar", {f"{k}.png": image for k, image in enumerate(images)})
    found = opened(whole)
    whole.write_bytes(whole.read_bytes()[: 512 + len(images[0]) // 2])
    with pytest.raises(OSError, match=r"expected .* bytes at 512"):
        found.read(0)
    assert not found.content_hashes().any()


def test_braces() -> None:
    assert expand_braces("a") == ["a"]
    assert expand_braces("{8..10}") == ["8", "9", "10"]
    assert expand_braces("x{a,b}y{00..01}") == ["xay00", "xay01", "xby00", "xby01"]


def test_f2_a_run_reads_each_image_twice_however_many_backbones(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once to hash it, once to decode it for all backbones."""
    birds = opened(shards, "train")
    read, rows = vars(birds)["_read"], Counter[int]()

    def counted(row: int) -> object:
        rows[row] += 1
        return read(row)

    monkeypatch.setattr(birds, "_read", counted)
    assert {outcome.n_rows for outcome in run(tmp_path / "features", birds, [VIT, RESNET])} == {3}
    assert set(rows.values()) == {2}
