"""Damaged and mutated files: what becomes of flipped bits, and of 20,000 mutated inputs in every format that is read.

- A random bit of a random byte is flipped anywhere in a sealed file, plain and packed: opening or verifying must find
  each one. Over HTTP, opening and reading everything with ``verify="first_touch"`` must find each flip in a byte that
  the file's digests cover, and those are all.
- Mutated inputs (bytes overwritten, copied, cut, replaced by odd ones; in feature sets also with every digest made
  right again) are read in children whose memory is limited. Each must be read, or refused by one of our errors: no
  crash, no hang, nothing else raised, no child above 512 MB beside the input's size.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from fuzz_targets import read_everything, read_values, sealed_files, targets
from fuzzing import READ, REFUSED, Target, attempts
from harness import report

from featurebank.store import FeatureSet, StoreError

SHOWN = 240  # characters of an outcome


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL under which the files of a folder can be had, whole or in ranges."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_HEAD(self) -> None:
            self.do_GET(body=False)

        def do_GET(self, body: bool = True) -> None:
            data = (folder / self.path.lstrip("/")).read_bytes()
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            part = data[int(asked[1]) : int(asked[2]) + 1] if asked else data
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Accept-Ranges", "bytes")
            if asked:
                self.send_header("Content-Range", f"bytes {asked[1]}-{int(asked[1]) + len(part) - 1}/{len(data)}")
            self.end_headers()
            if body:
                self.wfile.write(part)

        def log_message(self, *_: object) -> None:
            pass

    class Listening(ThreadingHTTPServer):
        request_queue_size = 256
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            """Readers that go away before they were answered are none of ours."""

    with Listening(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
            thread.join()


def flips(path: Path, read: Callable[[], object], count: int, generator: np.random.Generator) -> list[int]:
    """The places of the flips that nobody noticed."""
    original = path.read_bytes()
    missed = []
    for place in generator.integers(0, len(original), count).tolist():
        damaged = bytearray(original)
        damaged[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        try:
            read()
        except StoreError:
            pass
        else:
            missed.append(place)
    path.write_bytes(original)
    return missed


def touch(path: Path | str) -> None:
    read_values(FeatureSet(path, verify="first_touch"))


def count_flips(folder: Path, count: int, generator: np.random.Generator) -> tuple[int, int]:
    """How many flips were made, and how many of them were found."""
    made = found = 0
    files = sealed_files(folder)
    with served(folder) as url:
        for path in files:
            ways = {
                "verified": partial(read_everything, path),
                "first touch": partial(touch, path),
                "first touch over HTTP": partial(touch, f"{url}/{path.name}"),
            }
            for way, read in ways.items():
                missed = flips(path, read, count // len(files), generator)
                made += count // len(files)
                found += count // len(files) - len(missed)
                print(
                    f"{path.stem}, {way}: {count // len(files)} flipped bits, {len(missed)} not noticed {missed[:10]}"
                )
    return made, found


def try_target(target: Target, count: int, generator: np.random.Generator, keep: Path | None) -> Counter[str]:
    """The outcomes of a number of mutated inputs; what was neither read nor refused is kept, if asked for."""
    for number, outcome in attempts(target, target.examples):
        if outcome != READ:
            raise SystemExit(f"{target.name}: example {number} must be read; found {outcome}")
    outcomes: Counter[str] = Counter()
    inputs = target.mutants(count, generator)
    for number, outcome in attempts(target, inputs):
        outcomes[outcome[:SHOWN]] += 1
        if outcome not in (READ, REFUSED) and keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{re.sub(r'[^a-z0-9.]+', '_', target.name)}-{number}").write_bytes(inputs[number])
    target.write(target.examples[0])  # for those that read the same folder
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=2_000, help="in each of the ways to read")
    parser.add_argument("--mutations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="targets whose names contain this")
    parser.add_argument("--keep", type=Path, help="a folder for the files that were neither read nor refused")
    args = parser.parse_args()
    generator = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "flips").mkdir()
        (Path(folder) / "mutants").mkdir()
        made, found = count_flips(Path(folder) / "flips", args.flips, generator) if args.flips else (1, 1)
        tried = [target for target in targets(Path(folder) / "mutants") if args.only in target.name]
        shares = sum(target.share for target in tried)
        total: Counter[str] = Counter()
        for target in tried:
            outcomes = try_target(target, -(-args.mutations * target.share // shares), generator, args.keep)
            total += outcomes
            print(f"{target.name}: {outcomes.total()} inputs, {outcomes[READ]} read, {outcomes[REFUSED]} refused")
            for outcome, count in outcomes.most_common():
                if outcome not in (READ, REFUSED):
                    print(f"    {count} x {outcome}", flush=True)
    report("fuzz_flips_found", ours=found, reference=made, unit="flips", bound="ratio = 1")
    good = total[READ] + total[REFUSED]
    report("fuzz_mutations_survived", ours=good, reference=total.total(), unit="inputs", bound="ratio = 1")
    if found != made or good != total.total():
        sys.exit(1)


if __name__ == "__main__":
    main()
