"""How the files of an official layout are written."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["class_folders", "picture", "structs", "write_csv", "write_json", "write_mat", "write_text"]


def picture(path: Path, *, size: tuple[int, int] = (8, 6)) -> Path:
    """An image of colours that its own path decides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = list(path.name.encode()) + list(path.parent.name.encode())
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format={".tif": "TIFF", ".png": "PNG", ".ppm": "PPM"}.get(path.suffix, "JPEG"))
    return path


def write_text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_csv(path: Path, header: Sequence[str], *rows: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value))


def write_mat(path: Path, **variables: Any) -> None:
    from scipy.io import savemat  # type: ignore[import-untyped]

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables)


def structs(rows: Sequence[Mapping[str, object]]) -> Any:
    """A MATLAB array of structures, 1 x N."""
    kinds = [(name, object) for name in rows[0]]
    array = np.empty((1, len(rows)), dtype=kinds)
    for k, row in enumerate(rows):
        for name, value in row.items():
            array[0, k][name] = value
    return array


def class_folders(folder: str, *files: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for file in files:
            picture(root / folder / file)

    return write
