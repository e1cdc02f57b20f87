"""Run as a script: seals, packs, unpacks or merges once per operation on the disk, killed before just that one.

usage: kill_copying.py VERB SOURCE TARGETS

TARGETS/whole is the store of an undisturbed run, TARGETS/0, TARGETS/1, … are the stores as the kills left them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

from feature_sets import KEY, make_sealed

from featurebank.store import FeatureSet, FeatureStore, stamps
from featurebank.store.fingerprint import fingerprint

__all__ = ["copy", "place"]


def place(store: Path) -> Path:
    """Where the small feature set belongs."""
    return FeatureStore(store).path_for("demo", "test", "tiny/net", fingerprint(KEY))


def copy(verb: str, source: Path, target: Path) -> None:
    """Does in one store what the verb says, with what is in the other one."""
    if verb == "seal":
        # Neither clock nor chance, so that all have the same bytes.
        target.mkdir(parents=True, exist_ok=True)
        (target / ".origin").write_text("0" * 64 + "\n")
        with mock.patch.object(stamps, "now", return_value=datetime(2026, 1, 31, tzinfo=UTC)):
            make_sealed(place(target)).close()
    elif verb == "merge":
        FeatureStore(target).merge(FeatureStore(source))
    else:
        with FeatureSet(place(source)) as made:
            getattr(made, verb)(place(target)).close()


def is_killed(verb: str, source: Path, target: Path, at: int) -> bool:
    child = os.fork()
    if child == 0:
        try:
            kill_before(at)
            copy(verb, source, target)
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if status:
        raise SystemExit(f"at operation {at}, {verb} failed by itself")
    return False


def kill_before(at: int) -> None:
    done, opening = 0, os.open

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal done
            if function is opening and not arguments[1] & os.O_CREAT:
                return function(*arguments, **keywords)
            if done == at:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1
            return function(*arguments, **keywords)

        return call

    for name in ("open", "pwrite", "sendfile", "fdatasync", "fsync", "link", "rename", "unlink"):
        setattr(os, name, counted(getattr(os, name)))


def main() -> None:
    verb, source, targets = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    copy(verb, source, targets / "whole")  # and everything is imported before the first fork
    at = 0
    while is_killed(verb, source, targets / str(at), at):
        at += 1


if __name__ == "__main__":
    main()
