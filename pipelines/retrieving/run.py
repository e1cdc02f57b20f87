"""Runs the questions of a command, each once: an unchanged result is read back from the store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from featurebank.pipelines.probing.run import ProbeReport, run_probes
from featurebank.pipelines.retrieving.selection import Lookup
from featurebank.store import FeatureStore

__all__ = ["run_lookups"]

log = logging.getLogger("featurebank")


def run_lookups(
    store: FeatureStore,
    lookups: Sequence[Lookup],
    *,
    force: bool = False,
    say: Callable[[str], None] = log.info,
) -> ProbeReport:
    """Every question of every backbone; one that fails does not stop the others; see `run_probes`.

    Raises:
        UnknownNameError: an output, or a set for whitening, that no pair has.
    """
    whole = ProbeReport()
    for lookup in lookups:
        report = run_probes(store, lookup.selection, [lookup.task], force=force, say=say)
        if lookup.task.queries is not None:
            for one in report.probed:
                one.train = lookup.task.queries.name
        whole.probed += report.probed
        whole.failed |= report.failed
        whole.passed_over += report.passed_over
    return whole
