"""``featurebank retrieve --recipes``: every cell is what the command without it gives, and what it knows it keeps."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import words
from probe_sets import clusters, write_set
from retrieval_sets import retrieve, retrieve_json, values_of
from rich.console import Console

from featurebank.pipelines.asking.metrics import metric
from featurebank.pipelines.asking.results import Results, Row
from featurebank.pipelines.asking.roles import select
from featurebank.pipelines.asking.run import ask
from featurebank.pipelines.asking.sheet import interval_of
from featurebank.pipelines.asking.table import render_sheet, sheets_of
from featurebank.pipelines.questions.retrieve import Retrieve
from featurebank.pipelines.questions.retrieve.question import ALPHA_QE, RECIPES
from featurebank.store import FeatureStore

WHITEN = ("--whiten", "pets/gallery", "--components", 8)
EQUIVALENT: dict[str, tuple[Any, ...]] = {
    "plain": (),
    "power": ("--power", 0.5),
    "whiten": WHITEN,
    "power+whiten": ("--power", 0.5, *WHITEN),
    ALPHA_QE: ("--expand", "10:3"),
    "DBA": ("--augment", 10),
    "k-reciprocal": ("--rerank", "k-reciprocal"),
    "diffusion": ("--rerank", "diffusion"),
    f"whiten+{ALPHA_QE}": (*WHITEN, "--expand", "10:3"),
    "whiten+DBA": (*WHITEN, "--augment", 10),
    "whiten+k-reciprocal": (*WHITEN, "--rerank", "k-reciprocal"),
    "whiten+diffusion": (*WHITEN, "--rerank", "diffusion"),
}


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    made = FeatureStore(tmp_path / "features")
    for backbone, noise in (("good", 0.4), ("poor", 0.9)):
        for seed, (split, n_rows) in enumerate({"query": 24, "gallery": 45}.items()):
            write_set(made, f"pets/{split}", backbone, *clusters(n_rows, noise=noise, seed=seed))
    return made


def recipes_of(found: Any) -> dict[str, Any]:
    """The answers of each recipe, by backbone."""
    recipes: dict[str, Any] = {}
    for one in sorted(found["answers"], key=lambda one: str(one["backbone"])):
        recipes.setdefault(one["variant"], {"answers": []})["answers"].append(one)
    return recipes


def rows_of(one: Any) -> list[dict[str, Any]]:
    """Without what names the recipe."""
    assert {row["score"] for row in one["rows"]} == {one["variant"]}
    return [row | {"score": ""} for row in one["rows"]]


def best_of(table: Any) -> dict[str, str]:
    """The marked recipe of each backbone."""
    return {table["columns"][1 + column]: table["lines"][line][0] for line, column in table["marked"]}


def test_each_cell_is_an_ordinary_result(store: FeatureStore) -> None:
    alone = {name: retrieve_json(store, "pets/query:gallery", *options) for name, options in EQUIVALENT.items()}
    found = retrieve_json(store, "pets/query:gallery", "--recipes")
    recipes = recipes_of(found)
    assert list(recipes) == list(EQUIVALENT) == list(RECIPES)
    for name, recipe in recipes.items():
        assert all(one["known"] for one in recipe["answers"]), f"{name} was known already"
        assert [rows_of(one) for one in recipe["answers"]] == [one["rows"] for one in alone[name]["answers"]]
        assert [one["options"] for one in recipe["answers"]] == [one["options"] for one in alone[name]["answers"]]
    tables = found["tables"]
    assert found["ok"]
    assert [table["title"].rpartition(": ")[2] for table in tables] == ["map", "hit_rate@1"]
    for table, of in zip(tables, ("map", "hit_rate@1"), strict=True):
        assert table["columns"] == ["recipe", "good", "poor", "mean gain"]
        for index, backbone in enumerate(("good", "poor")):
            values = {name: values_of(given, index)[of] for name, given in alone.items()}
            assert best_of(table)[backbone] == max(values, key=lambda name: values[name])
            assert {line[0]: line[1 + index] for line in table["lines"]} == values
    gains = [values_of(alone["DBA"], i)["map"] - values_of(alone["plain"], i)["map"] for i in (0, 1)]
    shown = {line[0]: line[-1] for line in tables[0]["lines"]}
    assert shown["DBA"] == pytest.approx(np.mean(gains))
    assert shown["plain"] == 0


def test_a_second_run_computes_nothing_and_shows_the_same_table(store: FeatureStore) -> None:
    first = retrieve(store, "pets/query:gallery", "--recipes")
    assert first.code == 0
    assert "Answers: 24 computed, 0 known already" in first.out
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    again = retrieve(store, "pets/query:gallery", "--recipes")
    assert "Answers: 0 computed, 24 known already" in again.out
    assert first.out.partition("Answers:")[0] == again.out.partition("Answers:")[0]
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before
    assert f"retrieve {ALPHA_QE} of poor: pets/query -> pets/gallery: known" in again.err


def test_the_table_marks_the_best_and_says_what_was_done(store: FeatureStore) -> None:
    found = recipes_of(retrieve_json(store, "pets/query:gallery@poor", "--recipes"))
    text = retrieve(store, "pets/query:gallery@poor", "--recipes").out
    rows = {name: values_of(recipe) for name, recipe in found.items()}
    parts = text.split("retrieve (labels): ")[1:]
    assert [words(part).split()[:4] for part in parts] == [
        ["pets/query", "in", "pets/gallery:", named] for named in ("map", "hit_rate@1")
    ]
    for named, part in zip(("map", "hit_rate@1"), parts, strict=True):
        lines = {name: next(line for line in part.splitlines() if line.startswith(f"{name}  ")) for name in found}
        cells = {name: line.removeprefix(name).split()[0] for name, line in lines.items()}
        best = max(rows, key=lambda name: rows[name][named])
        assert [name for name, cell in cells.items() if cell.endswith("*")] == [best]
        assert {name: float(cell.rstrip("*")) for name, cell in cells.items()} == {
            name: pytest.approx(values[named], abs=5e-4) for name, values in rows.items()
        }
        assert lines["plain"].split()[-1] == "+.000"
    assert "whiten: PCA learned on pets/gallery, the gallery, 8 directions; power: 0.5" in text
    assert f"neighbours: {ALPHA_QE} 10 (alpha 3), DBA 10" in text


def test_options_set_what_the_recipes_use(store: FeatureStore) -> None:
    more = ("--whiten", "pets/query", "--components", 5, "--power", 0.3, "--expand", "4:1", "--augment", 2)
    recipes = recipes_of(retrieve_json(store, "pets/query:gallery@poor", "--recipes", *more, "--depth", 12))
    options = {name: recipe["answers"][0]["options"] for name, recipe in recipes.items()}
    assert (options["whiten"]["whiten"], options["whiten"]["components"]) == ("pets/query", 5)
    assert (options["power"]["power"], options["power"]["whiten"]) == (0.3, None)
    assert (options[ALPHA_QE]["expand"], options["DBA"]["augment"]) == ("4:1", 2)
    assert (options["diffusion"]["depth"], options["plain"]["depth"]) == (12, None)
    text = retrieve(store, "pets/query:gallery@poor", "--recipes", *more).out
    assert "whiten: PCA learned on pets/query, 5 directions; power: 0.3" in text


def test_single_sets_other_protocols_and_few_rows(store: FeatureStore) -> None:
    write_set(store, "few/test", "good", *clusters(7))
    recipes = recipes_of(retrieve_json(store, "few/test", "--recipes", "--protocol", "disc21"))
    assert recipes[ALPHA_QE]["answers"][0]["options"]["expand"] == "6:3"
    assert recipes["plain"]["answers"][0]["options"]["protocol"] == "disc21"
    done = retrieve(store, "few/test", "pets/query:gallery", "--recipes")
    assert done.code == 0
    assert "PCA learned on few/test, the set itself, 6 directions" in done.out
    assert "retrieve (labels): few/test: map" in words(done.out)
    assert "retrieve (labels): pets/query in pets/gallery: map" in words(done.out)


def test_what_fails_is_said_and_does_not_stop_the_others(store: FeatureStore) -> None:
    values, labels = clusters(45, noise=0.9)
    values[:, 5:] = 0
    write_set(store, "pets/query", "flat", values[:24], labels[:24])
    write_set(store, "pets/gallery", "flat", values, labels)
    done = retrieve(store, "pets/query:gallery", "--recipes")
    assert done.code == 1
    message = "retrieve whiten+DBA of flat: n_components must be between 1 and the rank of the 45 rows, 5; found 8"
    assert message in words(done.out)
    assert "Answers: 30 computed, 0 known already, 6 failed" in done.out
    assert done.out.count(" failed") == 2 * 6 + 1
    found = retrieve_json(store, "pets/query:gallery", "--recipes", code=1)
    assert set(best_of(found["tables"][0])) == {"flat", "good", "poor"}
    (store.root / "results" / "results.csv").unlink()
    assert len({row.result for row in Results(store.root).rows()}) == 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rerank", "diffusion"), "--recipes tries every ranking; found --rerank or --index"),
        (("--index", "Flat"), "--recipes tries every ranking; found --rerank or --index"),
        (("--shown", 3), "--shown must come with --html FILE; found none"),
        (("--whiten", "pets/gallry"), "unknown split of pets 'gallry'; did you mean 'gallery'"),
        (("--augment", 45), "--augment must be at most 44, the rows of pets/gallery that can be found; found 45"),
        (("--components", 0), "components must be at least 1; found 0"),
        (("--power", 2), "power must be above 0 and at most 1; found 2.0"),
        (("--expand", "ten"), "--expand must be N or N:ALPHA, such as 10 or 10:3; found 'ten'"),
    ],
)
def test_wrong_use(store: FeatureStore, arguments: tuple[Any, ...], message: str) -> None:
    done = retrieve(store, "pets/query:gallery", "--recipes", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in words(done.err)
    assert not (store.root / "results").exists()


def test_a_page_has_the_tables(store: FeatureStore, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert retrieve(store, "pets/query:gallery", "--recipes", "--html", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("<table ") == 2
    for name in RECIPES:
        assert f'<th scope="row">{name}</th>' in text


@pytest.mark.parametrize(("width", "parts"), [(80, 1), (56, 3), (40, 5)])
def test_backbones_that_do_not_fit_make_further_tables(tmp_path: Path, width: int, parts: int) -> None:
    store = FeatureStore(tmp_path)
    for name in ("efficientnet_lite0", "mobilenetv2", "squeezenet1_1", "timm:vit_small_patch16_224"):
        write_set(store, "few/test", name, *clusters(6))
    ((question, keys),) = Retrieve.prepare({}, {"recipes": True}, ["few/test"], store)
    asked = [(one, select(store, one, keys)) for one in question.variants(select(store, question, keys))]
    main, other = sheets_of(ask(store, asked))
    for sheet in (main, other):
        found = render_sheet(sheet, Console(width=width))
        assert len(found) == parts
        console = Console(width=width, record=True, file=io.StringIO())
        for table in found:
            console.print(table)
        text = console.export_text()
        assert max(map(len, text.splitlines())) <= width
        assert sum(line.startswith("whiten+k-reciproca") for line in text.splitlines()) == parts
        assert text.count("gain") == 1
        assert text.count("*") == 4
        assert "…" not in text
        lines = {line.split()[0]: line.split()[-1] for line in text.splitlines() if line.strip()}
        gains = {names[0]: cells[-1] for names, cells in sheet.lines}
        (gain,) = [cell.value for name, cell in gains.items() if name == "k-reciprocal" and isinstance(cell, Row)]
        assert (lines["plain"], lines["k-reciprocal"]) == ("+.000", f"{gain:+.3f}".replace("0.", "."))


def test_a18_only_a_leading_zero_is_left_out() -> None:
    shown = metric("rmse").shown
    assert [shown(value) for value in (10.512, 0.512, 100.0)] == ["10.512", ".512", "100.000"]
    assert [shown(value, signed=True) for value in (0.031, -0.5)] == ["+.031", "-.500"]
    assert [metric("gain").shown(value) for value in (0.031, -0.5)] == ["+.031", "-.500"]
    wide = Row(question="", backbone="", metric="rmse", value=15.0, low=10.512, high=20.5)
    assert interval_of(wide) == "10.512-20.500"


def test_a5_a10_gains_are_differences_of_cells_and_the_best_is_a_choice_on_the_queries(store: FeatureStore) -> None:
    found = retrieve_json(store, "pets/query:gallery", "--recipes")
    recipes = recipes_of(found)
    for table in found["tables"]:
        shown = table["title"].rpartition(": ")[2]
        gains = {line[0]: line[-1] for line in table["lines"]}
        for name, recipe in recipes.items():
            differences = [
                values_of(recipe, index)[shown] - values_of(recipes["plain"], index)[shown]
                for index in range(len(recipe["answers"]))
            ]
            assert gains[name] == pytest.approx(np.mean(differences), abs=1e-12)
    note = "what is marked * is chosen among 12 on these queries: it looks better than it is"
    assert note in found["tables"][-1]["notes"]
    assert note in words(retrieve(store, "pets/query:gallery", "--recipes").out)


@pytest.mark.parametrize("rows", ["none of the main metric", "none at all"])
def test_a_stored_result_that_lacks_a_metric_is_computed_again(store: FeatureStore, rows: str) -> None:
    expected = retrieve_json(store, "pets/query:gallery", "--recipes")
    for path in sorted((store.root / "results" / "retrieve").glob("*.json"))[:3]:
        content = json.loads(path.read_text("utf-8"))
        content["rows"] = [row for row in content["rows"] if rows != "none at all" and row["metric"] != "map"]
        path.write_text(json.dumps(content), "utf-8")
    found = retrieve_json(store, "pets/query:gallery", "--recipes")
    assert [table | {"lines": 0} for table in found["tables"]] == [table | {"lines": 0} for table in expected["tables"]]
    assert [table["lines"] for table in found["tables"]] == [table["lines"] for table in expected["tables"]]
    assert sum(not one["known"] for one in found["answers"]) == 3
    for mine, other in zip(found["answers"], expected["answers"], strict=True):
        assert [row | {"seconds": 0} for row in mine["rows"]] == [row | {"seconds": 0} for row in other["rows"]]
