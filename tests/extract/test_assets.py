"""Assets: fetched once, from pip, apt and npm as they are, checked at every step; nothing of a package is run."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from featurebank.extract.assets import DebianPackage, NpmPackage, PackageFile, PackageFolder, cache_dir, cached, fetch
from featurebank.extract.errors import AssetError

FILES = {"demo/data/a.bin": b"alpha" * 100, "demo/data/b.bin": b"beta" * 100, "demo/code.py": b"raise SystemExit"}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def listing(files: dict[str, bytes]) -> bytes:
    return "".join(f"{sha(data)}  {name}\n" for name, data in sorted(files.items())).encode()


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose only package index is a folder; returns that folder."""
    index = tmp_path / "index"
    index.mkdir()
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("FEATUREBANK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEATUREBANK_OFFLINE", raising=False)
    return index


@pytest.fixture
def wheel(machine: Path) -> Path:
    path = machine / "demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for name, data in FILES.items():
            file.writestr(name, data)
        file.writestr("demo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
        file.writestr("demo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("demo-1.0.dist-info/RECORD", "")
    return path


def one_file(archive: Path, member: str = "demo/data/a.bin", data: bytes = FILES["demo/data/a.bin"]) -> PackageFile:
    digest = sha(archive.read_bytes())
    return PackageFile(package="demo", version="1.0", archive_sha256=digest, member=member, sha256=sha(data))


def folder(archive: Path) -> PackageFolder:
    files = {Path(name).name: data for name, data in FILES.items() if name.startswith("demo/data/")}
    return PackageFolder(
        package="demo",
        version="1.0",
        archive_sha256=sha(archive.read_bytes()),
        pattern="demo/data/*",
        sha256=sha(listing(files)),
    )


def test_cache_dir_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("FEATUREBANK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "featurebank"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "featurebank"


def test_one_file_of_a_wheel_and_then_from_the_cache(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = one_file(wheel)
    assert cached(asset) is None
    path = fetch(asset)
    assert path.read_bytes() == FILES["demo/data/a.bin"]
    assert path.name == "a.bin"
    wheel.unlink()
    monkeypatch.setenv("FEATUREBANK_OFFLINE", "1")
    assert fetch(asset) == cached(asset) == path
    assert [entry.name for entry in cache_dir().iterdir()] == ["demo-1.0"], "nothing temporary is left"


def test_a_folder_lists_what_it_holds(wheel: Path) -> None:
    path = fetch(folder(wheel))
    assert sorted(entry.name for entry in path.iterdir()) == ["SHA256SUMS", "a.bin", "b.bin"]
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_sdist_is_taken_apart_without_running_it(machine: Path, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    members = {
        "demo-1.0/PKG-INFO": b"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n",
        "demo-1.0/setup.py": f"open({str(trap)!r}, 'w').close()\nfrom setuptools import setup\nsetup()\n".encode(),
        "demo-1.0/demo/weights.pkl": b"weights",
    }
    path = machine / "demo-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    asset = one_file(path, "demo-1.0/demo/weights.pkl", b"weights")
    assert fetch(asset).read_bytes() == b"weights"
    assert not trap.exists()


def test_the_pinned_digest_decides_between_wheel_and_sdist(wheel: Path, machine: Path) -> None:
    with tarfile.open(machine / "demo-1.0.tar.gz", "w:gz"):
        pass
    assert fetch(one_file(wheel)).read_bytes() == FILES["demo/data/a.bin"]


def test_another_archive_is_refused(wheel: Path) -> None:
    asset = replace(one_file(wheel), archive_sha256="0" * 64)
    with pytest.raises(AssetError, match=r"cannot download demo==1\.0 with pip"):
        fetch(asset)
    assert cached(asset) is None


def test_another_member_is_refused_and_leaves_nothing(wheel: Path) -> None:
    asset = replace(one_file(wheel), sha256="f" * 64)
    with pytest.raises(AssetError, match=f"expected SHA-256 {'f' * 64}, found {sha(FILES['demo/data/a.bin'])}"):
        fetch(asset)
    assert cached(asset) is None


def test_a_missing_member_is_named(wheel: Path) -> None:
    with pytest.raises(AssetError, match=r"expected a member 'demo/data/c\.bin', found none"):
        fetch(replace(one_file(wheel), member="demo/data/c.bin"))


def test_a_damaged_file_in_the_cache_is_named_with_what_to_do(wheel: Path) -> None:
    asset = one_file(wheel)
    path = fetch(asset)
    damaged = bytearray(path.read_bytes())
    damaged[7] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(AssetError) as caught:
        fetch(asset)
    assert all(part in str(caught.value) for part in (str(path), asset.sha256, sha(bytes(damaged)), "delete"))
    path.unlink()
    assert fetch(asset).read_bytes() == FILES["demo/data/a.bin"]


@pytest.mark.parametrize("harm", ["damage", "remove", "add", "forge"])
def test_a_changed_folder_is_noticed_and_can_be_fetched_again(wheel: Path, harm: str) -> None:
    asset = folder(wheel)
    path = fetch(asset)
    if harm == "damage":
        (path / "b.bin").write_bytes(b"other")
    elif harm == "remove":
        (path / "b.bin").unlink()
    elif harm == "add":
        (path / "c.bin").write_bytes(b"other")
    else:
        (path / "b.bin").write_bytes(b"other")
        (path / "SHA256SUMS").write_bytes(listing({"a.bin": FILES["demo/data/a.bin"], "b.bin": b"other"}))
    with pytest.raises(AssetError, match=str(path)):
        fetch(asset)
    shutil.rmtree(path)
    assert (fetch(asset) / "b.bin").read_bytes() == FILES["demo/data/b.bin"]


def test_offline_names_the_place_and_the_way_out(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATUREBANK_OFFLINE", "1")
    with pytest.raises(
        AssetError, match=r"a\.bin: expected demo 1\.0 in the cache, found nothing.*FEATUREBANK_OFFLINE"
    ):
        fetch(one_file(wheel))


def test_many_may_fetch_at_once(wheel: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(fetch, [one_file(wheel)] * 2 + [folder(wheel)] * 2))
    assert files[0] == files[1]
    assert files[2] == files[3]
    assert {entry.name for entry in files[2].iterdir()} == {"SHA256SUMS", "a.bin", "b.bin"}


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb, needed to make a Debian package, is not here")
@pytest.mark.parametrize("stale_lists", [False, True])
def test_a_debian_package_without_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stale_lists: bool) -> None:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    control = (
        "Package: demo-data\nVersion: 2\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: demo\n"
    )
    (tree / "DEBIAN/control").write_text(control)
    (tree / "usr/share/demo").mkdir(parents=True)
    files = {"x.gz": b"x" * 50, "y.gz": b"y" * 50}
    for name, data in files.items():
        (tree / "usr/share/demo" / name).write_bytes(data)
    (tree / "usr/share/demo/README").write_text("not asked for")
    deb = tmp_path / "demo-data_2_all.deb"
    subprocess.run(["dpkg-deb", "--build", tree, deb], check=True, capture_output=True)

    tools = tmp_path / "tools"
    tools.mkdir()
    apt = tools / "apt-get"
    needs = 'case "$*" in *Dir::State::lists=*) ;; *) echo "E: no lists" >&2; exit 100;; esac' if stale_lists else ""
    apt.write_text(
        f'#!/bin/sh\n{needs}\ncase "$*" in *update) ;; *"download demo-data") cp {deb} .;; *) exit 1;; esac\n'
    )
    apt.chmod(apt.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")

    digest = sha(listing(files))
    asset = DebianPackage(package="demo-data", version="2", pattern="usr/share/demo/*.gz", sha256=digest)
    path = fetch(asset)
    assert {entry.name: entry.read_bytes() for entry in path.glob("*.gz")} == files
    assert not (path / "README").exists()


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb, needed to make a Debian package, is not here")
def test_the_folders_of_a_debian_package_may_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: stamps\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: stamps\n"
    )
    files = {"food/fruit/fly.png": b"drawn", "animals/fly.png": b"photographed"}
    for name, data in files.items():
        path = tree / "usr/share/stamps" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    deb = tmp_path / "stamps_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", tree, deb], check=True, capture_output=True)
    put_tool(tmp_path / "tools", monkeypatch, "apt-get", f"cp {deb} .")
    asset = DebianPackage(
        package="stamps",
        version="1",
        pattern="usr/share/stamps/*.png",
        below="usr/share/stamps",
        sha256=sha(listing(files)),
    )
    path = fetch(asset)
    assert {entry.relative_to(path).as_posix(): entry.read_bytes() for entry in path.rglob("*.png")} == files
    with pytest.raises(AssetError, match=r"expected distinct names under 'usr/share/stamps/\*\.png', found 'fly\.png'"):
        fetch(replace(asset, below="", sha256="0" * 64))
    with pytest.raises(AssetError, match="expected members below 'usr/share/other', found 'usr/share/stamps/"):
        fetch(replace(asset, below="usr/share/other", sha256="0" * 64))


def put_tool(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    """A command that runs a line of shell in its working directory."""
    folder.mkdir()
    tool = folder / name
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


EMOJI = {"emoji.json": b"[]", "img/us/64/a.png": b"a", "img/us/64/b.png": b"b"}


@pytest.fixture
def npm_asset(tmp_path: Path) -> NpmPackage:
    """A package as the registry has it, on a machine whose npm knows this one only."""
    files = {
        f"package/{name}": data for name, data in {**EMOJI, "index.js": b"throw 1", "img/us/16/a.png": b""}.items()
    }
    path = tmp_path / "drawings-1.0.0.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return NpmPackage(
        package="drawings",
        version="1.0.0",
        archive_sha256=sha(path.read_bytes()),
        patterns=("package/emoji.json", "package/img/us/64/*"),
        sha256=sha(listing(EMOJI)),
    )


def npm_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'case "$*" in "pack --ignore-scripts "*" drawings@1.0.0") ;; *) echo "npm error 404" >&2; exit 1;; esac'
    put_tool(tmp_path / "tools", monkeypatch, "npm", f"{script}\ncp {tmp_path}/drawings-1.0.0.tgz .; echo said")


def test_an_npm_package(npm_asset: NpmPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm_of(tmp_path, monkeypatch)
    path = fetch(npm_asset)
    found = {entry.relative_to(path).as_posix(): entry.read_bytes() for entry in path.rglob("*") if entry.is_file()}
    assert found.pop("SHA256SUMS") == listing(EMOJI)
    assert found == EMOJI
    monkeypatch.setenv("FEATUREBANK_OFFLINE", "1")
    assert fetch(npm_asset) == cached(npm_asset) == path
    (path / "img" / "us" / "64" / "c.png").touch()
    with pytest.raises(AssetError, match=r"found also \['img/us/64/c\.png'\]"):
        fetch(npm_asset)


def test_another_npm_package_is_refused(npm_asset: NpmPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm_of(tmp_path, monkeypatch)
    for asset, message in (
        (replace(npm_asset, archive_sha256="0" * 64), f"expected SHA-256 {'0' * 64}, found"),
        (replace(npm_asset, sha256="0" * 64), f"SHA256SUMS: expected SHA-256 {'0' * 64}, found"),
        (
            replace(npm_asset, version="2.0.0"),
            r"cannot download drawings@2\.0\.0 with npm \(exit status 1\): npm error 404",
        ),
        (replace(npm_asset, patterns=("x", "y")), "expected a member 'x' or 'y', found none"),
    ):
        with pytest.raises(AssetError, match=message):
            fetch(asset)
        assert cached(asset) is None


def test_a_machine_without_npm_says_so(npm_asset: NpmPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssetError, match=r"drawings@1\.0\.0: expected npm to fetch an npm package with, found none"):
        fetch(npm_asset)


def test_a_machine_without_apt_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    asset = DebianPackage(package="demo-data", version="2", pattern="*", sha256="0" * 64)
    with pytest.raises(AssetError, match="expected apt-get and dpkg-deb"):
        fetch(asset)
