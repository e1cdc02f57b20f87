"""The backbones of a choice: which there are, which are left out and why, and what an image costs with each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from featurebank.extract import backbones
from featurebank.extract.backbones.packaged import ENTRIES
from featurebank.extract.backbones.zoo import entries
from featurebank.extract.errors import fault
from featurebank.extract.key import Precision
from featurebank.pipelines.asking.results import Computed, Results, Row
from featurebank.pipelines.errors import ConfigError
from featurebank.store.errors import UnknownNameError

if TYPE_CHECKING:
    from featurebank.extract.backbones.contract import BackboneSpec

__all__ = ["NAME", "VERSION", "Candidate", "Field", "Wish", "candidates", "offline"]

NAME, VERSION = "choose", 1
PERMISSIVE = ("Apache-2.0", "MIT", "BSD-3-Clause")
BATCH, SECONDS = 4, 0.4
UNKNOWN = "not known"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Which backbones are asked for.

    Attributes:
        among: their names; all packaged ones and the zoo's where empty.
        max_params: in millions.
        max_ms: an image.
        max_dim: of the features.
        licences: any of these; ``permissive`` stands for `PERMISSIVE`.
    """

    among: tuple[str, ...] = ()
    max_params: float | None = None
    max_ms: float | None = None
    max_dim: int | None = None
    licences: tuple[str, ...] = ()

    def misfits(self, facts: Mapping[str, Any], ms: float | None = None) -> list[tuple[float, str, str]]:
        """What does not fit: by how much, the fact, and the option that would let it pass."""
        millions = facts["parameters"] / 1e6 if isinstance(facts.get("parameters"), int) else None
        limits = (
            ("parameters, millions", "--max-params", millions, self.max_params),
            ("dimension", "--max-dim", facts.get("dimension"), self.max_dim),
            ("ms an image", "--max-ms", ms, self.max_ms),
        )
        found = []
        for what, flag, value, most in limits:
            if most is None or (flag == "--max-ms" and ms is None):
                continue
            if not isinstance(value, int | float):
                found.append((float("inf"), f"{what}: {UNKNOWN}", f"no {flag}"))
            elif value > most:
                shown = f"{value:.0f}" if flag == "--max-dim" else f"{value:.1f}"
                over = f"{value:.0f}" if flag == "--max-dim" else f"{value + 0.1:.1f}"
                found.append((value / max(most, 1e-9), f"{what}: {shown}", f"{flag} {over}"))
        if self.licences:
            licence = str(facts.get("licence") or UNKNOWN)
            allowed = {one for name in self.licences for one in (PERMISSIVE if name == "permissive" else (name,))}
            if licence not in allowed:
                found.append((2.0, f"licence: {licence}", f"--licence {licence}"))
        return found


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A backbone that takes part.

    Attributes:
        name: of it.
        spec: resolved; its weights lie on this machine.
        ms: milliseconds an image, of one core or GPU.
        facts: parameters, dimension and licence, where known.
    """

    name: str
    spec: BackboneSpec
    ms: float
    facts: Mapping[str, Any]


@dataclass(kw_only=True)
class Field:
    """Who takes part.

    Attributes:
        candidates: they, by name.
        excluded: the others, by name, each with the reason.
    """

    candidates: dict[str, Candidate] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)


@contextmanager
def offline(*, wanted: bool) -> Iterator[None]:
    """Nothing is fetched inside, where that is wanted."""
    before = os.environ.get("FEATUREBANK_OFFLINE")
    if wanted:
        os.environ["FEATUREBANK_OFFLINE"] = "1"
    try:
        yield
    finally:
        if wanted and before is None:
            del os.environ["FEATUREBANK_OFFLINE"]
        elif wanted and before is not None:
            os.environ["FEATUREBANK_OFFLINE"] = before


def candidates(wish: Wish, results: Results, *, device: str, precision: Precision, say: Callable[[str], None]) -> Field:
    """Who takes part: facts are compared before weights are fetched, and these fetched before anything is timed.

    No network is built but to be timed, with random weights; what is known is not timed again.

    Raises:
        UnknownNameError: a name that does not exist.
        ConfigError: none is left; the nearest relaxation is named.
    """
    found, near = Field(), []
    for name in dict.fromkeys(wish.among or (*ENTRIES, *entries())):
        facts = backbones.describe(name)
        facts = {key: facts.get(key) for key in ("parameters", "dimension", "licence")}
        misfits = wish.misfits(facts)
        try:
            if not misfits:
                spec = backbones.resolve(name)
                say(f"{name}: timing")
                ms = _ms(name, results, device, precision)
                misfits = wish.misfits(facts, ms)
        except UnknownNameError:
            raise
        except Exception as error:  # a backbone that cannot be had stops no other
            found.excluded[name] = fault(error)
            continue
        if misfits:
            found.excluded[name] = "; ".join(what for _, what, _ in misfits)
            near.append((len(misfits), sum(by for by, _, _ in misfits), name, " ".join(way for _, _, way in misfits)))
        else:
            found.candidates[name] = Candidate(name=name, spec=spec, ms=ms, facts=facts)
    if not found.candidates:
        raise ConfigError(_none_left(found.excluded, near))
    return found


def _none_left(excluded: Mapping[str, str], near: Sequence[tuple[int, float, str, str]]) -> str:
    text = f"at least one backbone must be left; found {len(excluded):,}, and none of them is"
    if near:
        _, _, name, way = min(near)
        return f"{text}; the nearest is {name}, with {way}"
    name, reason = next(iter(excluded.items()))
    return f"{text}: {name}: {reason}"


def _ms(name: str, results: Results, device: str, precision: Precision) -> float:
    """Milliseconds an image in a small batch, on one core or GPU, without reading and decoding it."""
    from featurebank.pipelines.jobs.efficiency.rounds import processor

    what = {"measured": "ms", "backbone": name, "processor": processor(device), "precision": precision}

    def compute() -> Computed:
        from featurebank.extract.compute import numerics
        from featurebank.pipelines.jobs.efficiency.measuring import Bench, timed
        from featurebank.pipelines.jobs.efficiency.record import Wish as Timing

        with numerics():
            bench = Bench(Timing(backbone=name, device=device, precision=precision, threads=1))
            pixels = bench.pixels(BATCH)
            seconds = median(timed(lambda: bench.run(pixels), SECONDS))
        details = {**what, "batch": BATCH}
        return Computed(
            rows=[Row(question=NAME, backbone=name, metric="throughput", value=BATCH / seconds, details=details)]
        )

    return 1000 / results.once(NAME, what, [], compute, version=VERSION).rows[0].value
