"""The store that a command reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featurebank.store import FeatureStore, NotFoundError
from featurebank.store.places import STORE_VARIABLE

__all__ = ["DEFAULT_STORE", "StoreOption", "existing_store"]

DEFAULT_STORE = Path("features")
StoreOption = Annotated[Path, typer.Option("--store", envvar=STORE_VARIABLE, help="The store's folder.")]


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
