"""``featurebank duplicates``: pairs of images that lie close together in cached features, in one set or across two."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from featurebank.pipelines.config import ConfigError
from featurebank.pipelines.probing.inputs import SplitRows, check_alike, read_rows, vectors
from featurebank.pipelines.probing.selection import Selection, parse_key, select
from featurebank.pipelines.reporting import print_line
from featurebank.pipelines.stores import DEFAULT_STORE, StoreOption, existing_store
from featurebank.pipelines.streams import console, print_json
from featurebank.pipelines.tables import line, titled_table
from featurebank.store import FeatureSet

__all__ = ["Found", "duplicates", "find_duplicates"]


@dataclass(frozen=True, kw_only=True)
class Found:
    """The pairs of one backbone.

    Attributes:
        backbone: its name.
        first: rows looked at.
        second: the others; the same object within one set.
        pairs: of `featurebank.retrieval.duplicates.near_duplicates`.
        same: (P,) whether both images are the same bytes.
    """

    backbone: str
    first: SplitRows
    second: SplitRows
    pairs: Any
    same: NDArray[np.bool_]

    def images(self) -> int:
        """How many images of the second set have a duplicate in the first; within one set, how many have any."""
        rows = np.union1d(self.pairs.first, self.pairs.second) if self.first is self.second else self.pairs.second
        return len(np.unique(rows))

    def rows(self, limit: int) -> Iterator[dict[str, Any]]:
        """The most alike pairs: cosine, whether the bytes are the same, ids and classes."""
        sides = [(self.first, self.first.ids, self.pairs.first), (self.second, self.second.ids, self.pairs.second)]
        for pair in range(min(limit, len(self.same))):
            row: dict[str, Any] = {"cosine": float(self.pairs.similarity[pair]), "same_bytes": bool(self.same[pair])}
            for side, (split, ids, places) in zip(("first", "second"), sides, strict=True):
                row[side] = str(ids[places[pair]])
                row[f"{side}_class"] = _class_name(split, int(places[pair]))
            yield row


def find_duplicates(selection: Selection, *, output: str, threshold: float) -> list[Found]:
    """The near duplicates of each pair of sets, or within a set that is paired with itself.

    Args:
        selection: the pairs, one a backbone.
        output: of the sets, one vector a row.
        threshold: of the cosine.

    Raises:
        NotFoundError: a set has no such output.
        ValueError: an output that is not one vector a row, a threshold out of range, or too many pairs.
    """
    from featurebank.retrieval.duplicates import near_duplicates

    found = []
    for pair in selection.pairs:
        first = vectors(read_rows(pair.train, output))
        alone = pair.train == pair.test
        second = first if alone else vectors(read_rows(pair.test, output))
        check_alike([first, second])
        pairs = near_duplicates(first.features, None if alone else second.features, threshold=threshold)
        hashes = _hashes(first)[pairs.first]
        # A record that could not be read when it was hashed has no hash.
        same = (hashes == _hashes(second)[pairs.second]).all(1) & hashes.any(1)
        found.append(Found(backbone=pair.backbone, first=first, second=second, pairs=pairs, same=same))
    return found


def duplicates(  # noqa: PLR0917 - one for each option
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY", help="DATASET/SPLIT, or DATASET/TRAIN:TEST across two; with @BACKBONE for one backbone only."
        ),
    ],
    store: StoreOption = DEFAULT_STORE,
    backbone: Annotated[list[str] | None, typer.Option("--backbone", help="Only this backbone; repeatable.")] = None,
    fingerprint: Annotated[list[str] | None, typer.Option("--fingerprint", help="Which set, of several.")] = None,
    output: Annotated[str, typer.Option("--output", help="What to read.")] = "pooled",
    threshold: Annotated[float, typer.Option("--threshold", help="Cosine from which two images are alike.")] = 0.98,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Pairs that are shown of each backbone.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of tables.")] = False,
) -> None:
    """Find images that lie close together: within a set, or test images that stand in train."""
    start = time.perf_counter()
    if not 0 < threshold <= 1:
        raise ConfigError(f"--threshold must be above 0 and at most 1; found {threshold:g}")
    opened = existing_store(store)
    train = parse_key(key, {entry.dataset for entry in opened.ls()}).train is not None
    selection = select(opened, [key], backbones=backbone or (), fingerprints=fingerprint or (), train=train)
    found = find_duplicates(selection, output=output, threshold=threshold)
    failed = [f"{name}, {place}: {error}" for (name, place), error in selection.failed.items()]
    if as_json:
        print_json({"found": [_json(one, limit) for one in found], "failed": failed, "skipped": selection.passed_over})
    else:
        _print(found, console(), threshold=threshold, limit=limit)
        for text in (*failed, *selection.passed_over):
            print_line(console(), text)
        console().print(f"\n{len(found)} backbones, {time.perf_counter() - start:.1f} s")
    if failed:
        raise typer.Exit(1)


def _hashes(split: SplitRows) -> NDArray[np.uint8]:
    with FeatureSet(split.path) as feature_set:
        return np.asarray(feature_set.content_hash[split.rows])


def _class_name(split: SplitRows, row: int) -> str | None:
    label = split.labels[row]
    return split.class_name(int(label)).strip("'") if label.ndim == 0 and label >= 0 else None


def _json(found: Found, limit: int) -> dict[str, Any]:
    return {
        "backbone": found.backbone,
        "first": found.first.name,
        "second": found.second.name,
        "pairs": len(found.same),
        "same_bytes": int(found.same.sum()),
        "images": found.images(),
        "shown": list(found.rows(limit)),
    }


def _print(found: list[Found], screen: Console, *, threshold: float, limit: int) -> None:
    for one in found:
        alone = one.first is one.second
        where = one.first.name if alone else f"{one.first.name} and {one.second.name}"
        table: Table = titled_table(f"{one.backbone}  {where}")
        for column in ("cosine", "first", "class", "second", "class"):
            table.add_column(column, justify="right" if column == "cosine" else "left", overflow="fold")
        for row in one.rows(limit):
            classes = [row[f"{side}_class"] or "" for side in ("first", "second")]
            style = "" if classes[0] == classes[1] else "yellow"
            table.add_row(
                f"{row['cosine']:.4f}" + (" =" if row["same_bytes"] else ""),
                row["first"],
                line(classes[0], style),
                row["second"],
                line(classes[1], style),
            )
        if len(one.same):
            screen.print(table)
        same = int(one.same.sum())
        pairs = f"pairs of cosine {threshold:g} or more: {len(one.same):,}, of the same bytes (=): {same:,}"
        images = "images that have one" if alone else f"images of {one.second.name}"
        print_line(screen, f"{pairs}; {images}: {one.images():,}", about=f"{one.backbone}, {where}")
