"""``featurebank retrieve --compare``: every cell is what the command without it gives, and what it knows it keeps."""

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

from featurebank.pipelines.asking.results import Results, Row
from featurebank.pipelines.reporting import interval, short
from featurebank.pipelines.retrieving.comparison import ALPHA_QE, compare
from featurebank.pipelines.retrieving.comparison_table import comparison_tables
from featurebank.pipelines.retrieving.selection import look_up
from featurebank.pipelines.retrieving.task import RetrieveTask
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
    (comparison,) = found["comparisons"]
    return {recipe["name"]: recipe for recipe in comparison["recipes"]}


def test_each_cell_is_an_ordinary_result(store: FeatureStore) -> None:
    alone = {name: retrieve_json(store, "pets/query:gallery", *options) for name, options in EQUIVALENT.items()}
    found = retrieve_json(store, "pets/query:gallery", "--compare")
    recipes = recipes_of(found)
    assert list(recipes) == list(EQUIVALENT)
    for name, recipe in recipes.items():
        assert all(one["known"] for one in recipe["retrievals"]), f"{name} was known already"
        assert [one["rows"] for one in recipe["retrievals"]] == [one["rows"] for one in alone[name]["retrievals"]]
        assert recipe["recipe"] == alone[name]["recipe"]
    (comparison,) = found["comparisons"]
    assert (found["ok"], comparison["metrics"]) == (True, ["map", "hit_rate@1"])
    for index, backbone in enumerate(("good", "poor")):
        values = {name: values_of(given, index)["map"] for name, given in alone.items()}
        best = {entry["metric"]: entry["recipe"] for entry in comparison["best"] if entry["backbone"] == backbone}
        assert best["map"] == max(values, key=lambda name: values[name])
    gains = [values_of(alone["DBA"], i)["map"] - values_of(alone["plain"], i)["map"] for i in (0, 1)]
    assert recipes["DBA"]["gain"] == pytest.approx(np.mean(gains))
    assert recipes["plain"]["gain"] == 0


def test_a_second_run_computes_nothing_and_shows_the_same_table(store: FeatureStore) -> None:
    first = retrieve(store, "pets/query:gallery", "--compare")
    assert first.code == 0
    assert "Retrieval: 24 computed, 0 known already" in first.out
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    again = retrieve(store, "pets/query:gallery", "--compare")
    assert "Retrieval: 0 computed, 24 known already" in again.out
    assert first.out.partition("Retrieval:")[0] == again.out.partition("Retrieval:")[0]
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before
    assert f"{ALPHA_QE}: retrieve of poor: pets/query -> pets/gallery: known" in again.err


def test_the_table_marks_the_best_and_says_what_was_done(store: FeatureStore) -> None:
    found = recipes_of(retrieve_json(store, "pets/query:gallery@poor", "--compare"))
    text = retrieve(store, "pets/query:gallery@poor", "--compare").out
    lines = {name: next(line for line in text.splitlines() if line.startswith(f"{name}  ")) for name in found}
    rows = {name: values_of(recipe) for name, recipe in found.items()}
    for metric, place in (("map", 0), ("hit_rate@1", 1)):
        cells = {name: line.removeprefix(name).split()[0].split("/")[place] for name, line in lines.items()}
        best = max(rows, key=lambda name: rows[name][metric])
        assert [name for name, cell in cells.items() if cell.endswith("*")] == [best]
        assert {name: float(cell.rstrip("*")) for name, cell in cells.items()} == {
            name: pytest.approx(values[metric], abs=5e-4) for name, values in rows.items()
        }
    assert lines["plain"].split()[-1] == "+.000"
    assert "retrieve: pets/query in pets/gallery (labels): map / hit_rate@1" in words(text)
    assert "whiten: PCA learned on pets/gallery, the gallery, 8 directions; power: 0.5" in text
    assert f"neighbours: {ALPHA_QE} 10 (alpha 3), DBA 10" in text


def test_options_set_what_the_recipes_use(store: FeatureStore) -> None:
    more = ("--whiten", "pets/query", "--components", 5, "--power", 0.3, "--expand", "4:1", "--augment", 2)
    recipes = recipes_of(retrieve_json(store, "pets/query:gallery@poor", "--compare", *more, "--depth", 12))
    settings = {name: recipe["retrievals"][0]["rows"][0]["settings"] for name, recipe in recipes.items()}
    assert (settings["whiten"]["whiten"], settings["whiten"]["components"]) == ("pets/query", 5)
    assert (settings["power"]["power"], settings["power"]["whiten"]) == (0.3, None)
    assert (settings[ALPHA_QE]["expand"], settings["DBA"]["augment"]) == ([4, 1.0], 2)
    assert (settings["diffusion"]["depth"], settings["plain"]["depth"]) == (12, None)
    text = retrieve(store, "pets/query:gallery@poor", "--compare", *more).out
    assert "whiten: PCA learned on pets/query, 5 directions; power: 0.3" in text


def test_single_sets_other_protocols_and_few_rows(store: FeatureStore) -> None:
    write_set(store, "few/test", "good", *clusters(7))
    recipes = recipes_of(retrieve_json(store, "few/test", "--compare", "--protocol", "disc21"))
    assert recipes[ALPHA_QE]["retrievals"][0]["rows"][0]["settings"]["expand"] == [6, 3.0]
    assert recipes["plain"]["protocol"] == "disc21"
    done = retrieve(store, "few/test", "pets/query:gallery", "--compare")
    assert done.code == 0
    assert "PCA learned on few/test, the set itself, 6 directions" in done.out
    assert "retrieve: few/test (labels)" in done.out
    assert "retrieve: pets/query in pets/gallery (labels)" in done.out


def test_what_fails_is_said_and_does_not_stop_the_others(store: FeatureStore) -> None:
    values, labels = clusters(45, noise=0.9)
    values[:, 5:] = 0
    write_set(store, "pets/query", "flat", values[:24], labels[:24])
    write_set(store, "pets/gallery", "flat", values, labels)
    done = retrieve(store, "pets/query:gallery", "--compare")
    assert done.code == 1
    assert "whiten+DBA of flat: n_components must be between 1 and the rank of the 45 rows, 5; found 8" in words(
        done.out
    )
    assert "Retrieval: 30 computed, 0 known already, 6 failed" in done.out
    found = retrieve_json(store, "pets/query:gallery", "--compare", code=1)
    assert {entry["backbone"] for entry in found["comparisons"][0]["best"]} == {"flat", "good", "poor"}
    (store.root / "results" / "results.csv").unlink()
    assert len({row.result for row in Results(store.root).rows()}) == 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rerank", "diffusion"), "--compare tries every ranking; found --rerank or --index"),
        (("--index", "Flat"), "--compare tries every ranking; found --rerank or --index"),
        (("--html", "page.html"), "--compare is a table of many rankings, --html a page of one"),
        (("--k", 3), "--compare is a table of many rankings, --html a page of one"),
        (("--whiten", "pets/gallry"), "unknown split of pets 'gallry'; did you mean 'gallery'"),
        (("--augment", 45), "--augment must be at most 44, the rows of pets/gallery that can be found; found 45"),
        (("--components", 0), "components must be at least 1; found 0"),
        (("--power", 2), "power must be above 0 and at most 1; found 2.0"),
    ],
)
def test_wrong_use(store: FeatureStore, arguments: tuple[Any, ...], message: str) -> None:
    done = retrieve(store, "pets/query:gallery", "--compare", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in words(done.err)
    assert not (store.root / "results").exists()


@pytest.mark.parametrize(("width", "tables"), [(80, 1), (56, 2), (40, 4)])
def test_backbones_that_do_not_fit_make_further_tables(tmp_path: Path, width: int, tables: int) -> None:
    store = FeatureStore(tmp_path)
    for name in ("efficientnet_lite0", "mobilenetv2", "squeezenet1_1", "timm:vit_small_patch16_224"):
        write_set(store, "few/test", name, *clusters(6))
    (comparison,) = compare(store, look_up(store, ["few/test"], RetrieveTask()), {})
    console = Console(width=width, record=True, file=io.StringIO())
    found = list(comparison_tables(comparison, console))
    assert len(found) == tables
    for table in found:
        console.print(table)
    text = console.export_text()
    assert sum(line.startswith("whiten+k-reciprocal") for line in text.splitlines()) == tables
    assert text.count("mean") == tables
    assert text.count("*/") == 4
    lines = {line.split()[0]: line.split()[-1] for line in text.splitlines() if "/" in line}
    assert (lines["plain"], lines["k-reciprocal"]) == (
        "+.000",
        f"{comparison.gain('k-reciprocal'):+.3f}".replace("0.", "."),
    )
    assert "…" not in text


def test_a18_only_a_leading_zero_is_left_out() -> None:
    assert [short(text) for text in ("10.512", "0.512", "+0.031", "-0.500", "100.0")] == [
        "10.512",
        ".512",
        "+.031",
        "-.500",
        "100.0",
    ]
    wide = Row(backbone="", dataset="", task="", metric="", value=15.0, low=10.512, high=20.5)
    assert interval(wide) == "10.512-20.500"


def test_a5_a10_gains_are_differences_of_cells_and_the_best_is_a_choice_on_the_queries(store: FeatureStore) -> None:
    (found,) = retrieve_json(store, "pets/query:gallery", "--compare")["comparisons"]
    recipes = {recipe["name"]: recipe for recipe in found["recipes"]}
    main = found["metrics"][0]
    for recipe in recipes.values():
        differences = [
            values_of(recipe, index)[main] - values_of(recipes["plain"], index)[main]
            for index in range(len(recipe["retrievals"]))
        ]
        assert recipe["gain"] == pytest.approx(np.mean(differences), abs=1e-12)
    note = "what is marked * is chosen among 12 on these queries: it looks better than it is"
    assert note in found["notes"]
    assert note in words(retrieve(store, "pets/query:gallery", "--compare").out)


@pytest.mark.parametrize("rows", ["none of the main metric", "none at all"])
def test_a_stored_result_that_lacks_a_metric_is_computed_again(store: FeatureStore, rows: str) -> None:
    expected = retrieve_json(store, "pets/query:gallery", "--compare")
    for path in sorted((store.root / "results" / "retrieve").glob("*.json"))[:3]:
        content = json.loads(path.read_text("utf-8"))
        content["rows"] = [row for row in content["rows"] if rows != "none at all" and row["metric"] != "map"]
        path.write_text(json.dumps(content), "utf-8")
    found = retrieve_json(store, "pets/query:gallery", "--compare")
    assert found["comparisons"][0]["best"] == expected["comparisons"][0]["best"]
    for name, recipe in recipes_of(found).items():
        assert [one["rows"] for one in recipe["retrievals"]] == [
            one["rows"] for one in recipes_of(expected)[name]["retrievals"]
        ]
