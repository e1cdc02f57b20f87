"""Datasets are tested against a cache of their own, except where a test asks for the machine's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Draw = Callable[[Path, int], Path]


@pytest.fixture(autouse=True)
def own_cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    if "assets" not in request.fixturenames:
        patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
        patch.setenv("FEATUREBANK_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("FEATUREBANK_OFFLINE", "1")


@pytest.fixture
def assets() -> None:
    """Asks for the machine's asset cache."""


@pytest.fixture
def draw() -> Draw:
    """Writes an image of random colours, a different one for every number; makes the folders above it."""

    def draw(path: Path, number: int, size: int = 8) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return draw
