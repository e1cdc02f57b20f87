"""``featurebank export``: a feature set as NumPy files, Parquet, safetensors, or a folder for Hugging Face datasets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.keeping.export_formats import FORMATS, format_of, written_names
from featurebank.pipelines.stores import DEFAULT_STORE, FingerprintOption, StoreOption, one_set
from featurebank.pipelines.streams import JsonOption, console, print_json
from featurebank.store import FeatureSet, InvalidInputError
from featurebank.store.filing import named_when_complete
from featurebank.store.places import expanded

__all__ = ["export", "write_export"]


def write_export(feature_set: FeatureSet, target: Path, form: str | None = None, outputs: Sequence[str] = ()) -> int:
    """Writes a feature set in another format and returns its bytes; all rows, the failed ones with ``ok`` false.

    Args:
        feature_set: What to write.
        target: The file, or for ``npy`` and ``hf`` the folder; it gets its name when it is complete.
        form: ``npy``, ``parquet``, ``safetensors`` or ``hf``; by default what the target's suffix says, or ``npy``.
        outputs: The outputs; all if none is named.

    Raises:
        InvalidInputError: another format, or a suffix of another.
        NotFoundError: an unknown output.
        ExistsError: there is something at ``target``, or has come there meanwhile; it is kept.
        StorageError: the disk is full, read-only, failing; nothing is left behind.
        CorruptError: the rows to be written are damaged.
    """
    form = format_of(target, form)
    chosen = list(dict.fromkeys(outputs)) or list(feature_set.outputs)
    for name in chosen:
        feature_set.info(name)
    with named_when_complete(target) as hidden:
        FORMATS[form](feature_set, chosen, hidden)
    files = [target] if target.is_file() else [path for path in target.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files)


def export(  # noqa: PLR0917 - one for each option
    dataset: Annotated[str, typer.Argument(metavar="DATASET/SPLIT", help="Or DATASET/SPLIT@BACKBONE.")],
    backbone: Annotated[str, typer.Argument(help="The backbone's name.", metavar="[BACKBONE]")],
    target: Annotated[
        Path | None, typer.Argument(metavar="TARGET", help="The file to write; a folder for npy and hf.")
    ] = None,
    form: Annotated[
        Literal["npy", "parquet", "safetensors", "hf"] | None,
        typer.Option("--format", help="What to write; by default what the suffix says, npy where there is none."),
    ] = None,
    output: Annotated[
        list[str] | None, typer.Option("--output", help="The output that is read; repeatable. Without it, all.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    fingerprint: FingerprintOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write one feature set in a format of others; every row is hashed before it is written."""
    if target is None:
        target, name = expanded(Path(backbone)), None
        if "@" not in dataset:
            raise typer.BadParameter("Missing argument TARGET: DATASET/SPLIT BACKBONE TARGET")
    else:
        name = backbone
    try:
        chosen = format_of(target, form)
    except InvalidInputError as error:
        raise ConfigError(str(error)) from error
    with one_set(store, dataset, name, fingerprint, verify="first_touch") as feature_set:
        nbytes = write_export(feature_set, target, chosen, output or ())
        rows = len(feature_set)
        names = written_names(feature_set, output or feature_set.outputs)
    if as_json:
        print_json({"path": str(target), "format": chosen, "rows": rows, "nbytes": nbytes, "names": names})
    else:
        console().print(f"{target}: {rows:,} rows, {nbytes:,} bytes", highlight=False, soft_wrap=True)
        for name, written in names.items():
            if name != written:
                console().print(f"output {name} is written as {written}", highlight=False, soft_wrap=True)
