"""A sealed feature set, made once and copied for each test that wants one."""

from __future__ import annotations

from pathlib import Path

import pytest
from feature_sets import make_sealed


@pytest.fixture(scope="session")
def sealed_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sealed") / "demo.h5"
    make_sealed(path).close()
    return path.read_bytes()


@pytest.fixture
def sealed(tmp_path: Path, sealed_bytes: bytes) -> Path:
    path = tmp_path / "demo.h5"
    path.write_bytes(sealed_bytes)
    return path


@pytest.fixture(scope="session")
def golden() -> Path:
    return Path(__file__).with_name("golden_v1.h5")
