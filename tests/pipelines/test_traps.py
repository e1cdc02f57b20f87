"""What went wrong in the command lines of other studies without anybody noticing, and cannot go wrong here."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import featurebank_
from probe_sets import clusters, write_set

from featurebank.store import FeatureStore


@pytest.mark.parametrize("protocol", ["logistic", "bob"])
def test_the_protocol_does_not_depend_on_the_name_of_the_backbone(tmp_path: Path, protocol: str) -> None:
    """Battle of the Backbones' probe put a batch norm before the head where a name held vit, swin, conv or stable."""
    store = FeatureStore(tmp_path / "features")
    for name in ("resnet50", "vit_base", "convnext_tiny"):
        for split, n_rows in (("train", 60), ("test", 45)):
            write_set(store, f"pets/{split}", name, *clusters(n_rows, noise=0.6, seed=split == "test"))
    done = featurebank_("probe", "pets", "--task", "linear", "--protocol", protocol, "--store", store.root, "--json")
    assert done.code == 0, done.err
    answers = [
        ([(row["metric"], row["value"], row["details"]) for row in one["rows"]], one["options"], one["chosen"])
        for one in done.json["answers"]
    ]
    assert len(answers) == 3
    assert answers[0] == answers[1] == answers[2]
