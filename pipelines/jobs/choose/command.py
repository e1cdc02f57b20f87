"""``featurebank choose``: which backbone for a folder of images, how sure that is, and what it costs."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.jobs.choose.clock import Clock, TimeUp
from featurebank.pipelines.stores import DEFAULT_STORE, StoreOption
from featurebank.pipelines.streams import HtmlOption, JsonOption, console, print_json, show_messages
from featurebank.store.text import shown

if TYPE_CHECKING:
    from rich.console import Console

    from featurebank.pipelines.asking.results import Results, Row
    from featurebank.pipelines.asking.sheet import Sheet
    from featurebank.pipelines.jobs.choose.field import Field, Wish
    from featurebank.pipelines.jobs.choose.running import Choice, Line, Race

__all__ = ["choose", "seconds_of"]

PLACES = ("store", "html", "as_json", "plan")
UNITS = {"h": 3600, "m": 60, "s": 1}
INTERRUPTED = 130


def choose(  # noqa: PLR0917 - one for each option
    context: typer.Context,
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Images, a sub-folder for each class; or a dataset by name.")
    ],
    store: StoreOption = DEFAULT_STORE,
    label: Annotated[
        str, typer.Option("--label", metavar="COLUMN", help="A column whose values are the classes, not their own.")
    ] = "",
    budget: Annotated[
        str, typer.Option("--budget", metavar="TIME", help="How long it may take: 90s, 30m, 1h30m; no limit if empty.")
    ] = "",
    rows: Annotated[
        int | None, typer.Option("--rows", min=20, help="Images that decide at most; 2,000 if not given.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, max=1, help="Differences of accuracy that do not matter.")
    ] = 0.01,
    confidence: Annotated[
        float, typer.Option("--confidence", min=0.5, max=0.9999, help="That no backbone is dropped wrongly.")
    ] = 0.95,
    max_params: Annotated[
        float | None, typer.Option("--max-params", help="Only backbones of this many million parameters or fewer.")
    ] = None,
    max_ms: Annotated[
        float | None, typer.Option("--max-ms", help="Only backbones of this many milliseconds an image or fewer.")
    ] = None,
    max_dim: Annotated[
        int | None, typer.Option("--max-dim", help="Only backbones of this many features or fewer.")
    ] = None,
    licence: Annotated[
        list[str] | None,
        typer.Option("--licence", help="Only weights of this licence, or of permissive ones; repeatable."),
    ] = None,
    among: Annotated[
        list[str] | None,
        typer.Option("--among", metavar="BACKBONE", help="Only this backbone, as features takes it; repeatable."),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Fetch no weights: only what lies here.")] = False,
    device: Annotated[
        str, typer.Option("--device", help="Of torch, such as cpu or cuda; auto is a GPU if any.")
    ] = "auto",
    plan: Annotated[
        bool, typer.Option("--plan", help="Extract nothing: say who takes part, and how long it may take.")
    ] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="Tune those not told apart too, three at most: outside the budget.")
    ] = False,
    html: HtmlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose a backbone for a folder of images: drop what is proven worse, pick the cheapest that is proven as good."""
    clock = Clock(seconds_of(budget))  # what is imported next takes its time too
    from featurebank.extract.device import resolve_device, resolve_precision
    from featurebank.pipelines.asking.results import Results
    from featurebank.pipelines.extracting.display import live
    from featurebank.pipelines.extracting.stopping import stoppable
    from featurebank.pipelines.extracting.working import watching
    from featurebank.pipelines.jobs.choose import field
    from featurebank.pipelines.jobs.choose.finals import Watch
    from featurebank.pipelines.jobs.choose.page import page
    from featurebank.pipelines.jobs.choose.pool import look
    from featurebank.pipelines.jobs.choose.running import Race
    from featurebank.store import FeatureStore

    if html is not None and not html.parent.is_dir():
        raise ConfigError(f"--html: expected a folder at {html.parent}, found none; make it first")
    messages = console(stderr=True)
    show_messages(messages)
    try:
        device = resolve_device(device)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    precision = resolve_precision("auto", device)
    wish = field.Wish(
        among=tuple(among or ()),
        max_params=max_params,
        max_ms=max_ms,
        max_dim=max_dim,
        licences=tuple(licence or ()),
    )
    with field.offline(wanted=offline), stoppable():
        pool = look(folder, label)
        who = _timed(wish, Results(store), clock, messages, device=device, precision=precision)
        with live(messages) as observer:
            race = Race(
                pool,
                who,
                FeatureStore(store),
                tolerance=tolerance,
                confidence=confidence,
                limit=rows,
                clock=clock,
                device=device,
                precision=precision,
                observer=observer,
            )
            choice = None if plan else race.run()
        if tune and choice is not None and not choice.interrupted:
            with watching(messages) as (observe, say):
                race.tune(choice, Watch(observe=observe, say=say))
    command = _command(context)
    sheet = _sheet(race, choice)
    if html is not None:
        html.write_text(page(sheet, race, choice, command), encoding="utf-8")
    if as_json:
        print_json(_json(race, choice, command, html))
    else:
        sheet.notes[1:1] = _curves(choice) if choice else ()
        _show(sheet, race, command, html)
    whole = len(race.costs) * len(pool.images)
    text = f"{race.computed:,} images through a network, {race.computed / whole:.0%} of all through all"
    messages.print(f"{text}, in {time.monotonic() - clock.start:.1f} s", highlight=False)
    if choice is not None and choice.interrupted:
        raise typer.Exit(INTERRUPTED)


def _timed(wish: Wish, results: Results, clock: Clock, messages: Console, **how: Any) -> Field:
    """Who takes part; each is named as its turn comes."""
    from featurebank.pipelines.jobs.choose.field import candidates

    with messages.status("") as status:

        def say(text: str) -> None:
            clock.check()
            status.update(shown(text))

        try:
            return candidates(wish, results, say=say, **how)
        except TimeUp:
            raise ConfigError(
                f"--budget must be enough to time each backbone once; found {clock.budget:g} s; what was timed is "
                "kept: run it again, or name fewer with --among"
            ) from None


def seconds_of(text: str) -> float | None:
    """A time such as ``90s``, ``30m`` or ``1h30m``; ``None`` of an empty text.

    >>> seconds_of("1h30m"), seconds_of("")
    (5400.0, None)

    Raises:
        ConfigError: another form, or no time at all.
    """
    if not text:
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not seconds > 0:
        raise ConfigError(f"--budget must be a time such as 90s, 30m or 1h30m; found {text!r}")
    return seconds


def _command(context: typer.Context) -> str:
    """What was asked, as a command; where the store lies and what was written is left out."""
    words = ["featurebank", "choose", str(context.params["folder"])]
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if option.name not in (*PLACES, "folder") and value != option.get_default(context):
            for one in value if isinstance(value, list | tuple) else (value,):
                words += [option.opts[0]] if one is True else [option.opts[0], str(one)]
    return shlex.join(words)


def _sheet(race: Race, choice: Choice | None) -> Sheet:
    """A line for each backbone, the best first."""
    from featurebank.extract.datasets import label_of
    from featurebank.pipelines.asking.metrics import metric
    from featurebank.pipelines.asking.sheet import Sheet
    from featurebank.pipelines.jobs.choose.scoring import SCORES

    lines: list[Any] = []
    accuracy = metric("accuracy")
    final, tuned = _further(choice)
    for name, line in (choice.lines if choice else race.lines).items():
        one = race.who.candidates[name]
        cells: list[Any] = []
        if choice is not None:
            cells = [
                line.state,
                f"{line.rows:,}",
                *(accuracy.shown(line.scores[score]) for score in SCORES if line.scores),
            ]
            cells += [""] * (2 + len(SCORES) - len(cells)) + [_behind(line)]
            cells += [line.final] * final + [line.tuned] * tuned
        parameters = one.facts["parameters"]
        size = f"{parameters / 1e6:.1f}" if isinstance(parameters, int) else ""
        cells += [f"{one.ms:.1f}", size, f"{one.facts['dimension'] or ''}", str(one.facts["licence"] or "")]
        lines.append(((name,), tuple(cells)))
    further = ["set\naside"] * final + ["set aside,\ntuned"] * tuned
    headings = ["state", "rows", *SCORES, "behind\nthe leader", *further] if choice else []
    sheet = Sheet(
        title=f"{label_of(race.pool.images.spec)}: {len(race.pool.order):,} images to decide by, "
        f"{len(race.pool.aside):,} set aside",
        names=["backbone"],
        columns=[*headings, "ms", "params M", "dim", "licence"],
        lines=lines,
    )
    sheet.notes += _notes(race, choice)
    return sheet


def _further(choice: Choice | None) -> tuple[bool, bool]:
    """Whether any backbone has a final number, and one of its tuned network."""
    lines = choice.lines.values() if choice else ()
    return any(line.final for line in lines), any(line.tuned for line in lines)


def _behind(line: Line) -> str:
    from featurebank.pipelines.asking.metrics import metric

    if line.standing is None or line.standing.high == 0:
        return ""
    low, high = (metric("accuracy").shown(end, signed=True) for end in (line.standing.low, line.standing.high))
    return f"{low} {high}"


def _notes(race: Race, choice: Choice | None) -> list[str]:
    if choice is None:
        times = ", ".join(f"{size:,} rows {seconds:,.0f} s" for size, seconds in race.planned())
        return [f"at most, if none is dropped: {times}", *race.notes]
    rules, others = race.rules, [name for name, line in choice.lines.items() if line.state == "not told apart"]
    notes = [f"pick: {choice.pick}; the race ended because: {choice.stopped}"]
    if others:
        notes.append(
            f"not told apart from the leader, and not proven to be within {rules.tolerance:g}: {', '.join(others)}"
        )
    if front := _front(race, choice):
        notes.append(f"nothing is both better and cheaper, on {choice.rows:,} rows: {', '.join(front)}")
    notes.append(
        "ridge, knn, class mean: accuracy on rows left out one by one; ridge alone decides. Behind the "
        f"leader: intervals, {rules.confidence:.0%} for all of the race together. ms: an image, on one core or GPU"
    )
    if any(_further(choice)):
        notes.append(
            "set aside: the linear probe, and the tuned network where asked for, fitted on the rows that decided and "
            "scored once; intervals at 95 %"
        )
    return notes + choice.notes


def _curves(choice: Choice) -> list[str]:
    """The learning curve of each finalist."""
    notes = []
    for name in choice.finalists:
        if len(curve := choice.lines[name].curve) > 1:
            shares = ", ".join(f"{rows:,} rows {share:.3f}".replace(" 0.", " .") for rows, share in curve.items())
            notes.append(f"{name}: {shares}")
    return notes


def _front(race: Race, choice: Choice) -> list[str]:
    """The Pareto front of those on the last rung: accuracy, and milliseconds."""
    from featurebank.pipelines.asking.fronts import pareto_front

    names = [name for name, line in choice.lines.items() if line.rows == choice.rows]
    points = [[choice.lines[name].curve[choice.rows], -race.costs[name]] for name in names]
    return [name for name, on in zip(names, pareto_front(points), strict=True) if on]


def _show(sheet: Sheet, race: Race, command: str, html: Path | None) -> None:
    from featurebank.pipelines.asking.table import print_line, render_sheet

    screen = console()
    for table in render_sheet(sheet, screen):
        screen.print(table)
    for note in sheet.notes:
        print_line(screen, shown(note))
    for name, reason in race.who.excluded.items():
        print_line(screen, shown(reason), about=name)
    print_line(screen, shown(command), about="again")
    if html is not None:
        print_line(screen, shown(str(html)), about="page", style="green")


def _json(race: Race, choice: Choice | None, command: str, html: Path | None) -> dict[str, Any]:
    lines = []
    for name, line in (choice.lines if choice else race.lines).items():
        one = race.who.candidates[name]
        lines.append({
            "backbone": name,
            "state": line.state if choice else "",
            "rows": line.rows,
            "scores": line.scores,
            "curve": [[rows, share] for rows, share in line.curve.items()],
            "behind": None if line.standing is None else [line.standing.low, line.standing.high],
            "final": _ends(line.final),
            "tuned": _ends(line.tuned),
            "ms": one.ms,
            **one.facts,
        })  # fmt: skip
    return {
        "pick": choice.pick if choice else None,
        "stopped": choice.stopped if choice else None,
        "rows": choice.rows if choice else 0,
        "images": {
            "all": len(race.pool.images), "decide": len(race.pool.order), "aside": len(race.pool.aside),
        },
        "rules": {"tolerance": race.rules.tolerance, "confidence": race.rules.confidence, "level": race.rules.level},
        "backbones": lines,
        "front": _front(race, choice) if choice else [],
        "plan": None if choice else [[size, seconds] for size, seconds in race.planned()],
        "excluded": race.who.excluded,
        "notes": choice.notes if choice else race.notes,
        "command": command,
        "page": None if html is None else str(html),
    }  # fmt: skip


def _ends(row: Row | None) -> list[float | None] | None:
    return None if row is None else [row.value, row.low, row.high]
