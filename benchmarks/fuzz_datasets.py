"""Datasets that a stranger may hand us: every official layout, tables and lists of one's own, shards, Parquet."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from fuzzing import Target
from PIL import Image

from featurebank.extract.datasets import DatasetSpec, open_split, splits
from featurebank.extract.datasets.objects import Annotated, Objects
from featurebank.extract.decode import decode
from featurebank.extract.errors import ExtractError
from featurebank.extract.preprocessing import Decode
from featurebank.store.errors import UnknownNameError

# The tests' official layouts, a few records each.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from official_layouts import LAYOUTS

__all__ = ["listings"]

MOST_FILES = 4  # of one dataset
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".ppm"})


def listings(folder: Path) -> Iterator[Target]:
    """Every file of every official layout that is no picture, tables and lists of one's own, shards, and Parquet."""
    for name in sorted(LAYOUTS):
        root = folder / name
        LAYOUTS[name](root)
        for path in _smallest(root):
            yield _dataset(f"{name}: {path.name}", path, name, root)
    own = folder / "own"
    own.mkdir(parents=True)
    names = [f"{k}.png" for k in range(6)]
    for name in names:
        Image.new("RGB", (5, 4)).save(own / name)
    table = own / "birds.csv"
    table.write_text(
        "path,label,split,uid,area\n" + "".join(f"{n},{k % 2},train,{k:03d},{k / 3}\n" for k, n in enumerate(names))
    )
    yield _dataset("manifest: csv", table, f"manifest:{table}", None, share=3)
    columns = own / "birds.parquet"
    pq.write_table(pa.table({"path": names, "label": ["ant", "bee"] * 3, "uid": [1, None] * 3}), columns)
    yield _dataset("manifest: parquet", columns, f"manifest:{columns}", None, share=2)
    listed = own / "birds.txt"
    listed.write_text("".join(f"{n} {k % 2}\n" for k, n in enumerate(names)))
    yield _dataset("list: txt", listed, f"list:{listed}", None, share=2)
    yield _dataset("coco: json", _coco(own, names), f"coco:{own / 'birds.json'}", None, share=4)
    shard = own / "birds-000.tar"
    with tarfile.open(shard, "w") as tar:
        for k, name in enumerate(names):
            for member, content in (
                (name, (own / name).read_bytes()),
                (f"{k}.json", json.dumps({"label": k % 2}).encode()),
            ):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    yield _dataset("wds: tar", shard, f"wds:{shard}", None, share=4)
    yield _parquet(own / "hub", own / names[0])


def _coco(folder: Path, names: Sequence[str]) -> Path:
    polygon, runs = [[0.5, 0.5, 4.5, 0.5, 4.5, 3.5]], {"size": [4, 5], "counts": "52207"}
    masks = [polygon, {"size": [4, 5], "counts": [5, 2, 13]}, runs, polygon]
    content = {
        "images": [{"id": k, "file_name": name, "width": 5, "height": 4} for k, name in enumerate(names)],
        "categories": [{"id": 3, "name": "ant"}, {"id": 90, "name": "bee"}],
        "annotations": [
            {"image_id": k % 3, "category_id": 3, "bbox": [0, 0.5, 3, 2.5], "iscrowd": 0, "segmentation": mask}
            for k, mask in enumerate(masks)
        ],
    }
    path = folder / "birds.json"
    path.write_text(json.dumps(content))
    return path


def _pixels(shown: Objects) -> None:
    for mask in shown.masks:
        mask.full(min(shown.height, 99), min(shown.width, 99))
        mask.inside((0, 0, 2, 2), (7, 7))


def _parquet(folder: Path, picture: Path) -> Target:
    import datasets  # type: ignore[import-untyped]

    datasets.disable_progress_bars()
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"]), "uid": datasets.Value("int64")}
    )
    rows = {
        "image": [{"path": f"{k}.png", "bytes": picture.read_bytes()} for k in range(4)],
        "label": [0, 1, 0, 1],
        "uid": [1, 2, None, 4],
    }
    folder.mkdir()
    path = folder / "train-00000-of-00001.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return _dataset("hf: parquet", path, f"hf:{folder}", None, share=2)


def _smallest(root: Path) -> list[Path]:
    """One file of each kind that is no picture."""
    kinds: dict[tuple[str, str], Path] = {}
    for path in sorted(root.rglob("*"), key=lambda path: (path.is_file() and path.stat().st_size, str(path))):
        if path.is_file() and path.suffix.lower() not in PICTURES:
            kinds.setdefault((path.suffix if len(path.suffix) < 6 else "", path.name[:3]), path)
    return sorted(kinds.values())[:MOST_FILES]


def _dataset(name: str, path: Path, dataset: str, root: Path | None, share: int = 1) -> Target:
    def read(chosen: Sequence[str] | None = None) -> None:
        for split in usable if chosen is None else chosen:
            opened = open_split(DatasetSpec(name=f"{dataset}@partial" if root else dataset, split=split, root=root))
            _ = (opened.ids, opened.labels, opened.class_names, opened.columns)
            for row in range(min(len(opened), 3)):
                with suppress(OSError):  # that row's, as the contract says
                    decode(opened.read(row), Decode())
                    if isinstance(opened, Annotated):
                        _pixels(opened.objects(row))

    usable = []
    for split in splits(dataset, root):
        with suppress(ExtractError, UnknownNameError):  # what the tests' few records do not make up
            read([split])
            usable.append(split)
    return Target(
        name=name,
        examples=[path.read_bytes()],
        write=path.write_bytes,
        read=read,
        refusals=(ExtractError, UnknownNameError),
        share=share,
    )
