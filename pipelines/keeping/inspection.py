"""``featurebank ls``, ``show`` and ``verify``: what lies in a store, as tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from featurebank.pipelines.stores import (
    DEFAULT_STORE,
    BackboneOption,
    DatasetOption,
    FingerprintOption,
    StoreOption,
    existing_store,
    listed,
    one_set,
    parted,
)
from featurebank.pipelines.streams import JsonOption, console, print_json
from featurebank.pipelines.tables import line, titled_table
from featurebank.store import Entry, FeatureSet, VerifyReport
from featurebank.store.fingerprint import differences
from featurebank.store.text import shown

__all__ = ["ls", "set_view", "show", "size_text", "verify"]

STATE_STYLE = {"sealed": "green", "partial": "yellow", "damaged": "red", "unreadable": "yellow"}
UNCHECKED = 3  # the exit code of `verify` where nothing is known to be damaged, but not all is known


def ls(
    store: StoreOption = DEFAULT_STORE,
    dataset: DatasetOption = None,
    backbone: BackboneOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the feature sets of a store, the unfinished and damaged ones too."""
    entries = listed(existing_store(store), dataset, backbone)
    if as_json:
        print_json({"sets": [entry_json(entry) for entry in entries]})
    else:
        console().print(entries_table(entries, store))


def show(  # noqa: PLR0917 - one for each option
    dataset: Annotated[str, typer.Argument(metavar="DATASET/SPLIT", help="Or DATASET/SPLIT@BACKBONE.")],
    backbone: Annotated[str | None, typer.Argument(help="The backbone's name.")] = None,
    store: StoreOption = DEFAULT_STORE,
    fingerprint: FingerprintOption = None,
    diff: Annotated[
        str | None, typer.Option(metavar="FINGERPRINT", help="Instead, where its manifest differs from that set's.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show one feature set: its key, how it was made, its outputs and its failed rows."""
    with one_set(store, dataset, backbone, fingerprint) as feature_set:
        if diff is not None:
            with existing_store(store).by_fingerprint(diff) as other:
                differing = differences(feature_set.manifest, other.manifest)
                names = (feature_set.fingerprint[:16], other.fingerprint[:16])
            if as_json:
                rows = [dict(zip(("field", *names), values, strict=True)) for values in differing]
                print_json({"differences": rows})
            else:
                console().print(differences_table(differing, *names))
        elif as_json:
            print_json(set_json(feature_set))
        else:
            console().print(set_view(feature_set))


def verify(
    dataset: Annotated[
        str | None, typer.Argument(metavar="[DATASET/SPLIT]", help="Only this, or DATASET, or DATASET/SPLIT@BACKBONE.")
    ] = None,
    backbone: Annotated[str | None, typer.Argument(help="The backbone's name.")] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Hash every byte of every sealed set again; exit 1 if one is not what it was, 3 if one could not be checked."""
    there = existing_store(store)
    if dataset is not None and "@" in dataset:
        dataset, backbone = parted(there, dataset, backbone)
    entries = listed(there, dataset, backbone and [backbone])
    reports = [entry.verify() for entry in entries if entry.path.suffix == ".h5"]
    damaged = any(report.result == "damaged" for report in reports)
    whole = all(report.ok for report in reports)
    if as_json:
        sets = [
            {"path": str(r.path), "ok": r.ok, "result": r.result, "error": r.error, "nbytes": r.nbytes} for r in reports
        ]
        print_json({"ok": whole, "sets": sets})
    else:
        console().print(verify_table(reports, store))
    if not whole:
        raise typer.Exit(1 if damaged else UNCHECKED)


def entries_table(entries: Sequence[Entry], root: Path) -> RenderableType:
    """What ``ls`` prints."""
    if not entries:
        return Text(f"{root}: no feature sets")
    table = titled_table(f"Feature sets in {root}: {len(entries)}", "dataset", "backbone")
    for name in ("key", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("rows", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("outputs", overflow="fold")
    for e in entries:
        name = e.state if e.checked else "unreadable"
        state = Text(name, STATE_STYLE[name])
        outputs = e.message or ", ".join(output.name for output in e.outputs)
        names = (f"{e.dataset}/{e.split}", e.name)
        rows = f"{e.n_done:,} of {e.n_rows:,}" if e.state == "partial" else f"{e.n_rows:,}"
        table.add_row(*names, e.fingerprint[:8], state, rows, size_text(e.nbytes), outputs)
    return table


def entry_json(entry: Entry) -> dict[str, Any]:
    """One entry for programs."""
    return {name: value for name, value in asdict(entry).items() if name not in ("root", "served")} | {
        "path": str(entry.path)
    }


def set_json(feature_set: FeatureSet) -> dict[str, Any]:
    """One feature set for programs: the manifest, the arrays and the failed rows."""
    return {
        "path": str(feature_set.path),
        "fingerprint": feature_set.fingerprint,
        "n_rows": feature_set.n_rows,
        "n_ok": int(feature_set.ok.sum()),
        "outputs": {name: _array_json(feature_set, name) for name in feature_set.outputs},
        "failed": {str(row): reason for row, reason in feature_set.reasons.items()},
        "manifest": feature_set.manifest,
    }


def _array_json(feature_set: FeatureSet, name: str) -> dict[str, Any]:
    info = feature_set.info(name)
    return {
        "shape": [feature_set.n_rows, *info.shape],
        "dtype": info.dtype,
        "chunk_rows": feature_set.chunk_rows(name),
    }


def set_view(feature_set: FeatureSet) -> RenderableType:
    """What ``show`` prints."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column()
    facts.add_column(overflow="fold")
    for name, value in (
        ("path", feature_set.path),
        ("fingerprint", feature_set.fingerprint),
        ("rows", f"{feature_set.n_rows:,} ({int(feature_set.ok.sum()):,} ok, {len(feature_set.reasons):,} failed)"),
        ("labels", f"{feature_set.labels.shape}"),
        ("columns", ", ".join(feature_set.columns) or "none"),
        ("head", "none" if feature_set.head is None else f"{feature_set.head[0].shape}"),
    ):
        facts.add_row(Text(name, "bold"), line(str(value)))
    outputs = titled_table("Outputs", "output", "shape", "dtype", "rows a chunk")
    for name in feature_set.outputs:
        array = _array_json(feature_set, name)
        outputs.add_row(name, str(tuple(array["shape"])), array["dtype"], str(array["chunk_rows"]))
    provenance = {k: v for k, v in feature_set.provenance.items() if k != "class_names"}
    parts: list[RenderableType] = [facts, "", outputs, "", _tree("Key", feature_set.key), ""]
    parts += [_tree("Provenance", provenance), ""]
    for row, reason in list(feature_set.reasons.items())[:20]:
        parts.append(Text.assemble((f"row {row}", "yellow"), f" {shown(str(feature_set.ids[row]))}: {shown(reason)}"))
    return Group(*parts)


def _tree(title: str, value: Mapping[str, Any]) -> Table:
    table = titled_table(title, "field", "value")
    for name, item in _leaves(value):
        table.add_row(name, json.dumps(item, ensure_ascii=False))
    return table


def _leaves(value: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for name, item in value.items():
        below = f"{path}.{name}" if path else name
        leaves += _leaves(item, below) if isinstance(item, Mapping) else [(below, item)]
    return leaves


def differences_table(differing: Sequence[tuple[str, object, object]], left: str, right: str) -> RenderableType:
    """What ``show --diff`` prints: the fields of two manifests that differ."""
    if not differing:
        return Text(f"{left} and {right} have the same manifest")
    table = titled_table(f"Where {left} and {right} differ", "field", left, right)
    for field, *values in differing:
        table.add_row(field, *(json.dumps(value, ensure_ascii=False) for value in values))
    return table


def verify_table(reports: Sequence[VerifyReport], root: Path) -> RenderableType:
    """What ``verify`` prints."""
    if not reports:
        return Text(f"{root}: no sealed feature sets")
    table = titled_table(f"Files verified in {root}: {len(reports)}", "file", "result")
    table.add_column("size", justify="right", no_wrap=True)
    for report in reports:
        style = "green" if report.ok else "red" if report.checked else "yellow"
        error = f": {shown(report.error)}" if report.error else ""
        result = Text.assemble((report.result, style), error)
        table.add_row(str(report.path.relative_to(root)), result, size_text(report.nbytes))
    return table


def size_text(nbytes: int) -> str:
    """Bytes as a person says them.

    >>> size_text(2_560_000), size_text(100)
    ('2.4 MiB', '100 B')
    """
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
