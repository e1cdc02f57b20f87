"""Every way to a better ranking beside the plain search: which recipes, their runs, what is best."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.probing.run import ProbeReport
from featurebank.pipelines.probing.selection import Pair, Selection, named_splits
from featurebank.pipelines.results import Row
from featurebank.pipelines.retrieving.run import run_lookups
from featurebank.pipelines.retrieving.selection import Lookup, check_lookups
from featurebank.pipelines.retrieving.task import RERANKINGS, RetrieveTask, main_metric
from featurebank.store import Entry, FeatureStore

__all__ = ["ALPHA_QE", "PLAIN", "TUNED", "Comparison", "compare"]

log = logging.getLogger("featurebank")

PLAIN, ALPHA_QE = "plain", "αQE"  # noqa: RUF001 (alpha query expansion, as its paper calls it)
TUNED = ("power", "whiten", "components", "augment", "expand", "depth")
POWER, COMPONENTS, NEIGHBOURS, ALPHA = 0.5, 256, 10, 3.0
FIRST = ("hit_rate@1", "precision@1", "recall@1", "mrr")


@dataclass(kw_only=True)
class Comparison:
    """One pair of sets, every backbone, every recipe.

    Attributes:
        selection: one pair a backbone.
        recipes: a task each, the plain search first.
        notes: what the recipes' names leave open.
        reports: what each recipe gave; empty before it is run.
    """

    selection: Selection
    recipes: Mapping[str, RetrieveTask]
    notes: tuple[str, ...]
    reports: dict[str, ProbeReport] = field(default_factory=dict)

    @property
    def report(self) -> ProbeReport:
        """All recipes together."""
        selection = self.selection
        probed = [one for report in self.reports.values() for one in report.probed]
        return ProbeReport(probed=probed, failed=dict(selection.failed), passed_over=list(selection.passed_over))

    @property
    def cells(self) -> dict[tuple[str, str], dict[str, Row]]:
        """The rows by metric of each recipe and backbone that gave any, backbones in order within a recipe."""
        return {
            (recipe, one.backbone): {row.metric: row for row in one.result.rows}
            for recipe, report in self.reports.items()
            for one in report.probed
            if one.result
        }

    @property
    def incomplete(self) -> list[str]:
        """The recipes that lack a metric which others give of the same backbone: what is stored is not what was."""
        cells = self.cells
        every: dict[str, set[str]] = {}
        for (_, backbone), rows in cells.items():
            every.setdefault(backbone, set()).update(rows)
        return list(
            dict.fromkeys(recipe for (recipe, backbone), rows in cells.items() if rows.keys() < every[backbone])
        )

    @property
    def metrics(self) -> tuple[str, ...]:
        """Of those that every cell has, the main one and how often the first row is right, or else another."""
        cells = list(self.cells.values())
        names = [metric for metric in cells[0] if all(metric in rows for rows in cells)] if cells else []
        if not names:
            return ()
        main = main_metric(names)
        others = [name for name in (*FIRST, *names) if name in names and name != main]
        return (main, *others[:1])

    @property
    def best(self) -> dict[tuple[str, str], str]:
        """The recipe with the highest value of each backbone and metric; the first of equal ones."""
        best: dict[tuple[str, str], tuple[float, str]] = {}
        for (recipe, backbone), rows in self.cells.items():
            for metric in self.metrics:
                value = rows[metric].value
                if value > best.get((backbone, metric), (float("-inf"), ""))[0]:
                    best[backbone, metric] = (value, recipe)
        return {place: recipe for place, (_, recipe) in best.items()}

    def gain(self, recipe: str) -> float | None:
        """What it adds to the main metric of the plain search, the mean over the backbones that have both."""
        cells = self.cells
        gains = [
            rows[main].value - cells[PLAIN, backbone][main].value
            for main in self.metrics[:1]
            for (name, backbone), rows in cells.items()
            if name == recipe and (PLAIN, backbone) in cells
        ]
        return sum(gains) / len(gains) if gains else None


def compare(
    store: FeatureStore,
    lookups: Sequence[Lookup],
    options: Mapping[str, Any],
    *,
    page: Sequence[object] = (),
    force: bool = False,
    say: Callable[[str], None] = log.info,
) -> list[Comparison]:
    """Every recipe of every backbone for each KEY; what is known already is read back.

    Args:
        store: the store.
        lookups: as `look_up` gives them, of a task that does nothing but the plain search.
        options: of the recipes, `TUNED`; whitening is learned on the gallery, and numbers are 0.5, 256 components, 10
            neighbours and alpha 3, or as many as there are, unless they are given.
        page: what was asked for about a page, which a comparison has none of.
        force: whether what is known is computed again.
        say: is told about each run.

    Raises:
        UnknownNameError: as `check_lookups` and `run_lookups`.
        ConfigError: options that fix the ranking itself, a page, or more rows asked for than a gallery has.
    """
    if any(detail is not None for detail in page):
        raise ConfigError("--compare is a table of many rankings, --html a page of one; give one of them")
    entries = store.ls()
    comparisons = []
    for lookup in lookups:
        if lookup.task.rerank or lookup.task.index:
            raise ConfigError("--compare tries every ranking; found --rerank or --index; leave it out")
        recipes, notes = _recipes(lookup, options, entries) if lookup.selection.pairs else ({PLAIN: lookup.task}, ())
        check_lookups(store, [replace(lookup, task=task) for task in recipes.values()])
        comparisons.append(Comparison(selection=lookup.selection, recipes=recipes, notes=notes))
    for comparison in comparisons:
        for name, task in comparison.recipes.items():
            asked = Lookup(selection=comparison.selection, task=task)
            comparison.reports[name] = run_lookups(store, [asked], force=force, say=_under(name, say))
        for name in comparison.incomplete:
            asked = Lookup(selection=comparison.selection, task=comparison.recipes[name])
            comparison.reports[name] = run_lookups(store, [asked], force=True, say=_under(name, say))
    return comparisons


def _under(name: str, say: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: say(f"{name}: {text}")


def _recipes(
    lookup: Lookup, options: Mapping[str, Any], entries: Sequence[Entry]
) -> tuple[dict[str, RetrieveTask], tuple[str, ...]]:
    plain, pairs = lookup.task, lookup.selection.pairs
    gallery = f"{pairs[0].test.dataset}/{pairs[0].test.split}"
    n_rows = min(pair.test.n_rows for pair in pairs)
    whiten = options.get("whiten") or gallery
    dataset, splits = named_splits(entries, whiten)
    learned = [e.n_rows for e in entries if (e.dataset, e.split, e.state) == (dataset, splits[0], "sealed")]
    numbers: dict[str, Any] = {
        "power": POWER,
        "components": min(COMPONENTS, *(n - 1 for n in learned), *_widths(pairs, plain)),
        "augment": min(NEIGHBOURS, n_rows - 1),
        "expand": (min(NEIGHBOURS, n_rows - plain.itself), ALPHA),
        "depth": None,
    }
    numbers |= {name: options[name] for name in numbers if options.get(name) is not None}
    power, expand, augment = ({name: numbers[name]} for name in ("power", "expand", "augment"))
    whitening = {"whiten": whiten, "components": numbers["components"]}
    moved: dict[str, dict[str, Any]] = {
        ALPHA_QE: expand,
        "DBA": augment,
        **{name: {"rerank": name, "depth": numbers["depth"]} for name in RERANKINGS},
    }
    steps: dict[str, dict[str, Any]] = {
        PLAIN: {},
        "power": power,
        "whiten": whitening,
        "power+whiten": {**power, **whitening},
        **moved,
        **{f"whiten+{name}": {**whitening, **step} for name, step in moved.items()},
    }
    try:
        recipes = {name: replace(plain, **step) for name, step in steps.items()}
    except ValueError as error:
        raise ConfigError(str(error)) from error
    where = whiten if whiten != gallery else f"{whiten}, the {'set itself' if plain.itself else 'gallery'}"
    neighbours, alpha = numbers["expand"]
    notes = (
        f"whiten: PCA learned on {where}, {numbers['components']:,} directions; power: {numbers['power']:g}",
        f"neighbours: {ALPHA_QE} {neighbours:,} (alpha {alpha:g}), DBA {numbers['augment']:,}",
    )
    return recipes, notes


def _widths(pairs: Sequence[Pair], task: RetrieveTask) -> Iterator[int]:
    """D of each backbone's descriptors."""
    for pair in pairs:
        shapes = {output.name: output.shape for output in pair.test.outputs}
        yield sum(shapes[name][-1] for name in (task.output, *task.joined) if shapes.get(name)) or COMPONENTS
