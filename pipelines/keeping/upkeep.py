"""Verbs that keep a store: what it can do without, what another store has, and compressed copies for shipping."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from featurebank.pipelines.keeping.inspection import entry_json, size_text
from featurebank.pipelines.stores import (
    DEFAULT_STORE,
    BackboneOption,
    DatasetOption,
    StoreOption,
    existing_store,
    listed,
)
from featurebank.pipelines.streams import JsonOption, console, print_json
from featurebank.pipelines.tables import line, titled_table
from featurebank.store import Entry, ExistsError, FeatureStore, StoreError

__all__ = ["gc", "index", "merge", "pack", "unpack"]


def gc(
    store: StoreOption = DEFAULT_STORE,
    delete: Annotated[bool, typer.Option("--delete", help="Delete what is listed; without it, nothing is.")] = False,
    hours: Annotated[
        float, typer.Option("--hours", min=0, help="How long nobody must have written to a partial.")
    ] = 24,
    as_json: JsonOption = False,
) -> None:
    """List what the store can do without: partials of dead runs, sets of a dataset's earlier content."""
    dispensable = existing_store(store).gc(delete=delete, hours=hours)
    if as_json:
        print_json({"files": [{**vars(garbage), "path": str(garbage.path)} for garbage in dispensable]})
        return
    if not dispensable:
        console().print(f"{store}: nothing to collect", highlight=False)
        return
    gone = sum(garbage.deleted for garbage in dispensable)
    title = (
        f"Deleted from {store}: {gone} of {len(dispensable)}"
        if delete
        else f"Dispensable in {store}: {len(dispensable)}"
    )
    table = titled_table(title, "file", "reason")
    table.add_column("size", justify="right", no_wrap=True)
    for garbage in dispensable:
        kept = garbage.kept or ("a writer holds it" if delete and not garbage.deleted else "")
        reason = f"kept: {garbage.reason}, but {kept}" if kept else garbage.reason
        table.add_row(str(garbage.path.relative_to(store)), reason, size_text(garbage.nbytes))
    console().print(table)
    if not delete and not all(garbage.kept for garbage in dispensable):
        console().print("nothing was deleted; repeat with --delete")


def merge(
    other: Annotated[Path, typer.Argument(help="The other store's folder.")],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Copy every sealed set of another store that this one has not; each copy is verified. Exit 1 if one is refused."""
    merged = FeatureStore(store).merge(existing_store(other))
    if as_json:
        sets = [{**vars(one), "source": str(one.source), "path": str(one.path)} for one in merged]
        print_json({"ok": not any(one.message for one in merged), "sets": sets})
    else:
        table = titled_table(f"Feature sets of {other}: {len(merged)}", "file", "result")
        for one in merged:
            text = f"{one.result}, {one.note}" if one.result == "copied" and one.note else one.result
            result = line(one.message, "red") if one.message else text
            table.add_row(str(one.source.relative_to(other)), result)
        console().print(table)
    if any(one.message for one in merged):
        raise typer.Exit(1)


def index(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """Write index.json into a store's folder: what there is, for those who read it from a server by its URL."""
    there = existing_store(store)
    path, sealed = there.index(), list(there)
    if as_json:
        print_json({"path": str(path), "sets": [entry_json(entry) for entry in sealed]})
        return
    console().print(f"{path}: {len(sealed)} sets, {size_text(sum(e.nbytes for e in sealed))}", highlight=False)
    console().print("publish the folder without its .origin, and write the index anew after each change")


def pack(
    target: Annotated[Path, typer.Argument(help="The folder of the packed store.")],
    store: StoreOption = DEFAULT_STORE,
    dataset: DatasetOption = None,
    backbone: BackboneOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a compressed, verified copy of each sealed set into another store, which reads like any other."""
    _copy(listed(existing_store(store), dataset, backbone), store, target, packing=True, as_json=as_json)


def unpack(
    target: Annotated[Path, typer.Argument(help="The folder of the unpacked store.")],
    store: StoreOption = DEFAULT_STORE,
    dataset: DatasetOption = None,
    backbone: BackboneOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the uncompressed set of each packed one into another store: the bytes that were packed."""
    _copy(listed(existing_store(store), dataset, backbone), store, target, packing=False, as_json=as_json)


def _copy(entries: Sequence[Entry], store: Path, target: Path, *, packing: bool, as_json: bool) -> None:
    rows: list[dict[str, Any]] = []
    for entry in (entry for entry in entries if entry.path.suffix == ".h5"):
        fingerprint = entry.fingerprint.ljust(64, "0")
        place = FeatureStore(target).path_for(entry.dataset, entry.split, entry.backbone, fingerprint)
        row: dict[str, Any] = {
            "source": str(entry.path),
            "path": str(place),
            "before": entry.nbytes,
            "after": 0,
            "error": "",
        }
        try:
            with (
                entry.open("first_touch") as feature_set,
                (feature_set.pack if packing else feature_set.unpack)(place) as copy,
            ):
                row["after"] = copy.nbytes
        except StoreError as error:
            if isinstance(error, ExistsError) and place.exists():
                row["after"] = place.stat().st_size
            else:
                row["error"] = str(error)
        rows.append(row)
    failed = any(row["error"] for row in rows)
    if as_json:
        print_json({"ok": not failed, "sets": rows})
    else:
        table = titled_table(f"{'Packed' if packing else 'Unpacked'} into {target}: {len(rows)}", "file", "result")
        for row in rows:
            sizes = f"{size_text(row['before'])} to {size_text(row['after'])}"
            result = line(row["error"], "red") if row["error"] else sizes
            table.add_row(str(Path(row["source"]).relative_to(store)), result)
        console().print(table)
    if failed:
        raise typer.Exit(1)
