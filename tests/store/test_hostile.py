"""Files from strangers: every digest is right, and what they hold is refused without harm to the process."""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
from command_line import featurebank_
from feature_sets import KEY, make_sealed
from resealing import reseal, with_table

from featurebank.store import CorruptError, FeatureSet, FeatureStore, StoreError, UncheckedError, _hdf5
from featurebank.store.fingerprint import fingerprint
from featurebank.store.verify import reported


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout(shape=(5,), dtype="<f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "values", shape=(5,))
    file.create_virtual_dataset("extra", layout)


def external(file: Any) -> None:
    file.create_dataset("extra", (5,), "<f4", external=[("elsewhere.bin", 0, 20)])


def many_objects(file: Any) -> None:
    for number in range(200):
        file.create_group(f"g{number}")


def huge(file: Any) -> None:
    file.create_dataset("extra", (1 << 40, 1 << 20), "<f4", chunks=(1 << 10, 1 << 10))


def attribute_bomb(file: Any) -> None:
    del file.attrs["fingerprint"]
    file.attrs.create("fingerprint", np.zeros(8000, "S1"))


HOSTILE: dict[str, tuple[Callable[[Any], object], str]] = {
    "external link": (lambda f: f.__setitem__("extra", h5py.ExternalLink("elsewhere.h5", "/")), "ExternalLink"),
    "soft link": (lambda f: f.__setitem__("extra", h5py.SoftLink("/records")), "SoftLink"),
    "hard link": (lambda f: f.__setitem__("extra", f["records/id"]), "dataset /extra must be absent"),
    "virtual dataset": (virtual, "virtual dataset"),
    "external storage": (external, "external storage"),
    "huge shape": (huge, "dataset /extra must be absent"),
    "groups": (many_objects, "dataset /g0 must be absent"),
    "named type": (lambda f: f.__setitem__("extra", np.dtype("<f4")), "of another kind, Datatype"),
    "attributes": (lambda f: f.attrs.update({f"a{i}": i for i in range(500)}), "attributes must be"),
    "large attribute": (attribute_bomb, "an attribute of 8000 bytes"),
    "attribute elsewhere": (lambda f: f["records"].attrs.create("extra", 1), "an object with attributes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_store_does_not_hold_is_refused(sealed: Path, name: str) -> None:
    change, message = HOSTILE[name]
    elsewhere = sealed.with_name("elsewhere.bin")
    elsewhere.write_bytes(b"secret" * 10)
    with h5py.File(sealed, "r+") as file:
        change(file)
    _grown(sealed)
    with FeatureSet(sealed) as fs, pytest.raises(CorruptError, match=message):
        fs.verify()


@pytest.mark.parametrize("how", ["crash", "chatter"])
def test_a_file_that_breaks_the_library_breaks_another_process(
    sealed: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    scripts = {"crash": f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})", "chatter": "print('no JSON')"}
    instead_of_hdf5(monkeypatch, scripts[how])
    with FeatureSet(sealed) as fs, pytest.raises(CorruptError, match="HDF5 must be able to read its metadata"):
        fs.verify()


UNABLE = {
    "killed": (f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})", "exit status -9"),
    "ended": (f"import os; os.kill(os.getpid(), {int(signal.SIGTERM)})", "exit status -15"),
    "no memory for Python": ("raise ImportError('failed to map segment from shared object')", "failed to map segment"),
    "no memory for HDF5": (
        "import json; print(json.dumps({'error': 'OSError: memory allocation failed', 'memory': True}))",
        "memory allocation failed",
    ),
    "hang": ("import time; time.sleep(60)", "no answer within 0.3 s"),
}


@pytest.mark.parametrize("how", UNABLE)
def test_b8_a_check_that_could_not_be_made_is_not_damage(
    tmp_path: Path, sealed_bytes: bytes, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    folder = tmp_path / "demo" / "test" / "tiny%2Fnet"
    folder.mkdir(parents=True)
    path = folder / f"{fingerprint(KEY)[:16]}.h5"
    path.write_bytes(sealed_bytes)
    instead_of_hdf5(monkeypatch, UNABLE[how][0])
    if how == "hang":
        monkeypatch.setattr(_hdf5, "_SECONDS", 0.3)
    with FeatureSet(path) as fs, pytest.raises(UncheckedError, match=f"could not be checked: .*{UNABLE[how][1]}"):
        fs.verify()
    (report,) = FeatureStore(tmp_path).verify()
    assert (report.ok, report.result) == (False, "could not be checked")
    assert "damaged" not in report.error
    done = featurebank_("verify", "--store", tmp_path, "--json")
    assert (done.code, done.json["sets"][0]["result"]) == (3, "could not be checked")
    (folder / f"{'0' * 16}.h5").write_bytes(b"something else")
    assert featurebank_("verify", "--store", tmp_path).code == 1


def test_b8_little_memory_and_failing_disks_are_no_damage(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 26, 1 << 26))\n"
    code += "import featurebank.store._hdf5 as h; h.main()"
    instead_of_hdf5(monkeypatch, code)
    assert reported(sealed).result == "could not be checked"
    monkeypatch.undo()

    def failing(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", failing)
    report = reported(sealed)
    assert (report.result, report.checked) == ("could not be checked", False)
    monkeypatch.undo()
    assert reported(sealed).result == "as sealed"


def instead_of_hdf5(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **settings: run([command[0], "-c", code], **settings))


def test_damaged_metadata_with_right_digests_is_one_clear_error(sealed: Path) -> None:
    data = bytearray(sealed.read_bytes())
    at = data.index(b"OHDR")
    data[at : at + 64] = b"\xff" * 64
    sealed.write_bytes(data)
    reseal(sealed)
    with FeatureSet(sealed) as fs, pytest.raises(CorruptError, match="HDF5 must be able to read its metadata"):
        fs.verify()


def test_the_limits_hold_for_the_other_process(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_hdf5, "_MOST_OBJECTS", 2)
    with pytest.raises(ValueError, match="more than 2 objects"):
        _hdf5._describe(str(sealed))


def test_a_sparse_file_does_not_keep_the_reader_busy(sealed: Path) -> None:
    size = 1 << 36
    os.truncate(sealed, size)
    with sealed.open("r+b") as file:
        file.seek(16)
        file.write(struct.pack("<Q", size))
    with_table(sealed, lambda _: None, read=8192)
    with pytest.raises(CorruptError, match="what lies outside the arrays"):
        FeatureSet(sealed)


@pytest.mark.parametrize("depth", [200, 900, 5000])
def test_deep_keys_are_refused_or_read(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "deep.h5"
    key = {**KEY, "deep": "x" * (2 * depth)}
    make_sealed(path, key=key).close()
    data = path.read_bytes()
    old = json.dumps("x" * (2 * depth)).encode()
    path.write_bytes(data.replace(old, b"[" * (depth + 1) + b"]" * (depth + 1)))
    reseal(path)
    with pytest.raises(CorruptError, match="key must have the fingerprint"):
        FeatureSet(path)


def test_a_link_out_of_the_store_is_never_read(tmp_path: Path, sealed: Path) -> None:
    folder = tmp_path / "store" / "a" / "b" / "c"
    folder.mkdir(parents=True)
    (folder / f"{'0' * 16}.h5").symlink_to(sealed)
    store = FeatureStore(tmp_path / "store")
    (entry,) = store.ls()
    assert entry.state == "damaged"
    with pytest.raises(StoreError):
        store.open("a/b", "c")


def _grown(path: Path) -> None:
    """Sets the size in the header to the file's, then every digest."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, 16, len(data))
    path.write_bytes(data)
    with_table(path, lambda _: None)
    reseal(path)


def test_b8_a_newer_file_and_a_missing_package_are_no_damage(
    tmp_path: Path, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hdf5plugin")
    with FeatureSet(sealed) as fs:
        fs.pack(tmp_path / "packed.h5").close()
    with sealed.open("r+b") as file:
        file.seek(8)
        file.write(struct.pack("<I", 99))
    assert reported(sealed).result == "could not be checked"
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    assert reported(tmp_path / "packed.h5").result == "could not be checked"
