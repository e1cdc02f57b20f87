"""What every split promises, whatever its source: the contract, on one split of each kind."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from official_layouts import LAYOUTS

from featurebank.extract.datasets import (
    DatasetSpec,
    Split,
    Subset,
    dataset_digest,
    label_of,
    names,
    open_split,
)
from featurebank.extract.datasets import contract as contracts
from featurebank.extract.datasets._opening import SOURCES
from featurebank.extract.errors import DatasetError
from featurebank.store.errors import UnknownNameError
from featurebank.store.fingerprint import content_hash

Draw = Callable[[Path, int], Path]


NAMED = {
    "zoo files": ("instre", "all"),
    "zoo pixels": ("cifar10", "train"),
    "zoo HDF5": ("galaxy10", "all"),
    "zoo boxes": ("objectnet", "test"),
}
KINDS = ["folder", "manifest", "torchvision files", "packaged array", "list", "WebDataset", "Hugging Face", *NAMED]


@pytest.fixture(params=KINDS)
def spec(request: pytest.FixtureRequest, tmp_path: Path, draw: Draw) -> DatasetSpec:
    if request.param in NAMED:
        name, split = NAMED[request.param]
        LAYOUTS[name](tmp_path)
        return DatasetSpec(name=f"{name}@partial", split=split, root=tmp_path)
    if request.param == "packaged array":
        return DatasetSpec(name="digits", split="all")
    folder = tmp_path / "eurosat" / "2750"
    paths = [draw(folder / f"{'ab'[k % 2]}/{k}.png", k) for k in range(9)]
    if request.param == "torchvision files":
        return DatasetSpec(name="torchvision:EuroSAT", split="all", root=tmp_path)
    if request.param == "folder":
        return DatasetSpec(name=f"folder:{folder}", split="all")
    if request.param == "list":
        (tmp_path / "test.txt").write_text(
            "\n".join(f"{path.relative_to(tmp_path)} {k}" for k, path in enumerate(paths))
        )
        return DatasetSpec(name=f"list:{tmp_path / 'test.txt'}", split="all")
    if request.param == "WebDataset":
        with tarfile.open(tmp_path / "a-000.tar", "w") as tar:
            for path in paths:
                tar.add(path, path.name)
        return DatasetSpec(name=f"wds:{tmp_path / 'a-000.tar'}", split="all")
    if request.param == "Hugging Face":
        images = [{"bytes": path.read_bytes(), "path": None} for path in paths]
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        table = pa.table({"image": pa.array(images, kind), "label": [0, 1] * 4 + [0]})
        pq.write_table(table, tmp_path / "all.parquet", row_group_size=2)
        return DatasetSpec(name=f"hf:{tmp_path}", split="all")
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in paths]
    (tmp_path / "pets.csv").write_text("\n".join(["path,label", *rows]))
    return DatasetSpec(name=f"manifest:{tmp_path / 'pets.csv'}", split="all")


@pytest.fixture(params=[None, 5], ids=["whole", "subset"])
def split(request: pytest.FixtureRequest, spec: DatasetSpec) -> Split:
    return open_split(spec if request.param is None else replace(spec, subset=Subset(size=request.param)))


def test_it_is_a_split(split: Split, spec: DatasetSpec) -> None:
    assert isinstance(split, contracts.Split)
    assert split.spec.name == spec.name
    assert len(split) == len(split.ids) == len(split.labels) > 0
    assert len(set(split.ids)) == len(split)
    assert split.labels.dtype == np.int64
    assert split.spec.subset is None or len(split) == split.spec.subset.size
    assert spec.name in repr(split)


def test_contents_and_hashes_agree(split: Split) -> None:
    hashes = split.content_hashes()
    assert hashes.dtype == np.uint8
    assert hashes.shape == (len(split), 16)
    for row in range(0, len(split), 3):
        content = split.read(row)
        assert isinstance(content, bytes) or (content.dtype == np.uint8 and content.ndim in {2, 3})
        assert hashes[row].tobytes() == content_hash(content)


def test_reading_from_threads(split: Split) -> None:
    rows = list(range(len(split))) * 3
    with ThreadPoolExecutor(8) as pool:
        hashes = list(pool.map(lambda row: content_hash(split.read(row)), rows))
    expected = split.content_hashes()
    assert hashes == [expected[row].tobytes() for row in rows]


def test_it_survives_pickling_and_stays_small(split: Split) -> None:
    pickled = pickle.dumps(split)
    assert len(pickled) < 5000
    again: Split = pickle.loads(pickled)  # noqa: S301
    assert list(again.ids) == list(split.ids)
    assert again.labels.tolist() == split.labels.tolist()
    assert list(again.class_names) == list(split.class_names)
    assert dataset_digest(again) == dataset_digest(split)


def test_it_opens_the_same_in_a_spawned_process(spec: DatasetSpec) -> None:
    split = open_split(spec)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(dataset_digest, (split,)) == dataset_digest(split)
        pool.close()
        pool.join()


def test_sources_are_sources() -> None:
    for source in SOURCES:
        assert isinstance(source.prefix, str)
        assert all(name.startswith(source.prefix) for name in source.names())
    assert len({source.prefix for source in SOURCES}) == len(SOURCES)
    packaged = {"digits", "emoji", "fashion_mnist", "imagenet_20", "mnist_5k", "tuxpaint"}
    assert packaged | {"torchvision:MNIST"} <= set(names())


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("folder:/data/pets/", "pets"),
        ("folder:/data/pets/..", "data"),
        ("manifest:birds.parquet", "birds"),
        ("torchvision:CIFAR10", "torchvision:CIFAR10"),
        ("fashion_mnist", "fashion_mnist"),
    ],
)
def test_labels(name: str, label: str) -> None:
    assert label_of(DatasetSpec(name=name, split="all")) == label
    assert label_of(DatasetSpec(name=name, split="all", label="mine")) == "mine"


def test_labels_need_a_name() -> None:
    with pytest.raises(DatasetError, match="give the dataset a label"):
        label_of(DatasetSpec(name="folder:/", split="all"))


def test_unknown_sources() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'folder:'"):
        open_split(DatasetSpec(name="foldr:/data", split="all"))
    with pytest.raises(UnknownNameError, match="unknown dataset 'pets'"):
        open_split(DatasetSpec(name="pets", split="all"))


def test_importing_datasets_is_light() -> None:
    code = (
        "import sys; import featurebank.extract.datasets as d; d.names(); d.open_split(d.DatasetSpec(name='digits', "
        "split='all')); print([m for m in ('torch', 'torchvision', 'timm', 'pyarrow', 'sklearn', 'pandas') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
