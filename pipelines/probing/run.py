"""Runs tasks on pairs of feature sets, each once: an unchanged result is read back from the store."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from featurebank.extract.errors import fault
from featurebank.pipelines.config import ConfigError
from featurebank.pipelines.probing.classification import FewShotTask, KNNTask, LinearTask, ZeroShotTask
from featurebank.pipelines.probing.inputs import Inputs, check_alike, read_rows
from featurebank.pipelines.probing.scores import Answer
from featurebank.pipelines.probing.selection import Pair, Selection, further_sets, named_splits
from featurebank.pipelines.probing.structured import DenseTask, MultiLabelTask, RegressionTask
from featurebank.pipelines.probing.task import Task
from featurebank.pipelines.probing.transfer import ShiftTask
from featurebank.pipelines.results import Computed, Result, Results, Row
from featurebank.probes._training import check_device
from featurebank.store import Entry, FeatureStore
from featurebank.store.errors import unknown_name

__all__ = ["DEFAULT_TASKS", "TASKS", "ProbeReport", "Probed", "build_tasks", "probe_pair", "run_probes"]

log = logging.getLogger("featurebank")

TASKS: Mapping[str, type[Task]] = {
    task.name: task
    for task in (
        LinearTask,
        KNNTask,
        FewShotTask,
        ZeroShotTask,
        MultiLabelTask,
        DenseTask,
        RegressionTask,
        ShiftTask,
    )
}
DEFAULT_TASKS = ("linear", "knn", "fewshot")


@dataclass(kw_only=True)
class Probed:
    """What became of one task on one pair; ``error`` says why there is no result."""

    task: str
    backbone: str
    train: str
    test: str
    result: Result | None = None
    error: str = ""
    seconds: float = 0.0


@dataclass(kw_only=True)
class ProbeReport:
    """What a run of probes did.

    Attributes:
        probed: one per task and pair, tasks in order within a pair.
        failed: backbone and test set that could not be probed at all, and why.
        passed_over: backbones that lack a set.
    """

    probed: list[Probed] = field(default_factory=list)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for is there."""
        return not self.failed and not any(one.error for one in self.probed)


def build_tasks(names: Sequence[str], options: Mapping[str, Any]) -> list[Task]:
    """The tasks by name, with the options that each takes; ``None`` leaves an option at its default.

    Raises:
        UnknownNameError: a task that does not exist.
        ConfigError: an option that no task takes, that one needs and lacks, or a value that it does not allow.
    """
    given = {name: value for name, value in options.items() if value is not None}
    tasks: list[Task] = []
    used: set[str] = set()
    for name in dict.fromkeys(names):
        if name not in TASKS:
            raise unknown_name("task", name, TASKS)
        own = {f.name: f for f in fields(TASKS[name])}
        needed = [n for n, f in own.items() if f.default is MISSING and f.default_factory is MISSING]
        if lacking := [option(n) for n in needed if n not in given]:
            raise ConfigError(f"--task {name} needs {' and '.join(lacking)}")
        try:
            tasks.append(TASKS[name](**{n: value for n, value in given.items() if n in own}))
        except ValueError as error:
            raise ConfigError(f"--task {name}: {error}") from error
        used |= own.keys()
    for name in given:
        if name not in used:
            takers = ", ".join(task for task, kind in TASKS.items() if name in {f.name for f in fields(kind)})
            raise ConfigError(f"{option(name)} is for --task {takers}; found only {', '.join(dict.fromkeys(names))}")
    return tasks


def option(name: str) -> str:
    """How a setting is called on the command line.

    >>> option("train_masks")
    '--train-masks'
    """
    return "--" + name.replace("_", "-")


def run_probes(
    store: FeatureStore,
    selection: Selection,
    tasks: Sequence[Task],
    *,
    force: bool = False,
    say: Callable[[str], None] = log.info,
) -> ProbeReport:
    """Every task on every pair; one that fails does not stop the others. Writes the store's table of results.

    Args:
        store: the store.
        selection: the pairs.
        tasks: the tasks.
        force: whether what is known is computed again.
        say: is told about each.

    Raises:
        UnknownNameError: an output, or a set to score, that no pair has.
    """
    entries = store.ls()
    _check_names(entries, selection.pairs, tasks)
    report = ProbeReport(failed=dict(selection.failed), passed_over=list(selection.passed_over))
    results = Results(store.root, force=force)
    try:
        for pair in selection.pairs:
            for task in tasks:
                report.probed.append(_probed(entries, pair, task, results, say))
    finally:
        if any(one.result and one.result.kept and not one.result.known for one in report.probed):
            results.write_table()
    return report


def probe_pair(pair: Pair, task: Task, results: Results, *, others: Sequence[Entry] = ()) -> Result:
    """One task on one pair, from the store where it is unchanged.

    Args:
        pair: the sets.
        task: the task.
        results: of the store.
        others: the further sets that the task names.

    Raises:
        ValueError, KeyError: the rows do not allow it, or an output or column is not there.
    """
    validation = pair.validation if task.reads_train else None
    fitted = [entry for entry in (pair.train, validation) if entry is not None] if task.reads_train else []
    read = (*fitted, pair.test, *others)
    fingerprints = tuple(entry.fingerprint for entry in read)
    roles = {
        "train": _name(pair.train) if task.reads_train else None,
        "validation": _name(validation) if validation else None,
    }
    settings, key = {**task.settings(), **roles}, {**task.key(), **roles, "records": [*map(_records, read)]}

    def compute() -> Computed:
        check_device(getattr(task, "device", "cpu"))
        test = read_rows(pair.test, task.output)
        with pair.test.open() as scored:
            inputs = Inputs(
                backbone=pair.backbone,
                train=read_rows(pair.train, task.output) if task.reads_train else test,
                validation=read_rows(validation, task.output) if validation else None,
                test=test,
                others=tuple(read_rows(other, task.output) for other in others),
                head=scored.head,
            )
        splits = (inputs.train, inputs.validation, inputs.test, *inputs.others)
        check_alike([split for split in splits if split is not None])
        answer, unconverged = _watched(task, inputs)
        rows = _rows(answer, pair, task, settings, fingerprints)
        return Computed(rows=rows, arrays=answer.arrays, notes=[*answer.notes, *unconverged])

    def fits(rows: Sequence[Row]) -> bool:
        return all(isinstance((row.settings or {})["chosen"], Mapping) for row in rows) and task.fits(rows)

    result = results.once(task.name, key, fingerprints, compute, version=task.version, fits=fits)
    return replace(result, rows=tuple(replace(row, backbone=pair.backbone) for row in result.rows))


def _watched(task: Task, inputs: Inputs) -> tuple[Answer, list[str]]:
    """The answer, and what solvers said about fits that stopped short; any other warning passes."""
    from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        answer = task.run(inputs)
    for warning in caught:
        if not issubclass(warning.category, ConvergenceWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    short = [str(warning.message) for warning in caught if issubclass(warning.category, ConvergenceWarning)]
    return answer, list(dict.fromkeys(short))


def _rows(
    answer: Answer, pair: Pair, task: Task, settings: Mapping[str, Any], fingerprints: tuple[str, ...]
) -> list[Row]:
    return [
        Row(
            backbone=pair.backbone,
            dataset=score.dataset or _name(pair.test),
            task=task.name,
            metric=score.metric,
            value=score.value,
            low=score.low,
            high=score.high,
            interval=score.interval,
            fingerprints=fingerprints,
            settings={**settings, "chosen": answer.chosen, **score.settings},
        )
        for score in answer.scores
    ]


def _probed(entries: Sequence[Entry], pair: Pair, task: Task, results: Results, say: Callable[[str], None]) -> Probed:
    one = Probed(task=task.name, backbone=pair.backbone, train=_name(pair.train), test=_name(pair.test))
    start = time.perf_counter()
    try:
        others = [entry for name in task.others for entry in further_sets(entries, name, pair)]
        one.result = probe_pair(pair, task, results, others=others)
    except ModuleNotFoundError:
        raise  # no cell's fault: a package that all of them need is not installed
    except Exception as error:
        one.error = fault(error)
    one.seconds = time.perf_counter() - start
    state = "failed" if one.error else "known" if one.result and one.result.known else f"{one.seconds:.1f} s"
    say(f"{task.name} of {pair.backbone}: {one.train} -> {one.test}: {state}")
    return one


def _check_names(entries: Sequence[Entry], pairs: Sequence[Pair], tasks: Sequence[Task]) -> None:
    outputs = {output.name for pair in pairs for output in pair.test.outputs}
    for task in tasks:
        if pairs and task.output not in outputs:
            raise unknown_name("output", task.output, outputs)
        for name in task.others:
            named_splits(entries, name)


def _records(entry: Entry) -> str:
    with entry.open() as feature_set:
        return feature_set.records_digest


def _name(entry: Entry) -> str:
    return f"{entry.dataset}/{entry.split}"
