"""Asks questions of the sets of a store, each once: what is known is read back, and one that fails stops no other."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from featurebank.extract.errors import fault
from featurebank.pipelines.asking.answer import Answer
from featurebank.pipelines.asking.cases import Answered, Case, Selection
from featurebank.pipelines.asking.inputs import Rows, check_alike, read_rows
from featurebank.pipelines.asking.metrics import metric
from featurebank.pipelines.asking.question import Question
from featurebank.pipelines.asking.results import Computed, Result, Results, Row, result_key
from featurebank.store import Entry, FeatureStore
from featurebank.store.errors import unknown_name
from featurebank.store.text import shown

__all__ = ["Answering", "Asked", "Report", "answer", "ask", "is_known", "read_case"]

log = logging.getLogger("featurebank")

Answering = Callable[[Question, Case, Results, Any], tuple[Result, ...]]


@dataclass(kw_only=True)
class Asked(Answered):
    """What became of one question about one case; ``error`` says why there is no result."""

    question: Question
    error: str = ""
    seconds: float = 0.0

    @property
    def fitted(self) -> str:
        """DATASET/SPLIT that was fitted on, or whose rows were looked for."""
        return self.question.fitted_name or self.case.place(self.question.layout.fitted) or self.scored

    @property
    def scored(self) -> str:
        """DATASET/SPLIT that was scored, or searched."""
        return self.case.place(self.question.layout.scored)


@dataclass(kw_only=True)
class Report:
    """What was asked and what came of it.

    Attributes:
        asked: one per question and case, questions in order within a case.
        failed: backbone and set that could not be asked at all, and why.
        passed_over: backbones that lack a set.
    """

    asked: list[Asked] = field(default_factory=list)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for is there."""
        return not self.failed and not any(one.error for one in self.asked)

    def with_(self, other: Report) -> Report:
        """Both as one."""
        passed_over = [*dict.fromkeys([*self.passed_over, *other.passed_over])]
        return Report(asked=self.asked + other.asked, failed=self.failed | other.failed, passed_over=passed_over)


def answer(question: Question, case: Case, results: Results, workshop: Any = None) -> tuple[Result, ...]:
    """The result of each part of a question about one case; what the store has not is computed together.

    Raises:
        ValueError, KeyError: the rows do not allow it, or an output or column is not there.
    """
    keys, known = _known(question, case, results, workshop)
    if missing := _missing(question, known):
        start = time.perf_counter()
        found, short = _watched(question.only(missing), case, workshop)
        seconds = (time.perf_counter() - start) / len(missing)
        for part in missing:
            own = found.parts[part] if part else found
            notes = [*own.notes, *(short if part == missing[0] else ())]
            computed = _computed(question, case, replace(own, notes=notes), part, seconds)
            known[part] = results.keep(keys[part], computed) if own.keep else _passing(question, part, computed)
    every = [result for result in known.values() if result is not None]
    if question.methods and not any(result.part and result.rows for result in every):
        why = Answered(case=case, results=tuple(result for result in every if result.part)).notes
        raise ValueError(f"nothing could be computed: {'; '.join(why)}")
    said: dict[str, Any] = {"backbone": case.backbone} | ({"score": question.variant} if question.variant else {})
    return tuple(replace(one, rows=tuple(replace(row, **said) for row in one.rows)) for one in every)


def ask(
    store: FeatureStore,
    questions: Iterable[tuple[Question, Selection]],
    *,
    force: bool = False,
    say: Callable[[str], None] = log.info,
    begin: Callable[[str], None] = log.debug,
    workshop: Any = None,
    answering: Answering = answer,
) -> Report:
    """Every question about each of its cases. Writes the store's table of results.

    Args:
        store: the store.
        questions: each with its cases.
        force: whether what is known is computed again.
        say: is told what became of each.
        begin: is told which one is asked next.
        workshop: where jobs work.
        answering: `answer`, or what has it done by others.

    Raises:
        UnknownNameError: an output that no case has.
        ConfigError: a question that does not suit its cases.
    """
    questions = list(questions)
    report, results = Report(), Results(store.root, force=force)
    for question, selection in questions:
        outputs = {output.name for case in selection.cases for output in case.one(question.layout.scored).outputs}
        for name in question.outputs:
            if selection.cases and name not in outputs:
                raise unknown_name("output", name, outputs)
        question.check(selection.cases)
        report.failed |= selection.failed
        report.passed_over += [reason for reason in selection.passed_over if reason not in report.passed_over]
    every = [(question, case) for question, selection in questions for case in selection.cases]
    places = [case.backbone + case.place(question.layout.scored) for question, case in every]
    every = [every[at] for at in sorted(range(len(every)), key=lambda at: places.index(places[at]))]
    try:
        for count, (question, case) in enumerate(every, 1):
            one = Asked(question=question, case=case)
            way = f"{question.called} of {case.backbone}: {one.fitted} -> {one.scored}"
            about = shown(f"{count} of {len(every)}: {way}")
            begin(about)
            start = time.perf_counter()
            try:
                one.results = answering(question, case, results, workshop)
            except ModuleNotFoundError:
                raise  # no case's fault: a package that all of them need is not installed
            except Exception as error:
                one.error = fault(error)
            one.seconds = time.perf_counter() - start
            report.asked.append(one)
            state = "failed" if one.error else "known" if one.known else f"{one.seconds:.1f} s"
            say(f"{about}: {state}")
    finally:
        if results.changed:
            results.write_table()
    return report


def is_known(question: Question, case: Case, results: Results, workshop: Any) -> bool:
    """Whether `answer` computes nothing; it does not where it will say why it cannot."""
    try:
        return not _missing(question, _known(question, case, results, workshop)[1])
    except ValueError:
        return False


def _known(
    question: Question, case: Case, results: Results, workshop: Any
) -> tuple[dict[str, Any], dict[str, Result | None]]:
    """The key of each part, and what the store has of it."""
    beside = question.read_beside(case, workshop)
    keys = {part: _key(question, case, part, beside) for part in question.parts}
    return keys, {part: results.known(key) for part, key in keys.items()}


def _missing(question: Question, known: Mapping[str, Result | None]) -> list[str]:
    return [part for part, result in known.items() if result is None or not _whole(question, result)]


def _whole(question: Question, result: Result) -> bool:
    """Whether a kept result has its main number, where it has no parts: it may have come with a stranger's store."""
    return bool(question.methods) or any(row.primary for row in result.rows)


def _key(question: Question, case: Case, part: str, beside: Mapping[str, Any]) -> dict[str, Any]:
    places = {role: [entry.place for entry in entries] for role, entries in case.sets.items()}
    return result_key(
        question.name,
        question.version,
        question.key(part),
        [entry.fingerprint for entry in case.every],
        sets=places,
        records=[_records(entry) for entry in case.every],
        **beside,
    )


def read_case(question: Question, case: Case, workshop: Any = None) -> Rows:
    """What a question is handed of a case: each set read once.

    Raises:
        NotFoundError: a set lacks the output.
        ValueError: the rows of two sets do not have the same shape.
    """
    by_path = {entry.path: entry for entry in case.every}
    read = {path: read_rows(entry, question.outputs[0]) for path, entry in by_path.items()}
    check_alike([*read.values()])
    sets = {role: tuple(read[entry.path] for entry in entries) for role, entries in case.sets.items()}
    with case.one(question.layout.scored).open() as scored:
        return Rows(backbone=case.backbone, sets=sets, head=scored.head, workshop=workshop)


def _watched(question: Question, case: Case, workshop: Any) -> tuple[Answer, list[str]]:
    """The answer, and what solvers said about fits that stopped short; any other warning passes."""
    stopped = _stopped_short()
    if (device := getattr(question, "device", None)) is not None:
        from featurebank.probes._parameters import check_device

        check_device(device)
    rows = read_case(question, case, workshop)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", stopped)
        found = question.run(rows)
    for warning in caught:
        if not issubclass(warning.category, stopped):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    short = [str(warning.message) for warning in caught if issubclass(warning.category, stopped)]
    return found, list(dict.fromkeys(short))


def _stopped_short() -> type[Warning]:
    """scikit-learn's warning; where that is not installed, one that nothing gives."""
    try:
        from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        return type("NoWarning", (Warning,), {})
    return cast("type[Warning]", ConvergenceWarning)


def _passing(question: Question, part: str, computed: Computed) -> Result:
    """A result that is not kept."""
    rows = tuple(computed.rows)
    return Result(question=question.name, part=part, name="", rows=rows, notes=tuple(computed.notes), kept=False)


def _computed(question: Question, case: Case, found: Answer, part: str, seconds: float) -> Computed:
    layout, scored = question.layout, case.one(question.layout.scored)
    fitted = question.fitted_name or case.place(layout.fitted) or (scored.place if layout.alone else "")
    primary = question.primary or next((score.metric for score in found.scores), "")
    rows = [
        Row(
            question=question.name,
            backbone=case.backbone,
            label=scored.network.label if scored.network else "",
            train=fitted,
            test=scored.place,
            set=score.set or scored.place,
            score=score.score or part,
            shots=score.shots,
            group=score.group,
            metric=score.metric,
            direction=metric(score.metric).direction,
            primary=score.metric == primary,
            value=score.value,
            low=score.low,
            high=score.high,
            interval=score.interval,
            n=score.n,
            seconds=seconds,
            fingerprints=tuple(entry.fingerprint for entry in case.every),
            details=score.details,
        )
        for score in found.scores
    ]
    settings = question.settings(part)
    return Computed(rows=rows, arrays=found.arrays, notes=found.notes, settings=settings, chosen=found.chosen)


def _records(entry: Entry) -> str:
    with entry.open() as feature_set:
        return feature_set.records_digest
