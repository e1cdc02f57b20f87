"""The site: built with warnings as errors, every public name in it, and nothing asked of any network."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sphinx.util.inventory import InventoryFile

ROOT = Path(__file__).parent.parent
FACES = ("store", "probes", "probes.ood", "retrieval", "extract")
AT_MOST = 60  # seconds of a processor for one build


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "-b", "html", "docs", str(folder)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False, timeout=5 * AT_MOST)
    assert done.returncode == 0, done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < AT_MOST
    return folder


@pytest.mark.parametrize("face", FACES)
def test_every_public_name_is_in_the_reference(site: Path, face: str) -> None:
    package = f"featurebank.{face}"
    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    names = {name for kind in inventory.data.values() for name in kind}
    assert {f"{package}.{name}" for name in import_module(package).__all__} <= names


def test_no_page_asks_a_network_for_anything(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        wanted = re.findall(r"<(?:script|img|iframe|source|video|audio)\b[^>]*?\bsrc=\"([^\"]+)\"", text)
        wanted += re.findall(r"<link\b[^>]*?\bhref=\"([^\"]+)\"", text)
        assert [place for place in wanted if urlsplit(place).netloc] == [], page
    for sheet in site.rglob("*.css"):
        places = re.findall(r"(?:@import\s+|url\()[\"']?([^\"')\s]+)", sheet.read_text(encoding="utf-8"))
        assert [place for place in places if urlsplit(place).netloc] == [], sheet
