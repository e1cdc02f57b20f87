"""``featurebank datasets``: the manifest as a table, one dataset with what must lie where, and ``docs/datasets.md``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from featurebank.pipelines.streams import JsonOption, console, print_json
from featurebank.pipelines.tables import titled_table

if TYPE_CHECKING:
    from featurebank.extract.datasets import NamedDataset, SplitState

__all__ = ["datasets", "markdown"]

LISTED = 20
"""How many splits, or missing files, are named to a person."""


def datasets(
    name: Annotated[str | None, typer.Argument(help="A dataset, folder:PATH or the like: what lies there.")] = None,
    root: Annotated[Path | None, typer.Option("--root", help="Where its files lie.")] = None,
    split: Annotated[list[str] | None, typer.Option("--split", help="Only this split; repeatable.")] = None,
    truth: Annotated[
        Path | None, typer.Option("--truth", help="Write the ground truth of a revisited set for `retrieve`.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the datasets known by name; of one, say what must lie where and which files are missing."""
    from featurebank.extract.datasets import examine, named
    from featurebank.extract.errors import search
    from featurebank.store.errors import UnknownNameError, unknown_name

    if name is None:
        _list(_all(), as_json=as_json)
        return
    if ":" in name and not name.startswith("python:"):
        _opened(name, root, split, as_json=as_json)
        return
    try:
        row = named(name)
    except UnknownNameError:
        rows = _all()
        if not (matching := search(name, {row.name: (row.title, row.kind) for row in rows})):
            raise
        _list([row for row in rows if row.name in matching], as_json=as_json)
        return
    options = name.rpartition("@")[2] if "@" in name else ""
    place = row.root(root)
    if strangers := [one for one in split or () if one not in row.splits]:
        raise unknown_name(f"split of {row.name}", strangers[0], row.splits)
    if truth is not None:
        _write_truth(row, place, truth, as_json=as_json)
        return
    looked = place.is_dir() or root is not None
    states = [examine(row, place, one, options) for one in split or row.splits] if looked and not _fetched(row) else []
    if as_json:
        print_json({**_json(row), "root": str(place), "state": [vars(state) | {"ok": state.ok} for state in states]})
    else:
        _print_dataset(row, place, states, console())
    if root is not None and not all(state.ok for state in states):
        raise typer.Exit(1)


def _opened(name: str, root: Path | None, wanted: Sequence[str] | None, *, as_json: bool) -> None:
    """One of no official size, such as ``folder:PATH``: what its files hold, which is all that is known of it."""
    from featurebank.extract.datasets import DatasetSpec, open_split, splits
    from featurebank.store.errors import unknown_name

    known = splits(name, root)
    if strangers := [one for one in wanted or () if one not in known]:
        raise unknown_name(f"split of {name}", strangers[0], known)
    opened = [open_split(DatasetSpec(name=name, split=one, root=root)) for one in wanted or known]
    if as_json:
        sizes = {split.spec.split: len(split) for split in opened}
        classes = {split.spec.split: list(split.class_names) for split in opened}
        notes = list(dict.fromkeys(note for split in opened for note in split.notes))
        print_json({"name": name, "splits": sizes, "class_names": classes, "notes": notes})
        return
    out = console()
    out.print(Text(name, "bold"), soft_wrap=True)
    for split in opened:
        out.print(f"  {split.spec.split}: {len(split):,} records, {len(split.class_names):,} classes", soft_wrap=True)
        for note in split.notes:
            out.print(Text(f"    {note}", "yellow"), soft_wrap=True)


def markdown() -> str:
    """``docs/datasets.md``: every dataset of the manifest, in its order."""
    rows = _all()
    lines = [
        "# Datasets",
        "",
        "Made from `extract/datasets/zoo.toml` by `python -m featurebank.pipelines.keeping.datasets`. Names are used",
        "as they are: `name: flowers102` in a run's configuration, with `root:` for the folder that the paths below",
        "begin at (without it: the dataset's name below `$FEATUREBANK_DATA`, else below the asset cache).",
        "`featurebank datasets NAME --root DIR` says which files are missing. Every split is compared with its",
        "official number of records; `NAME@partial` takes what is there, `NAME@per_class=5` the first five records of",
        "each class. Any split divides into `SPLIT-train80` and `SPLIT-test20`, the same on every machine and not",
        "official, for sets without such a split and for validation; a patient's images stay together. (Not the sets",
        "that torchvision reads.)",
        "",
        "Any other images: `folder:PATH`, `manifest:PATH.csv`, `list:FILE` (OpenOOD's image lists), `hf:PATH` (Hugging",
        "Face's `datasets`), `wds:PATTERN` (WebDataset's shards), `coco:FILE.json` (COCO's format;",
        "with a `*` in its name, a split for each file that fits), `torchvision:NAME`; and",
        "[a dataset of one's own](adding-a-dataset.md).",
        "",
        "Of the sets for detection and instance segmentation, and of `coco:FILE.json`, the objects are known too",
        "(`extract/datasets/objects.py`): boxes, classes, crowds, masks. Boxes are continuous: the first pixel is from",
        "0 to 1. What no image can show is dropped or cut off, and counted: boxes that are empty, inverted, outside or",
        "not finite, polygons of fewer than three points, masks of another size, objects of unknown categories.",
        "Refused are more than 10,000 objects of one image, and images of another size than was annotated, as they are",
        "where EXIF turns them.",
        "",
        "| name | dataset | use | splits | classes |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| [`{row.name}`](#{row.name}) | {row.title} | {row.kind} | {_splits_text(row)} | {_classes_text(row)} |"
        for row in rows
    ]
    for row in rows:
        lines += ["", f"## {row.name}", "", f"{row.title}. {row.note}".strip(), ""]
        lines += [f"- {label}: {text}" for label, text in _facts(row) if text]
    return "\n".join(lines) + "\n"


def _all() -> list[NamedDataset]:
    from featurebank.extract.datasets import named
    from featurebank.extract.datasets._named import manifest

    return [named(name) for name in manifest()]


def _fetched(row: NamedDataset) -> bool:
    return repr(row.loader) == "packaged"


def _facts(row: NamedDataset) -> list[tuple[str, str]]:
    """What both pages say of a dataset."""
    choices = [f"`@{name}=` {' or '.join(f'`{value}`' for value in values)}" for name, values in row.options.items()]
    return [
        ("lies as", f"`{row.images}`" if row.images else ""),
        ("looked for", ", ".join(f"`{name}`" for name in row.needs)),
        ("options", "; ".join(choices)),
        ("licence", row.licence),
        ("obtain", row.obtain),
    ]


def _splits_text(row: NamedDataset) -> str:
    if len(row.splits) > LISTED:
        names = list(row.splits)
        return f"{len(names)} of {_number(row.splits[names[0]])}: {names[0]} to {names[-1]}"
    return ", ".join(f"{name} {_number(n)}" for name, n in row.splits.items())


def _number(n: int | None) -> str:
    return "(none official)" if n is None else f"{n:,}"


def _classes_text(row: NamedDataset) -> str:
    numbers = set(row.classes.values()) if isinstance(row.classes, Mapping) else {row.classes}
    return "" if numbers <= {None, 0} else f"{max(n for n in numbers if n):,}"


def _json(row: NamedDataset) -> dict[str, Any]:
    fields = ("name", "title", "kind", "splits", "classes", "options", "needs", "images", "licence", "obtain", "note")
    return {field: getattr(row, field) for field in fields} | {"loader": repr(row.loader)}


def _list(rows: Sequence[NamedDataset], *, as_json: bool) -> None:
    if as_json:
        print_json({"datasets": [_json(row) for row in rows]})
        return
    out = console()
    table = titled_table(f"{len(rows)} datasets", "name", "dataset", "use", "splits", "classes")
    for row in rows:
        table.add_row(row.name, row.title, row.kind, _splits_text(row), _classes_text(row))
    out.print(table)
    out.print(Text("  featurebank datasets NAME: what must lie where, and what is missing"), soft_wrap=True)


def _print_dataset(row: NamedDataset, root: Path, states: Sequence[SplitState], out: Console) -> None:
    out.print(Text.assemble((row.name, "bold"), f"  {row.title}"), soft_wrap=True)
    facts = [("use", row.kind), ("splits", _splits_text(row)), ("classes", _classes_text(row)), ("note", row.note)]
    for label, text in [*facts, *_facts(row)]:
        if text:
            out.print(Text.assemble((f"  {label:<10}", "dim"), f" {text.replace('`', '')}"), soft_wrap=True)
    out.print(Text.assemble((f"  {'root':<10}", "dim"), f" {root}"), soft_wrap=True)
    if not states and not _fetched(row):
        out.print("  nothing is there yet; --root DIR looks elsewhere", style="yellow")
    for state in states:
        for line, style in _state_lines(state):
            out.print(Text(f"  {line}", style=style), soft_wrap=True)


def _state_lines(state: SplitState) -> Iterator[tuple[str, str]]:
    if state.ok:
        yield f"{state.split}: complete, {state.found:,} records", "green"
        return
    if state.error:
        yield f"{state.split}: {state.error}", "red"
    elif state.missing:
        known = "" if state.found is None else f" of {state.found + len(state.missing):,}"
        yield f"{state.split}: {len(state.missing):,}{known} files missing", "red"
        yield from ((f"  {name}", "") for name in state.missing[:LISTED])
        if len(state.missing) > LISTED:
            yield f"  … and {len(state.missing) - LISTED:,} more; --json names them all", "dim"
    else:
        yield f"{state.split}: {state.found:,} records, officially {_number(state.official)}", "red"


def _write_truth(row: NamedDataset, root: Path, path: Path, *, as_json: bool) -> None:
    from featurebank.extract.datasets import Place
    from featurebank.extract.datasets.loaders.retrieval import write_revisited_truth
    from featurebank.pipelines.errors import ConfigError

    if repr(row.loader) != "retrieval.revisited":
        raise ConfigError(f"--truth: expected roxford5k or rparis6k, which come with one, found {row.name}")
    n = write_revisited_truth(Place(root, row.name), path)
    console(stderr=True).print(f"{path}: the ground truth of {n} queries", soft_wrap=True)
    if as_json:
        print_json({"path": str(path), "queries": n})


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown())
