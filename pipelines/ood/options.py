"""The options of ``featurebank ood``, as typer reads them, beside those that it shares with ``featurebank probe``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.ood.selection import Keys

__all__ = [
    "BenchmarkName",
    "Data",
    "Heads",
    "IdClasses",
    "Images",
    "InKey",
    "IntervalDraws",
    "Lists",
    "Names",
    "NearKeys",
    "OutKeys",
    "Page",
    "ShiftedKeys",
    "Texts",
    "ValidationKey",
    "check_benchmark",
    "parse_keys",
]

BENCHMARK, PAGE = "A benchmark", "The page"

InKey = Annotated[
    str | None,
    typer.Option(
        "--id",
        metavar="KEY",
        help="In-distribution: DATASET, DATASET/TEST or DATASET/TRAIN:TEST, with @BACKBONE for one backbone only.",
    ),
]
OutKeys = Annotated[
    list[str] | None,
    typer.Option("--ood", metavar="KEY", help="Out-of-distribution: DATASET or DATASET/SPLIT; repeatable."),
]
NearKeys = Annotated[
    list[str] | None,
    typer.Option("--near", metavar="KEY", help="As --ood, and counted as near; the others are far. Repeatable."),
]
Names = Annotated[
    list[str] | None,
    typer.Option("--scores", metavar="NAME", help="A score, or all, which is also the default; repeatable."),
]
Heads = Annotated[
    str | None,
    typer.Option(
        "--head",
        help="own: the backbone's classifier; probe: a logistic one fitted on the train rows. "
        "Without it: own, if it has the classes of the train rows, else probe.",
    ),
]
IntervalDraws = Annotated[int | None, typer.Option("--draws", min=0, help="Resamples of the intervals; 0 for none.")]
ShiftedKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--shifted",
        metavar="KEY",
        help="Covariate-shifted in-distribution: the full spectrum has them too. Repeatable.",
    ),
]
ValidationKey = Annotated[
    str | None,
    typer.Option("--validation", metavar="KEY", help="An out-of-distribution set to choose the scores' parameters on."),
]
IdClasses = Annotated[
    list[str] | None,
    typer.Option(
        "--id-classes",
        metavar="CLASSES",
        help="Numbers or names, by commas: only these are in distribution, the others of --id are a near set.",
    ),
]
Texts = Annotated[
    Path | None,
    typer.Option("--text", exists=True, dir_okay=False, help="Text features of the classes, (K, D) in .npz, for mcm."),
]
BenchmarkName = Annotated[
    str | None,
    typer.Option(
        "--benchmark",
        help="OpenOOD v1.5's sets instead of keys: cifar10, cifar100, imagenet200 or imagenet1k.",
        rich_help_panel=BENCHMARK,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", file_okay=False, help="OpenOOD's folder; what lacks is extracted.", rich_help_panel=BENCHMARK
    ),
]
Lists = Annotated[
    Path | None,
    typer.Option("--lists", file_okay=False, help="Of image lists, if not in --data.", rich_help_panel=BENCHMARK),
]
Page = Annotated[
    Path | None,
    typer.Option(
        "--html",
        dir_okay=False,
        help="Histograms, ROC curves and the images that are scored most wrongly, on one offline page.",
        rich_help_panel=PAGE,
    ),
]
Images = Annotated[
    list[str] | None,
    typer.Option(
        "--images",
        metavar="DATASET=PLACE",
        help="Where images are, folder:PATH, manifest:FILE or list:FILE, if not known. Repeatable.",
        rich_help_panel=PAGE,
    ),
]


def parse_keys(
    inside: str | None,
    *,
    ood: list[str] | None = None,
    near: list[str] | None = None,
    shifted: list[str] | None = None,
    tuning: str | None = None,
    id_classes: list[str] | None = None,
    data: Path | None = None,
    lists: Path | None = None,
) -> Keys:
    """The keys of a question without a benchmark.

    >>> parse_keys("pets", ood=["cars"], id_classes=["0,1", "dog"]).id_classes
    ('0', '1', 'dog')

    Raises:
        ConfigError: nothing is in distribution, or there is what only a benchmark takes.
    """
    if inside is None:
        raise ConfigError("ood needs --id DATASET, or --benchmark NAME")
    if data is not None or lists is not None:
        raise ConfigError("--data and --lists are for --benchmark NAME; found none")
    classes = [name.strip() for some in id_classes or () for name in some.split(",")]
    return Keys(
        inside=inside,
        ood=tuple(ood or ()),
        near=tuple(near or ()),
        shifted=tuple(shifted or ()),
        tuning=tuning,
        id_classes=tuple(dict.fromkeys(name for name in classes if name)),
    )


def check_benchmark(*named: str | list[str] | None) -> None:
    """Raises ConfigError where sets are named beside a benchmark, which has its own."""
    if any(named):
        raise ConfigError(
            "--benchmark has its own sets; leave out --id, --ood, --near, --shifted, --validation and --id-classes"
        )
