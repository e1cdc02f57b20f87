"""What finalists are worth on the rows set aside, each asked once: numbers that decide nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurebank.extract import datasets
from featurebank.extract.datasets._records import FileSplit
from featurebank.pipelines.asking.roles import select
from featurebank.pipelines.asking.run import Asked, ask
from featurebank.pipelines.jobs.choose.pool import Images
from featurebank.pipelines.jobs.workshop import Workshop, reading_workers
from featurebank.store import FeatureStore

if TYPE_CHECKING:
    from featurebank.extract.backbones.contract import BackboneSpec
    from featurebank.pipelines.asking.question import Question
    from featurebank.pipelines.training.loop import Progress

__all__ = ["Held", "Watch"]

log = logging.getLogger("featurebank")


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Who is told of trainings.

    Attributes:
        observe: what is trained and where it stands.
        say: a line for people.
    """

    observe: Callable[[str, Progress], None]
    say: Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Held:
    """Rows that decided, to fit on, and rows set aside, to score on.

    Attributes:
        names: of the finalists that have features of both.
        store: has the features of both.
        decided: the images of the first.
        aside: of the second.
        fingerprints: of the sets of all finalists.
    """

    names: Sequence[str]
    store: FeatureStore
    decided: Images
    aside: Images
    fingerprints: Sequence[str]

    def ask(self, question: Question, name: str, workshop: Workshop | None = None) -> Asked:
        """What a question finds of a backbone."""
        key = f"{_place(self.decided)}:{self.aside.spec.split}"
        cases = select(self.store, question, [key], backbones=[name], fingerprints=self.fingerprints)
        (asked,) = ask(self.store, [(question, cases)], say=log.debug, workshop=workshop).asked
        return asked

    def workshop(self, spec: BackboneSpec, *, device: str, watch: Watch) -> Workshop:
        """Where a backbone is tuned on them."""
        images = {_place(part): part for part in (self.decided, self.aside)}
        return Workshop(
            root=self.store.root,
            spec_of=lambda _: spec,
            images_of=images.__getitem__,
            wish=device,
            # What a function reads is opened anew in another process, whole and not as this part of it.
            workers=reading_workers() if isinstance(self.decided, FileSplit) else 0,
            observe=watch.observe,
            say=watch.say,
        )


def _place(part: Images) -> str:
    return f"{datasets.label_of(part.spec)}/{part.spec.split}"
