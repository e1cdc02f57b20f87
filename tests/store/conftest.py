"""A sealed feature set, made once and copied for each test that wants one, and a server of a test's folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from feature_sets import make_sealed
from serving import Server, serving


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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path) as served:
        yield served
