"""The verb of a question: its options, its run, its tables; all from the declaration."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurebank.pipelines.asking.option import PAGE, flag_of, options_of, parameters
from featurebank.pipelines.asking.question import Question
from featurebank.pipelines.asking.register import find_question, questions
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.stores import DEFAULT_STORE, BackboneOption, StoreOption, existing_store
from featurebank.pipelines.streams import JsonOption, console, print_json, show_messages
from featurebank.store import FeatureStore
from featurebank.store.errors import unknown_name
from featurebank.store.text import shown

if TYPE_CHECKING:
    from featurebank.pipelines.asking.cases import Selection
    from featurebank.store import FeatureStore

__all__ = ["probe", "verb"]

COMMON: dict[str, Any] = {
    "keys": Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY...",
            help="DATASET, DATASET/SPLIT or DATASET/SPLIT:SPLIT, as ls lists them; @BACKBONE behind it for one only.",
        ),
    ],
    "store": StoreOption,
    "backbone": BackboneOption,
    "fingerprint": Annotated[
        list[str] | None, typer.Option("--fingerprint", help="Which set, where several match; repeatable.")
    ],
    "compare": Annotated[bool, typer.Option("--compare", help="Paired tests between the backbones, on the same rows.")],
    "group": Annotated[str | None, typer.Option("--group", help="Accuracy by an extra column of the records.")],
    "force": Annotated[bool, typer.Option("--force", help="Compute known answers again, and replace them.")],
    "as_json": JsonOption,
    "html": Annotated[
        Path | None,
        typer.Option("--html", dir_okay=False, help="Write one offline page of the answers.", rich_help_panel=PAGE),
    ],
    "images": Annotated[
        list[str] | None,
        typer.Option(
            "--images",
            metavar="[DATASET=]PLACE",
            help="Where images are, folder:PATH, manifest:FILE or list:FILE, if not known; repeatable.",
            rich_help_panel=PAGE,
        ),
    ],
}
DEFAULTS = {"store": DEFAULT_STORE, "compare": False, "force": False, "as_json": False}


def verb(name: str) -> Callable[..., None]:
    """The command of a question, as typer takes it.

    Raises:
        UnknownNameError: there is no such question.
    """
    question = find_question(name)

    def command(**given: Any) -> None:
        own = {option: _as_given(given.pop(option)) for option in options_of(question)}
        extra = {option: _as_given(given.pop(option)) for option in question.extra}
        _run([question], own, extra, **given)

    return _command(command, question.__doc__ or "", COMMON | dict(parameters(question)))


def probe(text: str) -> Callable[..., None]:
    """The command that asks several questions of train and test sets at once; the text is its help."""
    able = {name: one for name, one in questions().items() if not (one.extra or one.methods or one.layout.alone)}
    task = typer.Option("--task", help=f"{', '.join(able)}; repeatable. Without it: {', '.join(TASKS)}.")
    takers: dict[str, list[str]] = {}
    for name, question in able.items():
        for own in options_of(question):
            takers.setdefault(own, []).append(name)
    every: dict[str, Any] = {}
    for question in able.values():
        for name, one in parameters(question, panels={own: ", ".join(of) for own, of in takers.items()}):
            every.setdefault(name, one)

    def command(task: list[str] | None, **given: Any) -> None:
        own = {name: _as_given(given.pop(name)) for name in every}
        names = list(dict.fromkeys(task or TASKS))
        for name in names:
            if name not in able:
                raise unknown_name("task", name, able)
        _run([able[name] for name in names], own, {}, **given)

    return _command(command, text, {**COMMON, "task": Annotated[list[str] | None, task], **every})


TASKS = ("linear", "knn", "fewshot")


def _run(
    kinds: Sequence[type[Question]],
    own: Mapping[str, Any],
    extra: Mapping[str, Any],
    *,
    keys: list[str] | None,
    store: Path,
    backbone: list[str] | None,
    fingerprint: list[str] | None,
    compare: bool,
    group: str | None,
    force: bool,
    as_json: bool,
    html: Path | None,
    images: list[str] | None,
) -> None:
    from featurebank.pipelines.asking import compare as analysis
    from featurebank.pipelines.asking.run import ask
    from featurebank.pipelines.asking.table import render, report_json

    start = time.perf_counter()
    messages = console(stderr=True)
    show_messages(messages)
    given = {name: value for name, value in own.items() if value is not None}
    for name in given:
        if not any(name in options_of(kind) for kind in kinds):
            takers = {one: kind for one, kind in questions().items() if name in options_of(kind)}
            flag = flag_of(next(iter(takers.values())), name)
            names = ", ".join(kind.name for kind in kinds)
            raise ConfigError(f"{flag} is for {', '.join(takers)}; found only {names}")
    folder = FeatureStore(store) if any(extra.values()) else existing_store(store)
    opened: dict[str, Any] = {}
    asked: list[tuple[Question, Selection]] = []
    for kind in kinds:
        mine = {name: value for name, value in given.items() if name in options_of(kind)}
        prepared = kind.prepare(mine, {**extra, "backbone": backbone or (), "opened": opened}, keys or (), folder)
        for question, texts in prepared:
            if not texts:
                raise ConfigError(f"{kind.name} needs KEY, a dataset of the store: featurebank ls")
            asked += _variants(folder, question, texts, backbones=backbone or (), fingerprints=fingerprint or ())
    analysis.check_analysis(asked, comparison=compare, column=group)
    page = None
    if html is not None:
        from featurebank.pipelines.asking.page import Page

        page = Page(folder, html, images=images or (), opened=opened, asked=asked)
    elif of_page := [*(["--images"] if images else []), *_of_page(kinds, given)]:
        raise ConfigError(f"{' and '.join(of_page)} must come with --html FILE; found none")
    with messages.status("") as status:
        report = ask(folder, asked, force=force, begin=lambda text: status.update(shown(text)))
    analyses = analysis.compare(folder, report.asked, seed=given.get("seed", 0), force=force) if compare else []
    analyses += analysis.group(folder, report.asked, group, force=force) if group else []
    written = str(html) if page is not None and page.write(report, analyses) else None
    if as_json:
        print_json(report_json(report, analyses=analyses, page=written))
    else:
        render(report, console(), seconds=time.perf_counter() - start, analyses=analyses, page=written)
    if not report.ok:
        raise typer.Exit(1)


def _variants(
    store: FeatureStore, question: Question, keys: Sequence[str], **only: Sequence[str]
) -> Iterator[tuple[Question, Selection]]:
    """What a question stands for, each with its cases; variants that read the same sets share them."""
    from featurebank.pipelines.asking.roles import select

    selection = select(store, question, keys, **only)
    selections = {str(question.further): selection}
    for one in question.variants(selection):
        sets = str(one.further)
        if sets not in selections:
            selections[sets] = select(store, one, keys, **only)
        yield one, selections[sets]


def _of_page(kinds: Sequence[type[Question]], given: Mapping[str, Any]) -> list[str]:
    """The flags of the options that a page alone has."""
    own = {name: (kind, one) for kind in kinds for name, (_, one) in options_of(kind).items()}
    return [flag_of(own[name][0], name) for name in given if own[name][1].panel == PAGE]


def _command(run: Callable[..., None], doc: str, annotations: Mapping[str, Any]) -> Callable[..., None]:
    """A function with these parameters, which all may be left out."""

    def command(**given: Any) -> None:
        run(**given)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, kind, default=DEFAULTS.get(name), annotation=annotation)
            for name, annotation in annotations.items()
        ]
    )
    command.__annotations__ = dict(annotations)
    command.__doc__ = doc.strip().partition("\n\n")[0]
    return command


def _as_given(value: Any) -> Any:
    """Lists as tuples; what was not given as ``None``."""
    if isinstance(value, list):
        value = tuple(value)
    return None if value is False or value == () else value
