"""What a release consists of: versions that agree, a changelog of fragments, distributions that hold what they must."""

from __future__ import annotations

import re
import runpy
import shutil
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
import yaml
from checkout import ROOT, command, committed
from markdown_it import MarkdownIt

import featurebank

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
KINDS = {kind["directory"] for kind in PYPROJECT["tool"]["towncrier"]["type"]}
UNTRIED = {"dev"}  # what only the project itself installs


def built(kind: str, source: Path, target: Path) -> Path:
    """The only file that a build of this kind leaves in the target."""
    done = command(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target), cwd=source)
    assert done.returncode == 0, done.stderr
    (made,) = target.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(built("wheel", ROOT, tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution."""
    archive = built("sdist", ROOT, tmp_path_factory.mktemp("sdist"))
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return unpacked


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel.read(name))


def test_the_version_is_one(metadata: Message) -> None:
    released = re.findall(r"^## (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert released[0] == (citation["version"], str(citation["date-released"]))
    assert metadata["Version"] == featurebank.__version__ == citation["version"]
    assert citation["license"] == metadata["License-Expression"]


def test_fragments_have_a_kind_that_the_changelog_knows() -> None:
    names = {path.name for path in (ROOT / "changes").iterdir()} - {"README.md"}
    assert [name for name in names if not re.fullmatch(rf"\+[\w-]+\.(?:{'|'.join(KINDS)})\.md", name)] == []
    told = (ROOT / "changes" / "README.md").read_text("utf-8")
    assert set(re.findall(r"^- `(\w+)`:", told, flags=re.MULTILINE)) == KINDS


def test_a_fragment_becomes_a_line_above_the_last_version(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "changes").mkdir()
    (tmp_path / "changes" / "+snark.added.md").write_text("Snarks are hunted.\n", "utf-8")
    words = ("-m", "towncrier", "build", "--yes", "--version", "99.0.0", "--date", "2099-01-02")
    done = command(sys.executable, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    _, _, after = (tmp_path / "CHANGELOG.md").read_text("utf-8").partition("<!-- towncrier release notes start -->\n")
    assert after.startswith("\n## 99.0.0 (2099-01-02)\n\n### Added\n\n- Snarks are hunted.\n")
    assert f"\n## {featurebank.__version__} (" in after
    assert not list((tmp_path / "changes").iterdir())


def test_a_source_distribution_holds_all_that_is_committed_but_links(source: Path) -> None:
    wanted = {name for name in committed() if not (ROOT / name).is_symlink()}
    names = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    assert names - wanted == {"PKG-INFO"}
    assert wanted <= names


def test_a_wheel_of_the_source_distribution_is_that_of_the_checkout(
    source: Path, wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    other = zipfile.ZipFile(built("wheel", source, tmp_path))
    assert {name: other.read(name) for name in other.namelist()} == {
        name: wheel.read(name) for name in wheel.namelist()
    }


def test_every_extra_is_tried_alone(metadata: Message) -> None:
    tried = {path.stem for path in (ROOT / ".ci" / "extras").glob("*.py")} - {"run", "toy", "core"}
    assert tried == set(metadata.get_all("Provides-Extra") or ()) - UNTRIED


def test_on_an_index_every_link_of_the_readme_leads_somewhere(metadata: Message) -> None:
    assert metadata["Description-Content-Type"] == "text/markdown"
    page = metadata.get_payload()
    assert isinstance(page, str)
    assert page.startswith("# featurebank\n")
    inline = [child for token in MarkdownIt().enable("table").parse(page) for child in token.children or ()]
    targets = [str(token.attrs.get("href", token.attrs.get("src", "#"))) for token in inline]
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    if named := re.search(r"(?<!!)\[([^\]]+)\]\((docs/[^)]+)\)", (ROOT / "README.md").read_text("utf-8")):
        assert f"{named[1]} (`{named[2]}`)" in page


def test_the_container_is_of_the_pins_and_has_every_extra_but_faiss_without_cuda(metadata: Message) -> None:
    parts = runpy.run_path(str(ROOT / ".ci" / "container.py"))["instructions"]
    steps = list(parts((ROOT / "Dockerfile").read_text("utf-8")))
    assert [name for name, _ in steps][:2] == ["FROM", "ENV"]
    shell = "\n".join(rest for name, rest in steps if name == "RUN")
    assert command("/bin/sh", "-n", "-c", shell).returncode == 0
    extras = re.search(r"-c constraints\.txt -b constraints\.txt \"\.\[(.+?)\]\"", shell)
    assert extras is not None
    wanted = set(metadata.get_all("Provides-Extra") or ()) - {"all", "dev", "docs", "retrieval"}
    assert set(extras[1].split(",")) == wanted
    version = re.search(r"^UV_VERSION := (.+)$", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)
    assert version is not None
    assert f"uv=={version[1]}" in shell
    python = re.match(r"python:([\d.]+)-", dict(steps)["FROM"])
    assert python is not None
    assert f"Programming Language :: Python :: {python[1]}" in (metadata.get_all("Classifier") or ())
