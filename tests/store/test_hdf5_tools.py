"""HDF5's own command-line tools on a sealed set: they list, dump, compare and repack it like any other file."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
from feature_sets import FAILED_ROW, N_ROWS, REASON, make_head, make_records, make_sealed, make_values

from featurebank.store import CorruptError, FeatureSet, NotAFeatureSetError

pytestmark = pytest.mark.skipif(shutil.which("h5dump") is None, reason="HDF5's tools (hdf5-tools) are not installed")


def tool(*words: str | Path) -> str:
    done = subprocess.run([str(word) for word in words], check=False, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode("utf-8")


def dumped(path: Path, dataset: str) -> str:
    text = tool("h5dump", "-y", "-w", "0", "-m", "%.17g", "-d", dataset, path)
    return text[text.index("DATA {") + 6 : text.rindex("}")]


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", text)]


def strings(text: str) -> list[str]:
    """What stands in quotes; h5dump writes bytes beyond ASCII as octal numbers, extended by their sign."""
    bytes_ = re.sub(r"\\(\d{3,11})", lambda octal: chr(int(octal[1], 8) & 0xFF), text)
    return [quoted.rstrip("\0").encode("latin-1").decode() for quoted in re.findall(r'"([^"]*)"', bytes_)]


def test_h5ls_lists_every_array_with_its_shape(sealed: Path) -> None:
    listed = dict(re.findall(r"^(/\S+)\s+Dataset \{([\d, /]*|SCALAR)\}", tool("h5ls", "-r", sealed), re.MULTILINE))
    with h5py.File(sealed) as file:
        shapes: dict[str, tuple[int, ...]] = {}
        file.visititems(lambda name, item: shapes.update({f"/{name}": item.shape}) if hasattr(item, "shape") else None)
    assert {name: tuple(map(int, numbers(shape))) for name, shape in listed.items()} == shapes
    assert shapes["/outputs/tokens"] == (N_ROWS, 2, 32)


def test_h5dump_prints_the_outputs_the_head_and_the_records(sealed: Path) -> None:
    records, (weight, bias) = make_records(), make_head()
    assert numbers(dumped(sealed, "/outputs/blocks.9.cls")) == make_values()["blocks.9.cls"].astype(float).tolist()
    assert numbers(dumped(sealed, "/head/weight")) == weight.ravel().tolist()
    assert numbers(dumped(sealed, "/head/bias")) == bias.tolist()
    assert numbers(dumped(sealed, "/records/status")) == [2 if row == FAILED_ROW else 1 for row in range(N_ROWS)]
    assert numbers(dumped(sealed, "/records/content_hash")) == records.content_hash.ravel().tolist()
    assert strings(dumped(sealed, "/records/id")) == list(records.ids)
    assert strings(dumped(sealed, "/records/reason"))[FAILED_ROW] == REASON


def test_h5dump_prints_the_fingerprint_and_the_layout(sealed: Path) -> None:
    header = tool("h5dump", "-p", "-H", sealed)
    with FeatureSet(sealed) as feature_set:
        assert feature_set.fingerprint in tool("h5dump", "-a", "/fingerprint", sealed)
        assert f"CHUNKED ( {feature_set.chunk_rows('tokens')}, 2, 32 )" in header
    assert re.findall(r"FILTERS \{\s*(\S+)", header) == ["NONE"] * header.count("FILTERS {")
    (user_block,) = re.findall(r"USERBLOCK_SIZE (\d+)", tool("h5dump", "-B", "-H", sealed))
    assert int(user_block) >= 4096


def test_h5diff_finds_equal_sets_equal_and_names_what_differs(sealed: Path, tmp_path: Path) -> None:
    make_sealed(tmp_path / "again.h5").close()
    tool("h5diff", sealed, tmp_path / "again.h5")
    make_sealed(tmp_path / "other.h5", head=(make_head()[0], make_head()[1] + 1)).close()
    command = ["h5diff", str(sealed), str(tmp_path / "other.h5")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "</head/bias> and </head/bias>" in done.stdout
    assert "/outputs" not in done.stdout


def test_a_repacked_copy_has_the_numbers_and_is_no_feature_set(sealed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.h5"
    tool("h5repack", "-f", "GZIP=1", sealed, copy)
    with h5py.File(copy) as file:
        for name, values in make_values().items():
            np.testing.assert_array_equal(file["outputs"][name][:], values, strict=True)
        assert json.loads(file["manifest"][()])["key"]["backbone"]["name"] == "tiny/net"
    with pytest.raises((CorruptError, NotAFeatureSetError)):
        FeatureSet(copy)
