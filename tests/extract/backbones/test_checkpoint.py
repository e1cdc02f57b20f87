"""Checkpoint files: what is taken off, what is refused, and how differences are told."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from limited import run_limited
from safetensors.torch import save_file
from torch import nn

from featurebank.extract.backbones.checkpoint import decode, differences, load_strictly, read, state_dict_of
from featurebank.extract.backbones.configurations import read_configuration
from featurebank.extract.backbones.contract import Weights
from featurebank.extract.backbones.naming import checked_outputs, given_weights, split_random
from featurebank.extract.errors import AssetError, WeightsError
from featurebank.store.errors import UnknownNameError


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def saved(tmp_path: Path, content: object, name: str = "w.pth") -> Weights:
    path = tmp_path / name
    torch.save(content, path)
    return Weights(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), path=path)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("wrap", ["", "state_dict", "model", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_wrappers_and_prefixes_come_off(tmp_path: Path, wrap: str, prefix: str) -> None:
    state = model().state_dict()
    content: Any = {prefix + k: v for k, v in state.items()}
    content = {wrap: content, "epoch": 3} if wrap else content
    assert same(state_dict_of(saved(tmp_path, content)), state)


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    state = model().state_dict()
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    assert same(decode(path.read_bytes(), path), state)


def test_two_sets_of_tensors_are_ambiguous(tmp_path: Path) -> None:
    state = model().state_dict()
    with pytest.raises(WeightsError, match=r"expected one set of tensors, found several \(state_dict, model_ema\)"):
        state_dict_of(saved(tmp_path, {"state_dict": state, "model_ema": state}))


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.zeros(1)], {}])
def test_no_tensors_by_name(tmp_path: Path, content: object) -> None:
    with pytest.raises(WeightsError, match="expected tensors by name, found"):
        state_dict_of(saved(tmp_path, content))


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("exit 1",)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_code_garbage_and_cut_files_are_refused(tmp_path: Path, suffix: str) -> None:
    good = tmp_path / f"good{suffix}"
    if suffix == ".safetensors":
        save_file(model().state_dict(), good)
    else:
        torch.save(model().state_dict(), good)
    trap = tmp_path / "trap.pth"
    torch.save({"w": _Trap()}, trap)
    for data in (trap.read_bytes(), b"garbage", b"", good.read_bytes()[:-200]):
        with pytest.raises(WeightsError, match="found a file that cannot be read as one") as caught:
            decode(data, good)
        assert "weights_only=False" not in str(caught.value)


def test_read_compares_the_digest_and_names_the_file(tmp_path: Path) -> None:
    weights = saved(tmp_path, model().state_dict())
    assert weights.path is not None
    data = bytearray(read(weights))
    data[100] ^= 1
    weights.path.write_bytes(data)
    with pytest.raises(AssetError, match=f"{weights.path}: expected SHA-256 {weights.sha256}, found") as caught:
        read(weights)
    assert hashlib.sha256(data).hexdigest() in str(caught.value)
    weights.path.unlink()
    with pytest.raises(AssetError, match="No such file"):
        read(weights)
    with pytest.raises(AssetError, match="found none"):
        read(Weights(sha256="0" * 64))


def test_every_kind_of_difference_is_named_with_both_shapes() -> None:
    tensors = dict(model().state_dict())
    del tensors["0.bias"]
    tensors["1.weight"] = torch.zeros(5)
    tensors["2.weight"] = torch.zeros(6)
    found = ["0.bias: expected (4,), found nothing", "1.weight: expected (4,), found (5,)"]
    assert differences(model(), tensors) == [*found, "2.weight: expected nothing, found (6,)"]
    with pytest.raises(WeightsError, match=r"backbone x: .* 3 of its tensors differ"):
        load_strictly(model(), tensors, what="backbone x")


def test_at_most_ten_differences_are_shown() -> None:
    many = {f"extra.{i}": torch.zeros(1) for i in range(14)}
    with pytest.raises(WeightsError, match=r"extra\.9: .*\n.*… and 4 more") as caught:
        load_strictly(model(), {**model().state_dict(), **many}, what="x")
    assert "extra.10" not in str(caught.value)


def test_counters_of_batches_may_be_missing() -> None:
    tensors = {k: v + 1 for k, v in model().state_dict().items() if not k.endswith("num_batches_tracked")}
    target = model()
    load_strictly(target, tensors, what="x")
    assert torch.equal(target.state_dict()["1.running_var"], tensors["1.running_var"])


def test_random_and_checkpoint_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected random weights or a checkpoint, found both"):
        given_weights("x@random", 0, tmp_path / "w.pth")
    with pytest.raises(AssetError, match=r"w\.pth: expected a readable file"):
        given_weights("x", None, tmp_path / "w.pth")


@pytest.mark.parametrize("suffix", ["@", "@random:", "@random:-1", "@random:1.5", "@Random", "@random:1@random:2"])
def test_other_suffixes_are_refused(suffix: str) -> None:
    with pytest.raises(UnknownNameError, match="must be 'random' or 'random:<seed>'"):
        split_random(f"mobilenetv2{suffix}")


@pytest.mark.parametrize("outputs", [[], ["pooled", "pooled"], "pooled", ["Pooled"], ["blocks.01.cls"], ["../x"]])
def test_outputs_that_cannot_be(outputs: Any) -> None:
    with pytest.raises(UnknownNameError, match="output"):
        checked_outputs("x", outputs, ("pooled",))


def archive(pickled: bytes, storage: bytes = b"\0\0\0\0", compression: int = zipfile.ZIP_STORED) -> bytes:
    """What torch.save writes, by hand."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        members = {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n", "data/0": storage}
        for name, content in members.items():
            made.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def floats(count: int, size: int, stride: int) -> bytes:
    """A pickle of one tensor ``a`` of a storage of so many values."""
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuJ" + struct.pack("<i", count) + b"tQ"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0J" + struct.pack("<i", size) + b"\x85K"
    return b"\x80\2}X\1\0\0\0a" + rebuilt + bytes([stride]) + b"\x85\x89ccollections\nOrderedDict\n)RtRs."


FULL = b"\x80\2cbuiltins\nbytearray\nJ" + struct.pack("<i", 2_000_000_000) + b"\x85R."
NAMED = b"\x80\4\x8c\x08builtins\x8c\x09bytearray\x93J" + struct.pack("<i", 2_000_000_000) + b"\x85R."
HOSTILE = {
    "a deflated storage": (
        archive(floats(10**6, 10**6, 1), bytes(4 * 10**6), zipfile.ZIP_DEFLATED),
        "the compressed member",
    ),
    "a bytearray": (archive(FULL), "a bytearray, which may be of any length"),
    "a bytearray by its names": (archive(NAMED), "a bytearray, which may be of any length"),
    "a bytearray in an old file": (FULL, "a bytearray, which may be of any length"),
    "one value repeated": (archive(floats(1, 2_000_000_000, 0)), "tensors of 8000000000 bytes in a file of"),
    "containers": (archive(b"\x80\2(" + b"}" * 2_100_000 + b"l."), "a pickle of more than 2,000,000 operations"),
    "depth": (archive(b"\x80\2" + b"]" * 100_000 + b"a" * 99_999 + b"."), "expected"),
    "fewer bytes than values": (archive(floats(1000, 1000, 1)), "expected"),
    "values behind the end": (archive(floats(1, 1000, 1)), "expected"),
    "a cut archive": (archive(FULL)[:-10], "expected"),
}


@pytest.mark.parametrize(("data", "found"), HOSTILE.values(), ids=HOSTILE)
def test_c14_checkpoint_bombs_are_refused(data: bytes, found: str) -> None:
    with pytest.raises(WeightsError, match=found):
        decode(data, Path("w.pth"))


def test_c14_the_hand_written_archive_is_one() -> None:
    assert decode(archive(floats(1, 3, 0)), Path("w.pth"))["a"].tolist() == [0, 0, 0]


def test_c14_a_safetensors_header_is_short() -> None:
    header = b"{" + b" " * (17 << 20) + b"}"
    with pytest.raises(WeightsError, match="a header of 17825794 bytes, more than 16777216"):
        decode(struct.pack("<Q", len(header)) + header, Path("w.safetensors"))


BOMB = """
try:
    check_file(pathlib.Path(sys.argv[2]).read_bytes(), safetensors=False)
except ValueError as error:
    print(error)
"""


def test_c14_a_bomb_takes_no_more_memory_than_its_file(tmp_path: Path) -> None:
    """100 MB of zeros in 100 kB."""
    file = tmp_path / "bomb"
    file.write_bytes(archive(floats(25_000_000, 25_000_000, 1), bytes(100_000_000), zipfile.ZIP_DEFLATED))
    imports = "from featurebank.extract.backbones.checkpoint_limits import check_file\n"
    assert "the compressed member" in run_limited(BOMB, file, imports=imports, megabytes=50)


def test_c14_pipes_and_devices_are_no_checkpoints(tmp_path: Path) -> None:
    """A pipe never answers, a device never ends."""
    os.mkfifo(tmp_path / "pipe.pth")
    for path in (tmp_path / "pipe.pth", Path("/dev/zero")):
        with pytest.raises(AssetError, match="no regular file"):
            given_weights("timm:resnet18", None, path)
        with pytest.raises(AssetError, match="no regular file"):
            read(Weights(sha256="0" * 64, path=path))
        with pytest.raises(AssetError, match="no regular file"):
            read_configuration(path)
