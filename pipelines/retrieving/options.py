"""The options of ``featurebank retrieve``, as typer reads them; they are called as the task's settings are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from featurebank.pipelines.errors import ConfigError

__all__ = [
    "Augment",
    "By",
    "Cluster",
    "Compare",
    "Components",
    "Depth",
    "EfSearch",
    "Expand",
    "Gallery",
    "GroundTruth",
    "Html",
    "Images",
    "Index",
    "K",
    "Keys",
    "NProbe",
    "OutputName",
    "PerClass",
    "Power",
    "Protocols",
    "Queries",
    "Rerank",
    "Seed",
    "Whiten",
    "parse_expand",
]

DESCRIPTORS, RANKING, PAGE = "descriptors", "ranking", "page"

Keys = Annotated[
    list[str],
    typer.Argument(
        metavar="KEY...",
        help="DATASET/SPLIT, each row a query among the others, or DATASET/QUERY:GALLERY, as ls lists them; with "
        "@BACKBONE for one backbone only.",
    ),
]
Gallery = Annotated[
    str | None, typer.Option("--gallery", help="DATASET/SPLIT that the rows of KEY are looked for in instead.")
]
Queries = Annotated[
    Path | None,
    typer.Option(
        "--queries",
        exists=True,
        dir_okay=False,
        help="Features that are looked for in KEY instead, such as those of texts: .npy, a row a class, or .npz of "
        "features and labels, or ids of KEY's rows.",
    ),
]
Compare = Annotated[
    bool,
    typer.Option(
        "--compare",
        help="Every ranking beside the plain one, in one table; --power, --components … then set what the recipes use, "
        "and whitening is learned on the gallery unless --whiten is given.",
    ),
]
OutputName = Annotated[
    str | None, typer.Option("--output", help="What to read; without it pooled. Several are joined: pooled+cls.")
]
Protocols = Annotated[
    str | None,
    typer.Option("--protocol", help="cub, sop, gldv2, roxford-medium, bob …; without it labels, with every metric."),
]
By = Annotated[
    str | None, typer.Option("--by", help="An extra column of the records: rows with the same value are relevant.")
]
GroundTruth = Annotated[
    Path | None,
    typer.Option(
        "--ground-truth", exists=True, dir_okay=False, help="JSON: the easy, hard and junk ids of each query's id."
    ),
]
PerClass = Annotated[
    int | None, typer.Option("--per-class", help="Rows of each class that bob keeps, the first ones; without it all.")
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="What intervals draw instead of queries, where these are not independent: class, or a column.",
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Of intervals, and of an index's training rows.")]

Power = Annotated[
    float | None,
    typer.Option("--power", help="Power normalisation, such as 0.5.", rich_help_panel=DESCRIPTORS),
]
Whiten = Annotated[
    str | None,
    typer.Option("--whiten", help="DATASET/SPLIT that PCA-whitening is learned on.", rich_help_panel=DESCRIPTORS),
]
Components = Annotated[
    int | None, typer.Option("--components", help="Directions that whitening keeps.", rich_help_panel=DESCRIPTORS)
]
Augment = Annotated[
    int | None,
    typer.Option("--augment", help="Neighbours that each gallery row is moved towards.", rich_help_panel=DESCRIPTORS),
]
Expand = Annotated[
    str | None,
    typer.Option(
        "--expand",
        metavar="N[:ALPHA]",
        help="Gallery rows that each query is moved towards, and the exponent of their cosines, 3; 0 is the mean.",
        rich_help_panel=DESCRIPTORS,
    ),
]

Rerank = Annotated[str | None, typer.Option("--rerank", help="k-reciprocal or diffusion.", rich_help_panel=RANKING)]
Index = Annotated[
    str | None,
    typer.Option(
        "--index",
        metavar="FACTORY",
        help="Search a FAISS index instead: HNSW32, IVF256,PQ16 …",
        rich_help_panel=RANKING,
    ),
]
NProbe = Annotated[
    int | None, typer.Option("--nprobe", help="Lists that an IVF index visits.", rich_help_panel=RANKING)
]
EfSearch = Annotated[
    int | None, typer.Option("--ef-search", help="Candidates that an HNSW index keeps.", rich_help_panel=RANKING)
]
Depth = Annotated[
    int | None,
    typer.Option(
        "--depth",
        help="Rows that an index or re-ranking lists: 1,000 or all. An index's are in the names: map@1000.",
        rich_help_panel=RANKING,
    ),
]

Html = Annotated[
    Path | None,
    typer.Option("--html", dir_okay=False, help="Write a page of the queries, worst first.", rich_help_panel=PAGE),
]
Images = Annotated[
    str | None,
    typer.Option(
        "--images", help="Where the images are, folder:PATH or manifest:FILE, if not known.", rich_help_panel=PAGE
    ),
]
K = Annotated[int | None, typer.Option("--k", min=1, help="Rows of each query on the page: 10.", rich_help_panel=PAGE)]


def parse_expand(text: str | None) -> tuple[int, float] | None:
    """Neighbours and alpha, which is 3 where it is not given.

    >>> parse_expand("10"), parse_expand("5:0")
    ((10, 3.0), (5, 0.0))

    Raises:
        ConfigError: something else.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)(?::(\d+(?:\.\d+)?))?", text)
    if found is None:
        raise ConfigError(f"--expand must be N or N:ALPHA, such as 10 or 10:3; found {text!r}")
    return int(found[1]), float(found[2] or 3)
