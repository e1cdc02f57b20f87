"""Many trainings on a Dask cluster: each case of each question is one job, a worker has one job at a time."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featurebank.extract.device import cpu_cores, resolve_device
from featurebank.extract.errors import ExtractError, fault
from featurebank.pipelines.asking.results import Result, Results
from featurebank.pipelines.asking.run import Answering, answer, is_known
from featurebank.pipelines.extracting.jobs import workshop_of
from featurebank.pipelines.extracting.scale.start import connected, started
from featurebank.pipelines.training.progress import told

if TYPE_CHECKING:
    from featurebank.pipelines.asking.cases import Case, Selection
    from featurebank.pipelines.asking.question import Question
    from featurebank.pipelines.extracting.config import RunConfig
    from featurebank.pipelines.training.loop import Progress

__all__ = ["JobError", "answering_on"]

POLL_SECONDS = 0.05
TOLD_SECONDS = 10.0
TOPIC = "featurebank-jobs"

_one_job = threading.Lock()
"""In a worker, which may have several threads: draws seed the generators of the whole process."""


class JobError(ExtractError, RuntimeError):
    """A job failed in its worker, or several workers with it."""


@contextmanager
def answering_on(
    run: RunConfig,
    asked: Sequence[tuple[Question, Selection]],
    *,
    workers: int | None,
    scheduler: str | None,
    force: bool,
    say: Callable[[str], None],
) -> Iterator[Answering]:
    """`answer`, with what is not known computed by the workers of a cluster; without one where nothing is to be done.

    Args:
        run: whose store and images the workers see under the same paths.
        asked: all that will be asked.
        workers: how many processes of this machine, each with its part of the cores.
        scheduler: address of a Dask scheduler, in their place.
        force: whether what is known is computed again.
        say: told a line for people.

    Raises:
        ConfigError: nothing answers at the address, or the device is a GPU and there is none.
    """
    known, workshop = Results(run.store, force=force), workshop_of(run, say)
    cases = [(one, case) for one, selection in asked for case in selection.cases]
    jobs = [(one, case) for one, case in cases if not is_known(one, case, known, workshop)]
    if not jobs:
        yield answer
        return
    cluster = connected(scheduler) if scheduler else started(workers or 1, resolve_device(run.extraction.device))
    threads = max(1, cpu_cores() // workers) if workers else None
    with cluster as client:
        client.subscribe_topic(TOPIC, lambda event: say(event[1]))
        say(f"{len(jobs)} jobs for {len(client.nthreads())} workers")
        yield _Jobs(client, run, jobs, force=force, threads=threads).answer


class _Jobs:
    """Jobs in order, as many under way as there are workers."""

    def __init__(
        self,
        client: Any,
        run: RunConfig,
        jobs: Sequence[tuple[Question, Case]],
        *,
        force: bool,
        threads: int | None,
    ) -> None:
        self._client, self._run, self._force, self._threads = client, run, force, threads
        self._waiting = list(jobs)
        self._futures: dict[tuple[int, int], Any] = {}

    def answer(self, question: Question, case: Case, results: Results, workshop: Any) -> tuple[Result, ...]:
        """The results of a job, once it has ended, while others go on; kept by its worker."""
        key = (id(question), id(case))
        if key not in self._futures and not any((id(q), id(c)) == key for q, c in self._waiting):
            return answer(question, case, results, workshop)
        while not (key in self._futures and self._futures[key].done()):
            self._submit()
            time.sleep(POLL_SECONDS)
        self._submit()
        results.changed = True
        return self._result(self._futures[key])

    def _submit(self) -> None:
        free = len(self._client.nthreads()) - sum(not future.done() for future in self._futures.values())
        for question, case in self._waiting[: max(0, free)]:
            job = self._client.submit(tuned, self._run, question, case, self._force, self._threads, pure=False)
            self._futures[id(question), id(case)] = job
        del self._waiting[: max(0, free)]

    def _result(self, future: Any) -> tuple[Result, ...]:
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        try:
            found = future.result()
        except (KilledWorker, FutureCancelledError) as error:
            raise JobError(
                "a job must leave its worker alive; found several workers that ended, or no cluster: look at their "
                f"output, then run again, it goes on ({error})"
            ) from error
        if isinstance(found, str):
            raise JobError(found)
        return found  # type: ignore[no-any-return]


def tuned(run: RunConfig, question: Question, case: Case, force: bool, threads: int | None) -> tuple[Result, ...] | str:
    """In a worker: the results of one job, kept in the store; or why there are none, as not every error can be sent."""
    import torch
    from distributed import get_worker

    worker, last = get_worker(), [0.0]

    def observe(what: str, progress: Progress) -> None:
        if time.monotonic() - last[0] >= TOLD_SECONDS:
            last[0] = time.monotonic()
            worker.log_event(TOPIC, told(what, progress))

    with _one_job:
        logging.getLogger("featurebank").setLevel(logging.WARNING)
        if threads is not None:
            torch.set_num_threads(min(threads, torch.get_num_threads()))
        workshop = workshop_of(run, lambda text: worker.log_event(TOPIC, text), observe)
        if multiprocessing.current_process().daemon:  # which may have no processes that read images for it
            workshop = replace(workshop, workers=0)
        try:
            return answer(question, case, Results(run.store, force=force), workshop)
        except Exception as error:
            return fault(error)
