"""The steps of the Dockerfile as a script, in folders of this machine: its recipe is tried where no image can be built.

Each ``RUN`` is done by a shell with the ``ENV`` of the lines above it, in what ``COPY`` and ``WORKDIR`` leave; every
folder of the image lies below a temporary one. Steps that change the system itself (its packages, its users)
are shown and left out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OF_THE_SYSTEM = re.compile(r"\b(?:apt-get|useradd|chown)\b")
FOLDERS = re.compile(r"(?<![\w.$])/(?:opt|data)\b")  # which the image makes


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each instruction of a Dockerfile and what follows it, on one line."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, rest = line.partition(" ")
        yield name, rest


def copy_committed(target: Path) -> None:
    """What git holds, as the files are now."""
    words = ["/usr/bin/env", "git", "ls-files", "-z"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    for file in filter(None, listed.stdout.split("\0")):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, target / file, follow_symlinks=False)


def run(step: str, inside: str, here: Path, environment: dict[str, str]) -> None:
    """One ``RUN``, with this machine's cache of packages."""
    if OF_THE_SYSTEM.search(step):
        print(f"left out: {step}")
        return
    start, words = time.monotonic(), ["/bin/sh", "-ec", inside.replace(" --no-cache ", " ")]
    done = subprocess.run(words, cwd=here, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{step}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    print(f"{step}: {time.monotonic() - start:.0f} s", flush=True)


def main() -> None:
    """Does the steps, then what the container does by itself; the first that fails ends it."""
    steps = list(instructions((ROOT / "Dockerfile").read_text("utf-8")))
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        for name, rest in steps:
            inside = FOLDERS.sub(lambda folder: scratch + folder[0], rest)
            if name == "ENV":
                for key, value in re.findall(r"(\w+)=(\S+)", inside):
                    environment[key] = value.replace("$PATH", environment["PATH"])
            elif name == "WORKDIR":
                here = Path(inside)
                here.mkdir(parents=True, exist_ok=True)
            elif name == "COPY":
                copy_committed(here)
            elif name == "RUN":
                run(rest, inside, here, environment)
        words = [word for name, rest in steps if name in {"ENTRYPOINT", "CMD"} for word in json.loads(rest)]
        run(" ".join(words), " ".join(words), here, environment)


if __name__ == "__main__":
    main()
