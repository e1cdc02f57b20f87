"""The options of ``featurebank probe``, as typer reads them; they are called as the tasks' settings are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from featurebank.pipelines.config import ConfigError
from featurebank.store.places import expanded

__all__ = [
    "CS",
    "Classes",
    "Compare",
    "Device",
    "Draws",
    "Epochs",
    "Fingerprints",
    "Force",
    "Fractions",
    "Grid",
    "Group",
    "IgnoreIndex",
    "K",
    "Keys",
    "LogitScale",
    "Missing",
    "On",
    "OnlyBackbones",
    "OutputName",
    "OwnHead",
    "Protocols",
    "Seed",
    "Shots",
    "Targets",
    "Tasks",
    "Temperatures",
    "TestMasks",
    "Text",
    "TrainMasks",
    "as_settings",
]

FITTED, KNN, FEWSHOT = "linear, fewshot, shift, multilabel", "knn", "fewshot"
ZEROSHOT, MULTILABEL, REGRESSION, DENSE, SHIFT = "zeroshot", "multilabel", "regression", "dense", "shift"

Keys = Annotated[
    list[str],
    typer.Argument(
        metavar="KEY...",
        help="DATASET, DATASET/TEST or DATASET/TRAIN:TEST, as ls lists them; with @BACKBONE for one backbone only.",
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        help="linear, knn, fewshot, zeroshot, multilabel, dense, regression or shift; can be repeated. "
        "Without it: linear, knn and fewshot.",
        show_default=False,
    ),
]
OnlyBackbones = Annotated[list[str] | None, typer.Option("--backbone", help="Only this backbone; can be repeated.")]
Fingerprints = Annotated[list[str] | None, typer.Option("--fingerprint", help="Which set, where several match.")]
OutputName = Annotated[str | None, typer.Option("--output", help="What to read; without it pooled, for dense tokens.")]
Compare = Annotated[bool, typer.Option("--compare", help="Paired tests between the backbones, on the same rows.")]
Group = Annotated[str | None, typer.Option("--group", help="Accuracy by an extra column of the records, and its gaps.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Of splits, draws and intervals.")]
Force = Annotated[bool, typer.Option("--force", help="Compute again what is known already, and replace it.")]
Device = Annotated[str | None, typer.Option("--device", help="Of torch, such as cpu or cuda.")]

Protocols = Annotated[
    str | None,
    typer.Option("--protocol", help="logistic, bob or dinov2; ncm for fewshot only.", rich_help_panel=FITTED),
]
CS = Annotated[list[float] | None, typer.Option("--c", help="A candidate for C; repeatable.", rich_help_panel=FITTED)]
K = Annotated[list[int] | None, typer.Option("--k", help="A candidate for k; repeatable.", rich_help_panel=KNN)]
Temperatures = Annotated[
    list[float] | None, typer.Option("--temperature", help="A candidate for T; repeatable.", rich_help_panel=KNN)
]
Shots = Annotated[
    list[int] | None, typer.Option("--shots", help="Rows of each class; repeatable.", rich_help_panel=FEWSHOT)
]
Fractions = Annotated[
    list[float] | None, typer.Option("--fraction", help="Of the rows, above 0; repeatable.", rich_help_panel=FEWSHOT)
]
Draws = Annotated[int | None, typer.Option("--draws", help="Draws of each number of labels.", rich_help_panel=FEWSHOT)]
Text = Annotated[
    str | None,
    typer.Option(
        "--text", help="Text features: FILE.npy, FILE.npz, or DATASET/SPLIT of the store.", rich_help_panel=ZEROSHOT
    ),
]
LogitScale = Annotated[
    float | None,
    typer.Option(
        "--logit-scale", help="The model's factor of cosines, if the file lacks it.", rich_help_panel=ZEROSHOT
    ),
]
Missing = Annotated[
    str | None,
    typer.Option("--missing", help="What -1 counts as: ignore, zero or one.", rich_help_panel=MULTILABEL),
]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", help="A column; repeatable. Without it, the labels.", rich_help_panel=REGRESSION),
]
TrainMasks = Annotated[
    Path | None,
    typer.Option(
        "--train-masks", exists=True, dir_okay=False, help="FILE.npy of integers (N, H, W).", rich_help_panel=DENSE
    ),
]
TestMasks = Annotated[
    Path | None,
    typer.Option(
        "--test-masks", exists=True, dir_okay=False, help="FILE.npy of integers (M, H, W).", rich_help_panel=DENSE
    ),
]
Grid = Annotated[
    tuple[int, int] | None,
    typer.Option("--grid", help="h and w of the patches, if they are no square.", rich_help_panel=DENSE),
]
IgnoreIndex = Annotated[
    int | None,
    typer.Option("--ignore-index", help="The value of pixels that do not count.", rich_help_panel=DENSE),
]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Passes over the training images.", rich_help_panel=DENSE)]
On = Annotated[
    list[str] | None,
    typer.Option("--on", help="A set to score, DATASET or DATASET/SPLIT; repeatable.", rich_help_panel=SHIFT),
]
OwnHead = Annotated[
    bool, typer.Option("--own-head", help="Score the backbone's own classifier.", rich_help_panel=SHIFT)
]
Classes = Annotated[
    Path | None,
    typer.Option("--classes", help="JSON of a set's name to the head's classes, in its order.", rich_help_panel=SHIFT),
]


def as_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as tasks take them: lists as tuples, what was not given as ``None``, a file of texts as a path.

    >>> as_settings({"k": [5], "shots": [], "own_head": False})
    {'k': (5,), 'shots': None, 'own_head': None}

    Raises:
        ConfigError: there is no such file of texts.
    """
    settings: dict[str, Any] = {}
    for name, value in options.items():
        known = tuple(value) if isinstance(value, list) else value
        settings[name] = None if known is False or known == () else known
    text = settings.get("text")
    if text is not None and text.endswith((".npy", ".npz")):
        if not expanded(text).is_file():
            raise ConfigError(f"--text: expected a file at {text}, found none")
        settings |= {"text": None, "text_file": expanded(text)}
    return settings
