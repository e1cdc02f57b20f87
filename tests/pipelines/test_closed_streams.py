"""Streams that are closed or know few characters, and a home that nothing can be written to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import featurebank_
from probe_sets import clusters, write_set

from featurebank.extract.assets import _make_cache
from featurebank.extract.errors import AssetError
from featurebank.store import FeatureStore

LS = f"{sys.executable} -m featurebank ls --store ."


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_set(FeatureStore(tmp_path), "pétš/train", "net", *clusters(6))
    return tmp_path


def run(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LC_")} | variables
    shell = ["bash", "-o", "pipefail", "-c", command]
    return subprocess.run(
        shell, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False, timeout=60
    )


@pytest.mark.parametrize("ending", [">&-", ">&- 2>&-", "| true"])
def test_d14_closed_streams_are_no_fault(store: Path, ending: str) -> None:
    done = run(f"{LS} {ending}", store)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_d14_streams_of_few_characters_show_the_others_as_escapes(store: Path, variables: dict[str, str]) -> None:
    done = run(f"{LS} && {LS} --json", store, **variables)
    assert done.returncode == 0, done.stderr
    table, _, listed = done.stdout.partition("{\n")
    assert "net" in table
    assert json.loads(f"{{{listed}")["sets"][0]["dataset"] == "pétš"


def test_d14_a_cache_that_cannot_be_written_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATUREBANK_CACHE", "/dev/null/cache")
    with pytest.raises(AssetError, match="set FEATUREBANK_CACHE to a folder that can be written to"):
        _make_cache()


def test_d11_a_word_finds_families() -> None:
    found = {row["name"] for row in featurebank_("datasets", "imagenet", "--json").json["datasets"]}
    assert "imagenet1k" in found
    assert len(found) > 1
    rows = featurebank_("backbones", "clip", "--json").json["backbones"]
    assert len(rows) > 1
    assert all("clip" in f"{row['name']} {row['aliases']} {row['reference']} {row['method']}".lower() for row in rows)
    assert featurebank_("datasets", "nothing_like_it").code == 2
