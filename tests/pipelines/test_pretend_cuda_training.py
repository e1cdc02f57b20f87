"""What is trained on a card is what is trained on the CPU: the loop, tuned networks, detectors, segmenters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import featurebank_
from object_scenes import NETWORK, scenes
from pretend_cuda import pretend_cuda
from tuned_runs import configuration, pictures


def finetune(folder: Path) -> Path:
    pictures(folder / "data" / "train", 30, 0)
    pictures(folder / "data" / "test", 12, 1)
    return configuration(folder, epochs=1, attacks=["pgd:linf:8/255:1"])


def of_scenes(section: str, folder: Path, **options: Any) -> Path:
    scenes(folder / "toy", "train", 9, 0)
    scenes(folder / "toy", "test", 5, 1)
    own = {"px": 128, "strides": [8, 16], "channels": 16, "epochs": 1, "batch_size": 4, "rate": 3e-3, **options}
    config = {
        "store": str(folder / "store"),
        "backbones": [NETWORK],
        "datasets": [{"name": f"coco:{folder}/toy/objects_*.json", "splits": ["train", "test"]}],
        "extraction": {"precision": "float32", "dtype": "float32", "device": "cpu"},
        section: [{"of": "toy", "options": own}],
    }
    path = folder / "run.yaml"
    path.write_text(json.dumps(config))
    return path


TRAINED: dict[str, Callable[[Path], Path]] = {
    "finetune": finetune,
    "detect": lambda folder: of_scenes("detect", folder, head="mask", anchor=3, width=32),
    "segment": lambda folder: of_scenes("segment", folder),
}


@pytest.mark.parametrize("verb", TRAINED)
def test_a_verb_trains_the_same_on_a_card(verb: str, tmp_path: Path) -> None:
    config = TRAINED[verb](tmp_path)
    plain = featurebank_(verb, config, "--json", "--store", tmp_path / "plain")
    with pretend_cuda() as card:
        made = featurebank_(verb, config, "--json", "--store", tmp_path / "card", "--device", "cuda")
    assert card.peak > 0
    assert (plain.code, made.code) == (0, 0), (made.err, made.json["answers"][0]["error"])
    (ours,), (theirs,) = (run.json["answers"] for run in (made, plain))
    values = [[(row["metric"], row["set"], row["group"], row["score"]) for row in of["rows"]] for of in (ours, theirs)]
    assert values[0] == values[1]
    losses = [[epoch["loss"] for epoch in of["chosen"][""]["history"]["0"]] for of in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    if verb == "detect":
        return  # torchvision suppresses in another order there, which decides among boxes of next to no training
    assert [row["value"] for row in ours["rows"]] == pytest.approx(
        [row["value"] for row in theirs["rows"]], abs=1e-3, nan_ok=True
    )
