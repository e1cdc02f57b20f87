"""The options of ``featurebank ood``, as typer reads them, beside those that it shares with ``featurebank probe``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Heads", "InKey", "IntervalDraws", "Names", "NearKeys", "OutKeys", "Page"]

InKey = Annotated[
    str,
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
Page = Annotated[
    Path | None, typer.Option("--html", dir_okay=False, help="Histograms and ROC curves on one offline page.")
]
