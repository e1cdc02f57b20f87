"""Each extra alone, in an empty environment, from a wheelhouse of the pinned versions and nothing else.

The wheel is built, what its extras want is fetched once as ``constraints.txt`` pins it, and each is installed from that
folder without an index. Each file beside this one, but `toy.py`, is named after an extra
(`core.py`: none) and run where only that is installed. Run by the interpreter of `make test`; needs uv, which `make`
leaves in `.uv/bin`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
UV = ROOT / ".uv" / "bin" / "uv"
PINS = ROOT / "constraints.txt"
SHARED = ("run", "toy")


def command(*words: str, cwd: Path = ROOT, **environment: str) -> None:
    """Runs it, and shows what it says only where it fails."""
    done = subprocess.run(words, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])


def wanted(names: list[str], wheel: Path) -> str:
    """The requirement of extras of the wheel."""
    extras = ",".join(name for name in names if name != "core")
    return f"featurebank[{extras}] @ {wheel.as_uri()}"


def gather(names: list[str], wheel: Path, house: Path) -> None:
    """Fetches what the extras want into a folder, and refuses what is not pinned."""
    resolved = house.parent / "wanted.txt"
    source = house.parent / "wanted.in"
    source.write_text(wanted(names, wheel), "utf-8")
    compiled = ("pip", "compile", "-q", "--python", sys.executable, "-c", str(PINS), "--no-annotate", "--no-header")
    command(str(UV), *compiled, "--no-emit-package", "featurebank", "-o", str(resolved), str(source))
    pinned = {line.strip() for line in PINS.read_text("utf-8").splitlines()}
    versions = [line for line in resolved.read_text("utf-8").splitlines() if re.match(r"[\w.-]+==", line)]
    if loose := sorted(set(versions) - pinned):
        raise RuntimeError(f"constraints.txt must pin what the extras want; it lacks {', '.join(loose)}: add them")
    resolved.write_text("\n".join(versions), "utf-8")
    fetch = ("download", "-q", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "-d", str(house))
    command(sys.executable, "-m", "pip", *fetch, "-r", str(resolved))


def try_extra(name: str, wheel: Path, house: Path, folder: Path) -> None:
    """Installs one extra and runs its file, in the folder."""
    python = folder / "env" / "bin" / "python"
    alone = ("--offline", "--no-index", "--find-links", str(house), "--only-binary", ":all:", "-c", str(PINS))
    cache = str(house.parent / "unpacked")  # beside the environments, which link to it: unpacked once, stored once
    command(str(UV), "venv", "--python", sys.executable, str(folder / "env"))
    command(str(UV), "pip", "install", "--python", str(python), *alone, wanted([name], wheel), UV_CACHE_DIR=cache)
    for file in ("toy", name):
        shutil.copy(HERE / f"{file}.py", folder)
    command(str(python), f"{name}.py", cwd=folder)


def main() -> None:
    """Tries all of them, or those that are named."""
    every = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in SHARED)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", choices=[*every, []], help="; ".join(every))
    names = parser.parse_args().only or every
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        start, house = time.monotonic(), Path(scratch) / "wheelhouse"
        command(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", scratch)
        (wheel,) = Path(scratch).glob("*.whl")
        gather(names, wheel, house)
        count = sum(1 for _ in house.iterdir())
        size = sum(file.stat().st_size for file in house.iterdir()) / 1e9
        print(f"{count} wheels, {size:.1f} GB, as pinned, {time.monotonic() - start:.0f} s", flush=True)
        for name in names:
            folder, start = Path(scratch) / name, time.monotonic()
            folder.mkdir()
            try:
                try_extra(name, wheel, house, folder)
            except RuntimeError as error:
                failed.append(name)
                print(error)
            shutil.rmtree(folder)
            state = "failed" if name in failed else "works alone"
            print(f"[{name}] {state}, {time.monotonic() - start:.0f} s", flush=True)
    if failed:
        sys.exit(f"extras that do not work alone: {', '.join(failed)}")


if __name__ == "__main__":
    main()
