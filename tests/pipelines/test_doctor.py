"""``featurebank doctor``: what it looks at, when it fails, and what it says to do."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from pathlib import Path

import pytest
from command_line import featurebank_, words

from featurebank.pipelines.keeping import doctor


def test_doctor_says_what_a_run_would_use() -> None:
    findings = featurebank_("doctor", "--json")
    known = {f["check"]: f for f in findings.json["findings"]}
    assert {"python", "torch", "device", "precision", "cores", "C++ compiler", "cache", "network"} <= set(known)
    assert {"faiss", "hdf5plugin", "dask", "distributed", "torch's build", "hub's cache", "torch's cache"} <= set(known)
    assert known["python"]["found"] == ".".join(map(str, sys.version_info[:3]))
    assert findings.code == int(not all(f["ok"] for f in known.values()))
    done = featurebank_("doctor")
    assert done.code == findings.code
    assert "torch and torchvision" in done.out
    assert words(done.out).endswith(words((findings.json["to_do"] or ["featurebank features CONFIG --dry-run"])[-1]))


def test_doctor_exits_1_where_something_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setenv("FEATUREBANK_CACHE", str(tmp_path))
    (tmp_path / "file").touch()
    done = featurebank_("doctor", "--store", tmp_path / "file")
    assert done.code == 1
    _, _, end = words(done.out).partition("To do ")
    assert "(torch): pip install 'featurebank[extract]'" in end
    assert "(store): not writable: name another folder with --store or FEATUREBANK_STORE" in end
    assert "dask" not in end, "a run goes without it"


@pytest.mark.parametrize(
    ("cuda", "n_devices", "driver", "advice"),
    [
        ("13.2", 2, True, ""),
        ("13.2", 0, False, "computes on the CPU; a GPU needs NVIDIA's driver"),
        ("13.2", 0, True, "there is a GPU's driver, and no GPU in sight"),
        (None, 0, True, "there is a GPU's driver: install PyTorch's build for CUDA"),
        (None, 0, False, ""),
    ],
)
def test_doctor_knows_whether_torch_suits_the_machine(
    cuda: str | None, n_devices: int, driver: bool, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "/bin/nvidia-smi" if driver else None)
    finding = doctor._build(cuda, n_devices)
    assert finding.ok is (not driver or n_devices > 0)
    assert finding.advice.startswith(advice)
    assert bool(finding.advice) == bool(advice)


def test_doctor_says_that_two_builds_of_faiss_are_one_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.15.1")
    (finding,) = doctor._faiss()
    assert (finding.found, finding.ok) == ("faiss-cpu 1.15.1, faiss-gpu 1.15.1", False)
    assert "pip uninstall faiss-cpu faiss-gpu" in finding.advice
