"""One feature set while it is being made: its file, its rows, and what became of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.compute import Compute, Facts, Recipe
from featurebank.extract.contents import recall
from featurebank.extract.errors import fault
from featurebank.extract.forward import is_out_of_memory
from featurebank.extract.key import LEAST_AGREEMENT
from featurebank.extract.plan import Rows
from featurebank.extract.progress import JobProgress
from featurebank.extract.reuse import DONORS, Copies
from featurebank.extract.sink import Assembler, pending_rows
from featurebank.extract.wanted import Outcome, Wanted
from featurebank.store import FeatureSetWriter, StoreError

__all__ = ["Making", "after_others", "described", "facts_of", "same_rows"]

log = logging.getLogger("featurebank")


@dataclass
class Making:
    """One feature set while the engine works on it.

    Attributes:
        copies: rows that are copied; ``None`` where there are none.
        part: index of the records it walks over: those of its split that are not copied.
        busy: whether another run is making it.
    """

    wanted: Wanted
    part: int = 0
    writer: FeatureSetWriter | None = None
    assembler: Assembler | None = None
    copies: Copies | None = None
    busy: bool = False
    recipe: Recipe | None = None
    execution: dict[str, Any] = field(default_factory=dict)

    @property
    def outcome(self) -> Outcome:
        """What becomes of it."""
        return self.wanted.outcome

    @property
    def spec(self) -> BackboneSpec:
        """Its backbone."""
        return self.wanted.request.backbone

    @property
    def called(self) -> str:
        """For people."""
        return f"{self.outcome.backbone} on {self.outcome.dataset}/{self.outcome.split}"

    def fail(self, error: Exception) -> None:
        """Lets go of the file too: another run may be waiting for it."""
        self.outcome.state = "failed"
        self.outcome.error = f"{type(error).__name__}: {' '.join(str(error).split())}"
        log.error("%s failed: %s", self.called, fault(error))
        self.let_go()

    def let_go(self) -> None:
        """Closes the file, and keeps what it has of chunks that are not full."""
        if self.writer is None:
            return
        try:
            if self.assembler is not None:
                self.outcome.kept = self.assembler.keep()
                kept, of = f"{self.outcome.kept:,}", f"{self.outcome.n_rows:,}"
                log.warning("%s: kept %s of %s rows; run again to go on", self.called, kept, of)
        except (StoreError, OSError) as error:
            log.warning("%s: chunks that are not full could not be kept: %s", self.outcome.path, fault(error))
        finally:
            self.assembler = None
            self.writer.close()

    def begin_anew(self) -> None:
        """Throws away what was begun, copied rows and all."""
        assert self.writer is not None  # noqa: S101 - asked of sets that were begun
        self.writer.partial_path.unlink(missing_ok=True)
        self.writer.close()
        self.writer = self.assembler = self.copies = None

    def resume(self, kind: type[FeatureSetWriter]) -> FeatureSetWriter | None:
        """What was begun of it, where something was; rows whose contents have changed since are pending again.

        Raises:
            LockedError: another run has it.
            StoreError: it has been sealed or deleted meanwhile, or is damaged.
        """
        for place in self.wanted.places:
            if place.with_name(f"{place.name}.partial").exists():
                writer = kind.resume(place)
                if writer.is_provisional:
                    recall(writer, self.wanted.contents)
                return writer
        return None

    def settle_early(self) -> None:
        """Gives it the key of its contents where all are known, or where they must be: a set lies in its folder by now.

        Then they are read, to know whether it is the same.
        """
        if self.writer is None and self.wanted.is_provisional:
            if any(self.outcome.path.parent.glob("*.h5")):
                self.wanted.contents.read()
            if self.wanted.contents.whole:
                self.wanted.settle()

    def identify(self) -> None:
        """Gives what stands under a provisional key the one of its contents, which are known by now."""
        assert self.writer is not None  # noqa: S101 - asked of sets that are complete
        self.wanted.contents.save()
        self.wanted.settle()
        if self.writer.is_provisional:
            self.writer.set_content_hash(0, self.wanted.contents.hashes)
            self.writer.identify(self.outcome.path, self.wanted.key)

    def pending(self, rows: NDArray[np.int64] | None) -> Rows:
        """The positions, among those rows of its split or all, that it still needs; asked of sets that were begun."""
        assert self.writer is not None  # noqa: S101
        pending = pending_rows(self.writer)
        if rows is None:
            return pending
        places = ((int(np.searchsorted(rows, start)), int(np.searchsorted(rows, stop))) for start, stop in pending)
        return tuple((start, stop) for start, stop in places if start < stop)

    def donors(self) -> list[dict[str, Any]]:
        """The sets that rows have been or will be copied from, for the provenance."""
        assert self.writer is not None  # noqa: S101 - asked of sets that were begun
        before = self.writer.manifest["provenance"].get(DONORS, [])
        now = [] if self.copies is None else self.copies.told()
        names = {donor["fingerprint"] for donor in now}
        return [donor for donor in before if donor["fingerprint"] not in names] + now

    def precision_told(self, facts: Facts) -> str:
        """What stays in float32 and why, where something does."""
        kept, tried = facts.execution.get("float32", "nothing"), facts.execution.get("agreement", {})
        if kept == "nothing":
            return ""
        found = ", ".join(f"{value} with {name} of it in float32" for name, value in tried.items())
        return (
            f"{self.outcome.backbone} in {self.wanted.key['precision']}: its features must have a cosine of "
            f"{LEAST_AGREEMENT} to those in float32; found {found or 'no image to measure it on'}; "
            f"{'its beginning' if kept == 'beginning' else kept} stays in float32"
        )

    def progress(self, note: str) -> JobProgress:
        """For a display; a note of how the network runs gives way to an error."""
        outcome, rows = self.outcome, self.assembler
        done = rows.done if rows is not None else 0
        return JobProgress(
            backbone=outcome.backbone,
            dataset=f"{outcome.dataset}/{outcome.split}",
            done=outcome.n_rows if outcome.state in ("present", "sealed") else done,
            total=outcome.n_rows,
            state=outcome.state,
            failed_rows=len(rows.failed) if rows is not None else len(outcome.failed),
            note=outcome.error or note,
        )


def described(facts: Facts) -> str:
    """How a network runs: ``eager, batch 16, float32 beginning``."""
    size = facts.execution["batch_size"]
    how = "compiled" if facts.execution["compiled"] else "packed" if facts.execution.get("packed") else "eager"
    kept = {"beginning": ", float32 beginning", "everything": ", float32"}
    return f"{how}, batch {size}" + kept.get(facts.execution.get("float32", "nothing"), "")


def facts_of(copies: Copies) -> Facts:
    """What need not be asked of a network, because all rows come from sets that it made."""
    made = copies.donor(0)
    return Facts(
        shapes={name: made.info(name).shape for name in made.outputs},
        head=made.head,
        execution=made.provenance.get("execution", {}),
    )


def same_rows(a: NDArray[np.int64] | None, b: NDArray[np.int64] | None) -> bool:
    """Whether two parts of a split are the same, ``None`` for all of it."""
    if a is None or b is None:
        return a is b
    return np.array_equal(a, b)


@contextmanager
def after_others(s: Making, sets: Sequence[Making], compute: Compute, postponed: list[Making]) -> Iterator[None]:
    """A network for which memory runs out beside others is postponed: it is built when they are done with.

    Each round of postponed ones builds at least the first, which then has the memory to itself, or fails.
    """
    try:
        yield
    except Exception as error:
        others = [t.recipe for t in sets if t is not s and t.recipe is not None]
        if not is_out_of_memory(error) or not any(map(compute.built, others)):
            raise
        log.warning("%s has no room beside the other networks; it is built when they are done", s.outcome.backbone)
        postponed.append(s)
