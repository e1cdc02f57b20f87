"""Fine-tuning in the processes that ``torchrun`` started: the first one asks, writes and talks, all of them train."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from featurebank.extract.errors import fault
from featurebank.pipelines.asking.run import answer, is_known, read_case
from featurebank.pipelines.training import ranks
from featurebank.pipelines.training.task import TrainingError

if TYPE_CHECKING:
    from featurebank.pipelines.asking.cases import Case
    from featurebank.pipelines.asking.question import Question
    from featurebank.pipelines.asking.results import Result, Results
    from featurebank.pipelines.jobs.workshop import Workshop

__all__ = ["answer_together", "in_group"]

Led = TypeVar("Led")


class _EndedError(BaseException):
    """A question failed; not to be taken for the fault of one case alone, for the others may wait for this process."""


def in_group(lead: Callable[[], Led], workshop: Workshop) -> Led | None:
    """What the first process comes to; ``None`` in the others, which compute what it asks with `answer_together`.

    Raises:
        TrainingError: a question failed, in whichever process: all of them end.
        SystemExit: silently, where another process has the error to be read.
    """
    try:
        with ranks.started(workshop.device):
            if ranks.is_first():
                report = lead()
                ranks.shared(None)
                return report
            logging.getLogger("featurebank").setLevel(logging.WARNING)
            while (asked := ranks.shared(None)) is not None:
                question, case = asked
                _ending(question, case, lambda one, of: one.run(read_case(one, of, workshop)))
            return None
    except _EndedError as ended:
        raise TrainingError(str(ended)) from ended.__cause__


def answer_together(question: Question, case: Case, results: Results, workshop: Any) -> tuple[Result, ...]:
    """As `answer`, of the first process of a group; the others help where something is computed."""
    if is_known(question, case, results, workshop):
        return answer(question, case, results, workshop)
    ranks.shared((question, case))
    found: tuple[Result, ...] = _ending(question, case, lambda one, of: answer(one, of, results, workshop))
    return found


def _ending(question: Question, case: Case, function: Callable[[Question, Case], Any]) -> Any:
    try:
        return function(question, case)
    except Exception as error:
        raise _EndedError(f"{question.called} of {case.backbone}: {fault(error)}") from error
