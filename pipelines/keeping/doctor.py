"""``featurebank doctor``: what this machine has, and what a run would do with it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import typer
from rich.table import Table

from featurebank.extract.assets import cache_dir
from featurebank.extract.device import cpu_cores, has_bfloat16, resolve_device, resolve_precision
from featurebank.pipelines.streams import JsonOption, console, print_json
from featurebank.pipelines.tables import line, titled_table
from featurebank.store.requirements import advice as advice_for

__all__ = ["Finding", "doctor", "doctor_table", "examine"]


LIBRARIES = {name: name for name in ("h5py", "torch", "torchvision", "timm")} | {
    "pillow": "PIL",
    "scikit-learn": "sklearn",
}  # as pip calls them, and Python


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at; ``advice`` says what to do where ``ok`` is false, or what follows from it."""

    check: str
    found: str
    ok: bool = True
    advice: str = ""


def doctor(as_json: JsonOption = False) -> None:
    """Check this machine: libraries, devices, compiler, cache, and what a run would use."""
    findings = examine()
    whole = all(finding.ok for finding in findings)
    if as_json:
        print_json({"ok": whole, "findings": [vars(finding) for finding in findings]})
    else:
        console().print(doctor_table(findings))
    if not whole:
        raise typer.Exit(1)


def examine() -> list[Finding]:
    """Looks at everything; fetches nothing."""
    return [*_libraries(), *_devices(), *_places()]


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


def _devices() -> Iterator[Finding]:
    if find_spec("torch") is None:
        return
    device = resolve_device("auto")
    yield Finding(check="device", found=device, advice="what `device: auto` means here")
    lacking = "" if has_bfloat16(device) else "; no bfloat16 in hardware"
    precision = resolve_precision("auto", device)
    yield Finding(check="precision", found=precision, advice=f"what `precision: auto` means here{lacking}")
    yield Finding(check="cores", found=str(cpu_cores()))
    compiler = shutil.which("g++") or shutil.which("clang++")
    advice = "" if compiler else "install g++ to let networks be compiled: about twice as fast on a CPU"
    yield Finding(check="C++ compiler", found=compiler or "none", advice=advice)


def _places() -> Iterator[Finding]:
    folder = cache_dir()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    writable = os.access(existing, os.W_OK)
    advice = "" if writable else "not writable: set FEATUREBANK_CACHE to a folder that is"
    yield Finding(check="cache", found=str(folder), ok=writable, advice=advice)
    free = shutil.disk_usage(existing).free / 2**30
    advice = "" if free > 1 else "make room"
    yield Finding(check="free space there", found=f"{free:.0f} GiB", ok=free > 1, advice=advice)


def doctor_table(findings: list[Finding]) -> Table:
    """The findings for a person."""
    table = titled_table("This machine", "check", "found", "advice")
    for finding in findings:
        table.add_row(finding.check, line(finding.found, "" if finding.ok else "red"), finding.advice)
    return table
