"""A child that may take little memory, for what would fill that of the tests."""

from __future__ import annotations

import subprocess
import sys

LIMIT = """
import pathlib, resource, sys
pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (int(sys.argv[1]) << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
"""


def run_limited(code: str, *arguments: object, imports: str = "", megabytes: int) -> str:
    """What a program prints that may take so many megabytes of addresses beside what its imports take.

    Raises:
        CalledProcessError: it fails; its standard error is in the notes.
    """
    command = [sys.executable, "-c", f"{imports}\n{LIMIT}\n{code}", str(megabytes), *map(str, arguments)]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr[-2000:])
        raise
