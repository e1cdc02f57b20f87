"""Each extra alone, in an empty environment: it installs from the pins, and what it promises runs there.

Each file beside this one, but `toy.py`, is named after an extra (`core.py`: none) and run where only that is installed.
Run by the interpreter of `make test`; needs uv, which `make` leaves in `.uv/bin`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
UV = ROOT / ".uv" / "bin" / "uv"
SHARED = ("run", "toy")
RESOLVED = ("gpu",)
"""What no machine without a GPU can run: a set of versions must exist all the same."""


def uv(*words: str) -> None:
    """Runs uv, and shows what it says only where it fails."""
    done = subprocess.run([str(UV), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


def wanted(name: str, wheel: Path) -> str:
    """The requirement of an extra of the wheel."""
    return str(wheel) if name == "core" else f"featurebank[{name}] @ {wheel.as_uri()}"


def try_extra(name: str, wheel: Path, folder: Path) -> None:
    """Installs one extra and runs its file, in the folder."""
    python = folder / "env" / "bin" / "python"
    uv("venv", "--python", sys.executable, str(folder / "env"))
    uv("pip", "install", "--python", str(python), "-c", str(ROOT / "constraints.txt"), wanted(name, wheel))
    for file in ("toy", name):
        shutil.copy(HERE / f"{file}.py", folder)
    done = subprocess.run([str(python), f"{name}.py"], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])


def main() -> None:
    """Tries all of them, or those that are named."""
    every = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in SHARED)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", choices=[*every, []], help="; ".join(every))
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", scratch]
        subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
        (wheel,) = Path(scratch).glob("*.whl")
        for name in parser.parse_args().only or every:
            folder, start = Path(scratch) / name, time.monotonic()
            folder.mkdir()
            try:
                try_extra(name, wheel, folder)
            except RuntimeError as error:
                failed.append(name)
                print(error)
            print(
                f"[{name}] {'failed' if name in failed else 'works alone'}, {time.monotonic() - start:.0f} s",
                flush=True,
            )
        for name in RESOLVED:
            requirements = Path(scratch) / f"{name}.in"
            requirements.write_text(f"{wanted(name, wheel)}\n", "utf-8")
            uv(
                "pip",
                "compile",
                "--python",
                sys.executable,
                "--output-file",
                f"{scratch}/{name}.txt",
                str(requirements),
            )
            print(f"[{name}] resolves")
    if failed:
        sys.exit(f"extras that do not work alone: {', '.join(failed)}")


if __name__ == "__main__":
    main()
