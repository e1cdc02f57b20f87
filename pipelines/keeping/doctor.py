"""``featurebank doctor``: what this machine has, and what a run would do with it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import typer
from rich.table import Table

from featurebank.extract.assets import cache_dir
from featurebank.extract.backbones.hub_cache import hub_is_offline
from featurebank.extract.device import cpu_cores, has_bfloat16, resolve_device, resolve_precision
from featurebank.extract.reaching import unreachable
from featurebank.pipelines.stores import DEFAULT_STORE, StoreOption
from featurebank.pipelines.streams import JsonOption, console, print_json
from featurebank.pipelines.tables import line, titled_table
from featurebank.store.requirements import advice as advice_for

__all__ = ["Finding", "doctor", "doctor_table", "examine", "to_do"]


LIBRARIES = {name: name for name in ("h5py", "torch", "torchvision", "timm")} | {
    "pillow": "PIL",
    "scikit-learn": "sklearn",
}  # as pip calls them, and Python
FURTHER = {
    "hdf5plugin": ("hdf5plugin", "packed sets"),
    "dask": ("dask", "several processes and machines"),
    "distributed": ("distributed", "several processes and machines"),
}  # what a run goes without, and what for
LEAST_FREE = 1.0  # GiB
HUB_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at; ``advice`` says what to do where ``ok`` is false, or what follows from it."""

    check: str
    found: str
    ok: bool = True
    advice: str = ""


def doctor(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """Check this machine: libraries, devices, compiler, network, folders, and what a run would use."""
    findings = examine(store)
    whole = all(finding.ok for finding in findings)
    if as_json:
        print_json({"ok": whole, "findings": [vars(finding) for finding in findings], "to_do": to_do(findings)})
    else:
        console().print(doctor_table(findings))
        for text in to_do(findings) or ["Nothing is missing. Next: featurebank features CONFIG --dry-run"]:
            console().print(line(text), soft_wrap=True)
    if not whole:
        raise typer.Exit(1)


def examine(store: Path = DEFAULT_STORE) -> list[Finding]:
    """Looks at everything; fetches nothing, and asks the hub whether it answers.

    Args:
        store: the folder whose room is looked at; it need not exist.
    """
    return [*_libraries(), *_further(), *_faiss(), *_devices(), *_network(), *_places(store)]


def to_do(findings: Sequence[Finding]) -> list[str]:
    """What to do about the findings that stop something, a line each and each once."""
    wrong = [finding for finding in findings if not finding.ok]
    return list(dict.fromkeys(f"To do ({finding.check}): {finding.advice or finding.found}" for finding in wrong))


def _libraries() -> Iterator[Finding]:
    yield Finding(check="python", found=platform.python_version())
    for name, package in LIBRARIES.items():
        try:
            yield Finding(check=name, found=importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(check=name, found="missing", ok=False, advice=advice_for(package).partition(": ")[2])
    if find_spec("torch") is None:
        return
    try:
        import torch
        import torchvision  # type: ignore[import-untyped]

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError) as error:
        advice = "install the torchvision that was built for this torch"
        yield Finding(check="torch and torchvision", found=str(error).splitlines()[0], ok=False, advice=advice)
    else:
        yield Finding(check="torch and torchvision", found="fit together")


def _further() -> Iterator[Finding]:
    for name, (package, purpose) in FURTHER.items():
        try:
            yield Finding(check=name, found=importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            advice = f"for {purpose}: {advice_for(package).partition(': ')[2]}"
            yield Finding(check=name, found="not installed", advice=advice)


def _faiss() -> Iterator[Finding]:
    """FAISS comes in two distributions of one module."""
    there = {}
    for name in ("faiss-cpu", "faiss-gpu"):
        try:
            there[name] = f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    found, ok, advice = ", ".join(there.values()), True, ""
    if not there:
        found, advice = "not installed", f"for --index: {advice_for('faiss').partition(': ')[2]}"
    elif len(there) > 1:
        ok, advice = False, "they are one module: pip uninstall faiss-cpu faiss-gpu, then install the one wanted"
    elif "faiss-gpu" in there:
        try:
            import faiss

            found += f", sees {faiss.get_num_gpus()} GPUs"
        except ImportError as error:
            ok, advice = False, f"{str(error).splitlines()[0]}: install faiss-cpu, or CUDA's libraries"
    yield Finding(check="faiss", found=found, ok=ok, advice=advice)


def _devices() -> Iterator[Finding]:
    if find_spec("torch") is None:
        return
    import torch

    yield _build(torch.version.cuda, torch.cuda.device_count())
    device = resolve_device("auto")
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        yield Finding(check=f"cuda:{index}", found=f"{card.name}, {card.total_memory / 2**30:.0f} GiB")
    yield Finding(check="device", found=device, advice="what `device: auto` means here")
    lacking = "" if has_bfloat16(device) else "; no bfloat16 in hardware"
    precision = resolve_precision("auto", device)
    yield Finding(check="precision", found=precision, advice=f"what `precision: auto` means here{lacking}")
    yield Finding(check="cores", found=str(cpu_cores()))
    compiler = shutil.which("g++") or shutil.which("clang++")
    advice = "" if compiler else "install g++ if networks shall be compiled (`compile: always`)"
    yield Finding(check="C++ compiler", found=compiler or "none", advice=advice)


def _build(cuda: str | None, n_devices: int) -> Finding:
    """Whether PyTorch's build suits the machine.

    Args:
        cuda: the version that it was built for; None for none.
        n_devices: how many GPUs it sees.
    """
    found = f"for CUDA {cuda}, sees {n_devices} GPUs" if cuda else "for CPUs"
    driver = shutil.which("nvidia-smi") is not None
    advice = ""
    if driver and not cuda:
        advice = "there is a GPU's driver: install PyTorch's build for CUDA to use it"
    elif driver and not n_devices:
        advice = "there is a GPU's driver, and no GPU in sight: nvidia-smi and CUDA_VISIBLE_DEVICES say why"
    elif cuda and not n_devices:
        advice = "computes on the CPU; a GPU needs NVIDIA's driver"
    return Finding(check="torch's build", found=found, ok=not (driver and advice), advice=advice)


def _network() -> Iterator[Finding]:
    if find_spec("huggingface_hub") is None:
        return
    from huggingface_hub import constants

    if hub_is_offline():
        yield Finding(check="network", found="not used", advice="an environment variable says offline")
        return
    reason = unreachable(constants.ENDPOINT, seconds=HUB_SECONDS, any_answer=True)
    advice = "weights come from the caches below, or from checkpoint:" if reason else ""
    yield Finding(check="network", found=reason or "the hub of weights answers", advice=advice)


def _places(store: Path) -> Iterator[Finding]:
    yield from _place("store", store, "name another folder with --store or FEATUREBANK_STORE")
    yield from _place("cache", cache_dir(), "set FEATUREBANK_CACHE to a folder that is")
    if find_spec("huggingface_hub") is not None:
        from huggingface_hub import constants

        yield from _place("hub's cache", Path(constants.HF_HUB_CACHE), "set HF_HOME to a folder that is")
    if find_spec("torch") is not None:
        import torch

        yield from _place("torch's cache", Path(torch.hub.get_dir()), "set TORCH_HOME to a folder that is")


def _place(check: str, folder: Path, advice: str) -> Iterator[Finding]:
    """Whether a folder can be written, or made, and the room where it lies."""
    folder = folder.absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    writable = existing.is_dir() and os.access(existing, os.W_OK)
    free = shutil.disk_usage(existing).free / 2**30
    why = "" if writable else f"not writable: {advice}"
    if writable and free < LEAST_FREE:
        why = f"make room, or {advice.removesuffix(' that is')}"
    there = "" if existing == folder else ", not made yet"
    yield Finding(check=check, found=f"{folder}, {free:.0f} GiB free{there}", ok=not why, advice=why)


def doctor_table(findings: list[Finding]) -> Table:
    """The findings for a person."""
    table = titled_table("This machine", "check", "found", "advice")
    for finding in findings:
        table.add_row(finding.check, line(finding.found, "" if finding.ok else "red"), finding.advice)
    return table
