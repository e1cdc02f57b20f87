"""Damaged and mutated files: what becomes of 2,000 flipped bytes and of 10,000 mutated files.

- A random bit of a random byte is flipped anywhere in a sealed file: opening or verifying must find each one.
- Mutated files, sealed and packed (bytes overwritten, copied, the end cut off) are opened, read and verified in
  processes of their own. In half of them HDF5's metadata alone is mutated and every digest made right again, so that
  the damage reaches HDF5's parser. Each must be read or refused by a StoreError: no crash, no hang.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from harness import report
from numpy.typing import NDArray

from featurebank.store import FeatureSet, StoreError

# The tests' own small file, which has every kind of array.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from feature_sets import make_sealed
from resealing import reseal, with_table

PATIENCE = 150.0
FILES = ("demo.h5", "packed.h5")
READ, REFUSED, ESCAPED, CRASHED, HUNG = "read", "refused", "another error", "crash", "hang"


def read_everything(path: Path) -> None:
    with FeatureSet(path) as fs:
        _ = (fs.ids, fs.labels, fs.columns, fs.reasons, fs.head, fs.content_hash, repr(fs), fs.class_names)
        for name in fs.outputs:
            fs[name].max()
        fs.verify()


def flips(original: bytes, path: Path, count: int, generator: np.random.Generator) -> list[int]:
    """The places of the flips that nobody noticed."""
    path.write_bytes(original)
    missed = []
    with path.open("r+b", buffering=0) as file:
        for place in generator.integers(0, len(original), count).tolist():
            os.pwrite(file.fileno(), bytes([original[place] ^ (1 << int(generator.integers(8)))]), place)
            try:
                read_everything(path)
            except StoreError:
                pass
            else:
                missed.append(place)
            os.pwrite(file.fileno(), original[place : place + 1], place)
    return missed


def metadata(path: Path, original: bytes) -> NDArray[np.intp]:
    """The places of HDF5's metadata: what the file digest covers beyond the header, but for our own small arrays."""
    with FeatureSet(path) as fs:
        inside = np.zeros(len(original), np.bool_)
        for first, last in fs.table.covered(len(original), fs.header.packed):
            inside[max(first, 4096) : last] = True
        for array in fs.table.small_arrays():
            inside[array.address : array.end] = False
    return np.flatnonzero(inside & (np.frombuffer(original, np.uint8) != 0))


def mutate(original: bytes, said: NDArray[np.intp], generator: np.random.Generator, most: int) -> bytearray:
    data = bytearray(original)
    for _ in range(int(generator.integers(1, most))):
        length = int(generator.integers(1, most * 4))
        place = int(generator.choice(said)) % len(data)
        kind = int(generator.integers(6))
        if kind == 0:
            data[place : place + length] = generator.bytes(length)
        elif kind == 1:
            data[place : place + length] = b"\xff" * length
        elif kind == 2:
            data[place : place + length] = bytes(length)
        elif kind == 3:
            other = int(generator.integers(len(data)))
            data[place : place + length] = data[other : other + length]
        elif kind == 4 and generator.random() < 0.1:
            del data[place:]
        else:
            data[place] ^= 1 << int(generator.integers(8))
        if not data:
            break
    return data


def resealed(path: Path) -> None:
    """Every digest made right again, where the file is still whole enough to have any."""
    try:
        data = bytearray(path.read_bytes())
        data[16:24] = len(data).to_bytes(8, "little")
        path.write_bytes(data)
        with_table(path, lambda _: None)
        reseal(path)
    except Exception:  # noqa: S110 - then it stays as damaged as it is
        pass


def attempt(path: Path) -> str:
    """What becomes of opening, reading and verifying the file in a process of its own."""
    outcome, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            read_everything(path)
            answer = READ
        except StoreError:
            answer = REFUSED
        except BaseException as error:
            answer = f"{ESCAPED}: {type(error).__name__}: {error}"
        os.write(told, answer.encode()[:2000])
        os._exit(0)
    os.close(told)
    answered, _, _ = select.select([outcome], [], [], PATIENCE)
    if not answered:
        os.kill(child, signal.SIGKILL)
    answer = os.read(outcome, 4096).decode() if answered else HUNG
    os.close(outcome)
    os.waitpid(child, 0)
    return answer or CRASHED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=2_000)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the files that were neither read nor refused")
    args = parser.parse_args()
    generator = np.random.default_rng(args.seed)
    outcomes: Counter[str] = Counter()
    resealable: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demo.h5"
        with make_sealed(path) as fs:
            fs.pack(path.with_name("packed.h5")).close()
        originals = [path.read_bytes(), path.with_name("packed.h5").read_bytes()]
        places = [metadata(path.with_name(name), data) for name, data in zip(FILES, originals, strict=True)]
        missed = [place for data in originals for place in flips(data, path, args.flips // 2, generator)]
        for number in range(args.mutations):
            original, inside = originals[number // 2 % 2], places[number // 2 % 2]
            if number % 2:
                path.write_bytes(mutate(original, inside, generator, 4))
                resealed(path)
            else:
                path.write_bytes(mutate(original, np.arange(len(original)), generator, 9))
            outcome = attempt(path)
            outcomes[outcome] += 1
            resealable[outcome] += number % 2
            if outcome not in (READ, REFUSED) and args.keep is not None:
                args.keep.mkdir(parents=True, exist_ok=True)
                (args.keep / f"{number}.h5").write_bytes(path.read_bytes())
    sizes = ", ".join(str(len(data)) for data in originals)
    print(f"{args.flips} flipped bits in files of {sizes} bytes: {len(missed)} not noticed, at {missed[:10]}")
    for outcome, count in outcomes.most_common():
        print(f"{args.mutations} mutated files: {count} {outcome}, {resealable[outcome]} of them with right digests")
    flipped = args.flips // 2 * 2
    report("fuzz_flips_found", ours=flipped - len(missed), reference=flipped, unit="flips", bound="ratio = 1")
    good = outcomes[READ] + outcomes[REFUSED]
    report("fuzz_mutations_survived", ours=good, reference=args.mutations, unit="files", bound="ratio = 1")
    if missed or good != args.mutations:
        sys.exit(1)


if __name__ == "__main__":
    main()
