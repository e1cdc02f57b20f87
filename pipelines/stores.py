"""The store that a command reads, and how sets in it are named on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from featurebank.store import Entry, FeatureSet, FeatureStore, NotFoundError
from featurebank.store.errors import unknown_name
from featurebank.store.places import DEFAULT_STORE, STORE_VARIABLE

__all__ = [
    "DEFAULT_STORE",
    "BackboneOption",
    "DatasetOption",
    "FingerprintOption",
    "StoreOption",
    "existing_store",
    "listed",
    "one_set",
    "parted",
]

StoreOption = Annotated[Path, typer.Option("--store", envvar=STORE_VARIABLE, help="The store's folder.")]
DatasetOption = Annotated[str | None, typer.Option("--dataset", help="Only this DATASET or DATASET/SPLIT.")]
BackboneOption = Annotated[list[str] | None, typer.Option("--backbone", help="Only this backbone; repeatable.")]
FingerprintOption = Annotated[str | None, typer.Option("--fingerprint", help="Which set, where several match.")]


def existing_store(folder: Path) -> FeatureStore:
    """The store in a folder that is there.

    Raises:
        NotFoundError: it is not.
    """
    if not folder.is_dir():
        raise NotFoundError(
            f"{folder}: expected a store's folder, found {'a file' if folder.exists() else 'nothing'}; "
            f"name another with --store, or make one: featurebank features CONFIG --store {folder}"
        )
    return FeatureStore(folder)


def listed(store: FeatureStore, dataset: str | None, backbones: Sequence[str] | None) -> list[Entry]:
    """The sets of DATASET or DATASET/SPLIT and of some backbones, or of all.

    Raises:
        UnknownNameError: the store has others, and none of that dataset or of one of the backbones.
    """
    everything = store.ls()
    datasets = {name for entry in everything for name in (entry.dataset, entry.place)}
    names = {name for entry in everything for name in (entry.backbone, entry.name)}
    wanted = [("dataset", dataset, datasets), *(("backbone", name, names) for name in backbones or ())]
    for kind, name, known in wanted:
        if everything and name is not None and name not in known:
            raise unknown_name(kind, name, known)
    return [
        entry
        for entry in everything
        if dataset in (None, entry.dataset, entry.place)
        and (not backbones or {entry.backbone, entry.name} & {*backbones})
    ]


def parted(store: FeatureStore, text: str, backbone: str | None) -> tuple[str, str]:
    """What stands before ``@`` and the backbone behind it, where it is not said apart; the longest known place wins.

    >>> parted(FeatureStore("."), "pets/test", "timm:vit@random")
    ('pets/test', 'timm:vit@random')
    """
    if backbone is not None:
        return text, backbone
    places = {name for entry in store.ls() for name in (entry.dataset, entry.place)}
    before = [place for place in places if text.startswith(f"{place}@")]
    place = max(before, key=len, default=text.partition("@")[0])
    return place, text.removeprefix(f"{place}@")


def one_set(
    folder: Path,
    dataset: str,
    backbone: str | None,
    fingerprint: str | None = None,
    *,
    verify: Literal["header", "first_touch"] = "header",
) -> FeatureSet:
    """Opens the set that DATASET/SPLIT and BACKBONE name, or DATASET/SPLIT@BACKBONE.

    Raises:
        BadParameter: a part is missing.
        StoreError: as `FeatureStore.open`.
    """
    if backbone is None and "@" not in dataset:
        raise typer.BadParameter(f"Missing argument BACKBONE: write it behind {dataset}, or DATASET/SPLIT@BACKBONE")
    store = existing_store(folder)
    place, name = parted(store, dataset, backbone)
    if "/" not in place:
        raise typer.BadParameter(f"must be DATASET/SPLIT, as ls lists them; found {dataset!r}")
    return store.open(place, name, fingerprint=fingerprint, verify=verify)
