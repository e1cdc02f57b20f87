"""Runs every benchmark, one after another, and closes with one table: ours against the reference."""

from __future__ import annotations

import argparse
import difflib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Outcome", "main", "results_in", "run", "scripts_in", "summary"]

FIGURES = ("ours", "reference", "ratio")


class Outcome(NamedTuple):
    """What one script gave: its exit status, and each JSON line of results that it printed."""

    script: str
    status: int
    results: list[dict[str, object]]

    @property
    def failed(self) -> bool:
        """Whether the script ended badly, or measured nothing."""
        return self.status != 0 or not self.results


def results_in(line: str) -> dict[str, object] | None:
    """The results that a line of output holds, or why there are none; None where it is any other line."""
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return None
    return found if {"name", *FIGURES} <= found.keys() or {"name", "skipped"} <= found.keys() else None


def run(script: Path) -> Outcome:
    """Runs one script, shows its output as it comes, and keeps the lines that hold results."""
    results = []
    with subprocess.Popen([sys.executable, "-u", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101 - stdout=PIPE makes it one; says so to the type checker
        for line in process.stdout:
            print(line, end="", flush=True)
            if (found := results_in(line)) is not None:
                results.append(found)
    return Outcome(script.stem, process.returncode, results)


def _row(outcome: Outcome, result: dict[str, object]) -> list[str]:
    if "skipped" in result:
        return [outcome.script, f"{result['name']}: {result['skipped']}", "", "", "", "", ""]
    figures = [f"{value:.4g}" if isinstance(value := result[key], (int, float)) else str(value) for key in FIGURES]
    return [outcome.script, str(result["name"]), *figures, *(str(result.get(key, "")) for key in ("unit", "bound"))]


def summary(outcomes: Sequence[Outcome]) -> str:
    """One aligned row for each result, and one for each script that failed."""
    rows = [["benchmark", "name", *FIGURES, "unit", "bound"]]
    for outcome in outcomes:
        rows += [_row(outcome, result) for result in outcome.results]
        if outcome.failed:
            why = f"exit status {outcome.status}" if outcome.status else "no result line"
            rows.append([outcome.script, f"FAILED ({why})", "", "", "", "", ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = range(2, 2 + len(FIGURES))
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def scripts_in(folder: Path) -> dict[str, Path]:
    """The benchmarks of a folder by name: the scripts that can be run; what they share cannot."""
    scripts = {path.stem: path for path in sorted(folder.glob("*.py")) if path.name != Path(__file__).name}
    return {
        name: path for name, path in scripts.items() if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }


def main(arguments: Sequence[str] | None = None, folder: Path = Path(__file__).parent) -> int:
    """Runs the scripts of a folder, or the ones named.

    Returns:
        The exit status: 0 where every script gave results, 1 where one did not; an unknown name exits with 2.
    """
    scripts = scripts_in(folder)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", metavar="NAME", help=f"one of: {', '.join(scripts)}; without any, all")
    only = parser.parse_args(arguments).only
    for name in only:
        if name not in scripts:
            near = difflib.get_close_matches(name, scripts, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            parser.error(f"a benchmark must be one of {', '.join(scripts)}; got {name}{hint}")
    outcomes = []
    for name in only or scripts:
        print(f"\n== {name}", flush=True)
        outcomes.append(run(scripts[name]))
    print(f"\n{summary(outcomes)}")
    return int(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
