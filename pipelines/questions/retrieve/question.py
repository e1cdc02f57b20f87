"""The question, asked alone or as every way to a better ranking beside the plain search; its tables and its page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from featurebank.pipelines.asking.option import Option
from featurebank.pipelines.asking.sheet import FAILED, Cell, Sheet, selection_note
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.questions.retrieve.scores import MAIN, main_metric
from featurebank.pipelines.questions.retrieve.search import ALPHA, RERANKINGS, Search

if TYPE_CHECKING:
    from featurebank.pipelines.asking.cases import Answered, Case, Selection
    from featurebank.pipelines.asking.images import Album
    from featurebank.pipelines.asking.results import Results, Row
    from featurebank.store import FeatureStore

__all__ = ["ALPHA_QE", "RECIPES", "Retrieve"]

PLAIN, ALPHA_QE = "plain", "αQE"  # noqa: RUF001 (alpha query expansion, as its paper calls it)
MOVED = (ALPHA_QE, "DBA", *RERANKINGS)
RECIPES = (PLAIN, "power", "whiten", "power+whiten", *MOVED, *(f"whiten+{name}" for name in MOVED))
TUNED = ("power", "components", "augment", "expand", "depth")
POWER, COMPONENTS, NEIGHBOURS = 0.5, 256, 10
FIRST = ("hit_rate@1", "precision@1", "recall@1", "mrr")
HELP = (
    "Every ranking beside the plain one, in one table; --power, --components … then set what the recipes use, and "
    "whitening is learned on the gallery unless --whiten is given."
)
GAIN = "* the best of a backbone; gain: over plain, mean of all backbones"


@dataclass(frozen=True, kw_only=True)
class Retrieve(Search):
    """Find the rows that belong together: of DATASET/SPLIT among each other, of DATASET/QUERY:GALLERY in the gallery.

    With ``--recipes`` it stands for one of `RECIPES`, and before the sets are known for all of them.

    Attributes:
        recipe_name: of `RECIPES`; empty where it is asked alone.
        given: the options of the recipes that are given, `TUNED`; others are 0.5, 256 components, 10 neighbours and
            alpha 3, or as many as there are.
        about: what the recipes' names leave open.
    """

    name: ClassVar[str] = "retrieve"
    extra: ClassVar[Mapping[str, tuple[Any, Option]]] = {"recipes": (bool, Option(help=HELP))}

    recipe_name: str = ""
    given: tuple[tuple[str, Any], ...] = ()
    about: tuple[str, ...] = ()

    @classmethod
    def prepare(
        cls,
        given: Mapping[str, Any],
        extra: Mapping[str, Any],
        keys: Sequence[str],
        store: FeatureStore,  # noqa: ARG003 (no set is made)
    ) -> list[tuple[Self, Sequence[str]]]:
        """One question; with ``--recipes`` one for each KEY, whose variants are the recipes.

        Raises:
            ConfigError: options that fix the ranking itself, or a value that is not allowed.
        """
        if not extra.get("recipes"):
            return [(cls.of(given), keys)]
        if "rerank" in given or "index" in given:
            raise ConfigError("--recipes tries every ranking; found --rerank or --index; leave it out")
        own = {name: value for name, value in given.items() if name not in TUNED}
        tuned = tuple((name, given[name]) for name in TUNED if name in given)
        asked = replace(cls.of(own), recipe_name=PLAIN, given=tuned)
        return [(asked, [key]) for key in keys] or [(asked, ())]

    @property
    def variant(self) -> str:
        """The recipe's name."""
        return self.recipe_name

    @property
    def title(self) -> str:
        """With the protocol and what is done besides the plain search; of recipes with the protocol alone."""
        about = (self.protocol,) if self.recipe_name else (self.protocol, self.recipe)
        return f"{self.name} ({', '.join(filter(None, about))})"

    @property
    def has_table(self) -> bool:
        """Not of recipes."""
        return not self.recipe_name

    def variants(self, selection: Selection) -> Sequence[Self]:
        """Itself, or all recipes, the plain search first."""
        cases = selection.cases
        if not (cases and self.recipe_name):
            return (self,)
        gallery, itself = cases[0].place("gallery"), self.itself(cases[0])
        n_rows = min(case.one("gallery").n_rows for case in cases)
        learned = [case.one("whiten" if self.whiten else "gallery").n_rows for case in cases]
        numbers: dict[str, Any] = {
            "power": POWER,
            "components": min(COMPONENTS, *(n - 1 for n in learned), *self._widths(cases)),
            "augment": min(NEIGHBOURS, n_rows - 1),
            "expand": f"{min(NEIGHBOURS, n_rows - itself)}:{ALPHA:g}",
            "depth": None,
            **dict(self.given),
        }
        power, expand, augment = ({name: numbers[name]} for name in ("power", "expand", "augment"))
        whitening = {"whiten": self.whiten or gallery, "components": numbers["components"]}
        moved = [expand, augment, *({"rerank": name, "depth": numbers["depth"]} for name in RERANKINGS)]
        steps: list[dict[str, Any]] = [{}, power, whitening, {**power, **whitening}, *moved]
        steps += [{**whitening, **step} for step in moved]
        where = f"{gallery}, the {'set itself' if itself else 'gallery'}"
        try:
            neighbours, alpha = replace(self, **expand).expansion or (0, 0.0)
            about = (
                f"whiten: PCA learned on {self.whiten if self.whiten not in (None, gallery) else where}, "
                f"{numbers['components']:,} directions; power: {numbers['power']:g}",
                f"neighbours: {ALPHA_QE} {neighbours:,} (alpha {alpha:g}), DBA {numbers['augment']:,}",
            )
            plain = replace(self, whiten=None, given=(), about=about)
            return [replace(plain, recipe_name=name, **step) for name, step in zip(RECIPES, steps, strict=True)]
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def _widths(self, cases: Sequence[Case]) -> Iterator[int]:
        """D of each backbone's descriptors."""
        for case in cases:
            shapes = {output.name: output.shape for output in case.one("gallery").outputs}
            yield sum(shapes[name][-1] for name in self.outputs if shapes.get(name)) or COMPONENTS

    def sheets(self, rows: Sequence[Row]) -> Sequence[Sheet]:
        """Of recipes: these down, backbones across, the main metric, and how often the first row is right."""
        if not self.recipe_name:
            return ()
        cells = {(row.score, row.backbone, row.metric): row for row in rows}
        backbones = [*dict.fromkeys(row.backbone for row in rows)]
        asked = {(row.score, row.backbone) for row in rows}
        names = [
            name for name in dict.fromkeys(row.metric for row in rows) if all((*of, name) in cells for of in asked)
        ]
        if not names:
            return ()
        main = main_metric(names)
        others = [name for name in (*FIRST, *names) if name in names and name != main]
        way = " in ".join(dict.fromkeys((rows[0].train, rows[0].test)))
        sheets = []
        for metric in (main, *others[:1]):
            own = {(recipe, name): cells.get((recipe, name, metric)) for recipe in RECIPES for name in backbones}
            lines: list[tuple[tuple[str, ...], tuple[Cell, ...]]] = [
                ((recipe,), (*(_shown(own[recipe, name]) for name in backbones), _gain(recipe, own)))
                for recipe in RECIPES
            ]
            sheet = Sheet(
                title=f"{self.title}: {way}: {metric}",
                names=("recipe",),
                columns=(*backbones, "mean\ngain"),
                lines=lines,
                marked=frozenset((_best(own, name), at) for at, name in enumerate(backbones)),
            )
            sheets.append(sheet)
        sheets[-1].notes = [GAIN, selection_note("what is marked *", len(RECIPES), rows="queries"), *self.about]
        return sheets

    def check_page(self, selection: Selection, album: Album) -> None:
        """Raises where queries have no images, or no average precision, or images cannot be opened."""
        if self.recipe_name:
            return  # a page of tables
        if self.queries is not None:
            raise ConfigError("--html shows the images of queries; those of --queries have none")
        if not set(MAIN) & self.rules.metrics.keys():
            raise ConfigError(f"--html needs a protocol with an average precision of each query; found {self.protocol}")
        for case in selection.cases:
            for entry in (entry for role in ("queries", "gallery") for entry in case.sets.get(role, ())):
                album.pictures(entry.path, entry.place)

    def section(self, answered: Sequence[Answered], results: Results, album: Album) -> str:
        """The queries of each backbone with their first rows, worst first; of recipes nothing."""
        from featurebank.pipelines.questions.retrieve.section import rankings_html

        return "" if self.recipe_name else rankings_html(self, answered, results, album)


_Cells = Mapping[tuple[str, str], "Row | None"]


def _shown(row: Row | None) -> Cell:
    """The number without its interval."""
    return FAILED if row is None else replace(row, low=None, high=None, interval="")


def _best(cells: _Cells, backbone: str) -> int:
    """The line with a backbone's highest value; the first of equal ones."""
    values = [row.value if (row := cells[recipe, backbone]) else float("-inf") for recipe in RECIPES]
    return values.index(max(values))


def _gain(recipe: str, cells: _Cells) -> Cell:
    """What a recipe adds to the plain search, the mean over the backbones that have both."""
    pairs = [(row, cells[PLAIN, name]) for (of, name), row in cells.items() if of == recipe]
    both = [(row, plain) for row, plain in pairs if row is not None and plain is not None]
    if not both:
        return None
    value = sum(row.value - plain.value for row, plain in both) / len(both)
    return replace(both[0][0], backbone="", metric="gain", value=value, low=None, high=None, interval="")
