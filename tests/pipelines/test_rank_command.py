"""``featurebank rank``: BoB's table out of a store's results, gaps, duplicates, filters, what if, the page."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import PATIENCE, Done, featurebank_, words

from featurebank.pipelines.asking.results import Computed, Results, Row

PUBLISHED = Path(__file__).parents[1] / "probes" / "bob_retrieval_mrr.csv"
SWIN, XLARGE, BASE = (
    "timm-swinv2_base_window12to24_192to384_22kft1k", "timm-convnext_xlarge_in22ft1k", "timm-convnext_base_in22ft1k",
)  # fmt: skip
MAE = ("mae-vit_base_patch16_224", "mae-vit_large_patch16_224")


def row(backbone: str, place: str, value: float, **more: Any) -> Row:
    given: dict[str, Any] = {
        "question": "linear", "train": f"{place}/train", "test": f"{place}/test", "set": f"{place}/test",
        "metric": "accuracy", "primary": True, "n": 100, "fingerprints": ("ab" * 32,),
    }  # fmt: skip
    return Row(backbone=backbone, value=value, **(given | more))


def keep(root: Path, *rows: Row, **settings: Any) -> None:
    """A computation of its own for some rows of one question."""
    results, key = Results(root), {"of": [one.backbone + one.set + one.score for one in rows], **settings}
    computed = Computed(rows=rows, settings=settings)
    results.once(rows[0].question, key, list(rows[0].fingerprints), lambda: computed, version=1)


def rank(root: Path, *arguments: Any, code: int = 0) -> Done:
    done = featurebank_("rank", *arguments, "--store", root)
    assert done.code == code, done.err
    return done


def order(found: Any) -> list[str]:
    return [one["backbone"] for one in found["backbones"]]


def said(done: Done) -> str:
    return words(done.err).removeprefix("error: ")


@pytest.fixture(scope="module")
def bob(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Battle of the Backbones' 33 backbones on 8 retrieval sets, as results."""
    root = tmp_path_factory.mktemp("bob")
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        head, *lines = csv.reader(file)
    for name, *values in lines:
        kept = [
            row(name, place, float(value), question="retrieve", metric="mrr", n=None)
            for place, value in zip(head[1:], values, strict=True)
        ]
        keep(root, *kept)
    return root


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Three backbones of the zoo in two sets, right up to 1 error in one metric of them."""
    nets = {"resnet50": 0.8, "convnext_tiny": 0.9, "dino_vit_small": 0.7}
    for name, value in nets.items():
        keep(
            tmp_path,
            row(name, "cub", value),
            row(name, "cub", 1 - value, metric="nll", primary=False, direction="lower"),
        )
        keep(tmp_path, row(name, "cars", 1 - value / 2, metric="mae", direction="lower", question="regression"))
    return tmp_path


def test_the_published_table_is_ranked_out_of_results(bob: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in bob.rglob("*")}
    found = rank(bob, "--resamples", "2000", "--json").json
    assert {path: path.stat().st_mtime_ns for path in bob.rglob("*")} == before
    first, second, third = found["backbones"][:3]
    assert order(found)[:3] == [SWIN, XLARGE, BASE]
    four = ("mean_z", "mean_rank", "win_rate")
    assert [[round(one[key], 4) for key in four] for one in (first, second, third)] == [
        [1.0306, 4.375, 0.8945], [0.9931, 5.0, 0.875], [0.9757, 5.25, 0.8672],
    ]  # fmt: skip
    assert (first["low"], first["high"]) == (1, 5)
    assert first["first"] == pytest.approx(0.6, abs=0.025), "other draws than of the notes"
    assert np.median([one["high"] - one["low"] for one in found["backbones"]]) in {6, 7}
    assert len(found["settings"]) == len(first["values"]) == 8
    tests = found["tests"]
    assert [round(tests["friedman"][key], 4) for key in ("statistic", "concordance")] == [191.0268, 0.7462]
    assert round(tests["critical_difference"], 3) == 18.349
    assert len(tests["cliques"][0]) == 25
    assert len(tests["pairs"]) == 528
    assert {one["p_holm"] for one in tests["pairs"]} == {1.0}
    upper = np.triu_indices(8, 1)
    (settings,) = found["correlations"]
    for kind, mean in (("spearman", 0.7099), ("pearson", 0.7472)):
        assert np.array(settings[kind])[upper].mean().round(4) == mean
    assert any("0 told apart, as 8 settings cannot: 15 at least are needed" in note for note in found["notes"])
    assert any("of 32 neighbours 5 are in this order" in note for note in found["notes"])


def test_the_console_answers_first_and_says_what_is_drawn_again(bob: Path) -> None:
    text = rank(bob).out
    line = next(line for line in text.splitlines() if line.startswith(SWIN))
    assert line.split()[1:3] == ["1", "1-5"]
    assert line.split()[5:8] == ["+1.03", "4.38", ".895"]
    flat = words(text)
    assert f"{SWIN} is first of 33 backbones in 8 settings, by mean z +1.03; its place is 1 to 5" in flat
    assert "95 % interval: settings resampled, 1,000 draws" in flat
    assert "settings correlate by Spearman .710, from .415 (Copydays/test; Objectnet/test) to .982" in flat
    rows = words(rank(bob, "--resample", "rows").out)
    assert "test rows resampled, through each value's own interval" in rows
    assert "264 of 264 values have no interval and were taken as exact" in rows


def test_the_order_by_mean_rank_is_another(bob: Path) -> None:
    found = rank(bob, "--sort", "rank", "--json").json
    names = order(found)
    moved = [names.index(f"{one}") + 1 for one in ("clip-vit_base_patch16_224", "timm-convnext_small_in22ft1k")]
    assert moved == [8, 9]
    assert [one["mean_rank"] for one in found["backbones"]] == sorted(one["mean_rank"] for one in found["backbones"])


def test_what_if_a_backbone_were_not_there(bob: Path) -> None:
    without = [word for name in MAE for word in ("--without", name)]
    found = rank(bob, *without, "--json").json
    then = {one["backbone"]: one["without"] for one in found["backbones"]}
    assert [then[name] for name in (SWIN, XLARGE, BASE, *MAE)] == [1, 4, 2, None, None]
    alone = rank(bob, "--backbone", "timm-*", "--json").json
    assert len(alone["backbones"]) == 19
    assert any(f"{XLARGE} to 4 (from 2)" in note for note in found["notes"])
    assert "did you mean 'mae-vit_base_patch16_224'" in said(rank(bob, "--without", "mae-vit_bse_patch16_224", code=2))


def test_lower_is_better_where_a_metric_says_so(small: Path) -> None:
    found = rank(small, "--json").json
    assert order(found) == ["convnext_tiny", "resnet50", "dino_vit_small"]
    assert {one["direction"] for one in found["settings"]} == {"higher", "lower"}
    assert found["backbones"][0]["values"] == [0.9, 0.55]
    assert found["backbones"][0]["tasks"].keys() == {"linear", "regression"}
    assert found["tests"]["differences"] == "z-scores"
    nll = rank(small, "--metric", "nll", "--json").json
    assert [one["metric"] for one in nll["settings"]] == ["nll"]
    assert order(nll) == ["convnext_tiny", "resnet50", "dino_vit_small"]
    assert nll["backbones"][0]["low"] is None
    assert any("one setting cannot be drawn again" in note for note in nll["notes"])
    assert "unknown metric 'nl'; did you mean 'nll'" in said(rank(small, "--metric", "nl", code=2))


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (("--style", "supervised"), ["convnext_tiny", "resnet50"]),
        (("--architecture", "*n*t*_in1k"), ["convnext_tiny", "resnet50"]),
        (("--min-params", "25", "--px", "224"), ["convnext_tiny", "resnet50"]),
        (("--max-params", "26"), ["resnet50", "dino_vit_small"]),
        (("--pretraining", "ImageNet-1k"), ["convnext_tiny", "resnet50", "dino_vit_small"]),
        (("--px", "224", "--px", "256"), ["convnext_tiny", "resnet50", "dino_vit_small"]),
    ],
)
def test_apples_are_compared_with_apples_and_standardised_again(small: Path, given: Any, left: list[str]) -> None:
    found = rank(small, *given, "--json").json
    assert order(found) == left
    assert sorted(one["name"] for one in found["left_out"]) == sorted(
        {"convnext_tiny", "resnet50", "dino_vit_small"} - {*left}
    )
    again = [note for note in found["notes"] if f"re-standardised over {len(left)} backbones" in note]
    assert len(again) == (len(left) < 3)
    if len(left) == 2:
        assert [one["mean_z"] for one in found["backbones"]] == pytest.approx([1, -1])


def test_what_is_not_known_of_a_backbone_is_not_alike(small: Path) -> None:
    keep(small, row("mine", "cub", 0.5))
    keep(small, row("mine", "cars", 0.5, metric="mae", direction="lower", question="regression"))
    keep(small, row("resnet50@random", "cub", 0.2))
    keep(small, row("resnet50@random", "cars", 0.9, metric="mae", direction="lower", question="regression"))
    found = rank(small, "--style", "supervised", "--json").json
    left = {one["name"]: one["why"] for one in found["left_out"]}
    assert left["mine"] == "style: not known"
    assert left["resnet50@random"] == "style: random"
    message = said(rank(small, "--max-params", "1", code=2))
    assert "two backbones or more; found 0 of 5 that are as asked for" in message
    assert "resnet50 (parameters: 25.6 M)" in message
    assert "unknown style of pretraining 'supervisd'; did you mean 'supervised'" in said(
        rank(small, "--style", "supervisd", code=2)
    )


def test_a_gap_is_refused_or_a_part_without_gaps_is_ranked(small: Path) -> None:
    keep(small, row("mine", "cub", 0.95))
    message = said(rank(small, code=2))
    assert "found 1 of 8 missing: mine in regression cars/test" in message
    assert "--common settings the 1 of 2 that all backbones have" in message
    assert "--common backbones the 3 of 4 that have all settings" in message
    settings = rank(small, "--common", "settings", "--json").json
    assert order(settings)[0] == "mine"
    assert [one["set"] for one in settings["settings"]] == ["cub/test"]
    assert settings["left_out"] == [
        {"kind": "setting", "name": "regression cars/test", "why": "1 of 4 backbones lack it"}
    ]
    backbones = rank(small, "--common", "backbones", "--json").json
    assert len(backbones["settings"]) == 2
    assert backbones["left_out"] == [{"kind": "backbone", "name": "mine", "why": "lacks 1 of 2 settings"}]
    keep(small, row("lone", "dogs", 0.5))
    assert "or --common backbones" in said(rank(small, "--common", "settings", code=2))


def test_two_numbers_of_one_cell_are_named_and_one_is_chosen(small: Path) -> None:
    keep(small, row("resnet50", "cub", 0.6, fingerprints=("cd" * 32,)))
    message = said(rank(small, code=2))
    assert "found several in 1 of 6 cells: resnet50, linear cub/test:" in message
    assert re.search(r"\.600: result [0-9a-f]{16}, of cdcdcdcd", message)
    assert re.search(r"\.800: result [0-9a-f]{16}, of abababab", message)
    for digits, value in (("cdcd", 0.6), ("ab", 0.8)):
        found = rank(small, "--fingerprint", digits, "--json").json
        assert {one["backbone"]: one["values"][0] for one in found["backbones"]}["resnet50"] == value
    result = found["backbones"][1]["results"][0]
    assert rank(small, "--fingerprint", result, "--json").json["backbones"][1]["values"][0] == 0.8


def test_questions_that_were_asked_in_two_ways_are_told_apart_by_their_options(tmp_path: Path) -> None:
    for name, value in (("a", 0.5), ("b", 0.6)):
        keep(tmp_path, row(name, "cub", value), protocol="logistic", C=[1.0, 2.0])
        keep(tmp_path, row(name, "cub", 1 - value), protocol="bob", C=[1.0])
    message = said(rank(tmp_path, code=2))
    assert "found several in 2 of 2 cells" in message
    assert ".500: C=1.0, protocol=bob, result" in message
    assert order(rank(tmp_path, "--option", "protocol=bob", "--json").json) == ["a", "b"]
    assert order(rank(tmp_path, "--option", "C=1.0,2.0", "--json").json) == ["b", "a"]
    assert "--option must be NAME=VALUE" in said(rank(tmp_path, "--option", "bob", code=2))


def test_numbers_about_numbers_means_and_counts_are_no_settings(small: Path) -> None:
    keep(small, row("resnet50 - convnext_tiny", "cub", 0.1, question="compare"))
    keep(small, row("resnet50", "cub", 0.1, question="groups", group="a"))
    for name in ("resnet50", "convnext_tiny", "dino_vit_small"):
        keep(small, row(name, "cub", len(name), question="duplicates", metric="images", direction="lower"))
        keep(small, row(name, "cub", 0.5, question="ood", score="msp", metric="auroc", set="near"))
    found = rank(small, "--json").json
    assert len(found["settings"]) == 2
    assert len(rank(small, "--where", "question=duplicates", "--json").json["settings"]) == 1


def test_tasks_correlate_where_some_have_several_settings(small: Path) -> None:
    for name, value in (("resnet50", 0.9), ("convnext_tiny", 0.7), ("dino_vit_small", 0.8)):
        keep(small, row(name, "dogs", value))
    found = rank(small, "--json").json
    settings, tasks = found["correlations"]
    assert (settings["of"], tasks["of"], tasks["names"]) == ("settings", "tasks", ["linear", "regression"])
    linear, regression = np.array([[*one["tasks"].values()] for one in found["backbones"]]).T
    assert tasks["pearson"][0][1] == pytest.approx(np.corrcoef(linear, regression)[0, 1])
    assert "tasks correlate by Spearman" in words(rank(small).out)


def test_rows_that_differ_between_backbones_are_said(small: Path) -> None:
    for name, n in (("resnet50", 90), ("convnext_tiny", 100), ("dino_vit_small", 100)):
        keep(small, row(name, "dogs", 0.5, n=n))
    assert any("linear dogs/test: of 90 to 100 rows" in note for note in rank(small, "--json").json["notes"])


def test_a_store_that_has_no_results_says_what_to_ask(tmp_path: Path) -> None:
    message = said(rank(tmp_path, code=2))
    assert "found 0 numbers, none of them chosen" in message
    assert "featurebank probe DATASET" in message
    keep(tmp_path, row("a", "cub", 0.5))
    assert "two backbones or more in one setting or more; found 1 (a) in 1" in said(rank(tmp_path, code=2))
    assert "unknown backbone 'b'" in said(rank(tmp_path, "--backbone", "b", code=2))


def test_json_has_the_keys_that_are_documented(small: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "json.md").read_text(encoding="utf-8")
    (keys,) = re.findall(r"^\| `rank` \| (.+?) \|$", page, flags=re.MULTILINE)
    assert rank(small, "--json").json.keys() == {*re.findall("`(.+?)`", keys)}


def test_the_page_is_offline_says_its_command_and_keeps_names_text(small: Path, tmp_path: Path) -> None:
    keep(small, row("<b>evil", "cub", 0.5))
    keep(small, row("<b>evil", "cars", 0.5, metric="mae", direction="lower", question="regression"))
    pages = []
    for name in ("one.html", "two.html"):
        done = rank(small, "--html", tmp_path / name, "--sort", "rank", "--where", "set=c*")
        assert f"page: {tmp_path / name}" in words(done.out)
        pages.append((tmp_path / name).read_text(encoding="utf-8"))
    assert pages[0] == pages[1]
    page = pages[0]
    assert "<b>evil" not in page
    assert "&lt;b&gt;evil" in page
    assert not re.search(r"https?://|<script|style=", page)
    assert "featurebank rank --where &#x27;set=c*&#x27; --sort rank" in page
    assert page.count('<tr><th scope="row">resnet50') == 3, "standings, mean ranks, values"
    assert "Correlation of settings" in page
    assert "expected a folder" in said(rank(small, "--html", tmp_path / "none" / "page.html", code=2))


def test_numpy_is_all_that_it_needs(small: Path) -> None:
    script = (
        "import sys; from featurebank.pipelines.cli import _run, app; code = _run(app); "
        "print(code, *{name.partition('.')[0] for name in sys.modules} & {'torch', 'timm', 'scipy', 'sklearn', 'PIL'})"
    )
    asked = ["rank", "--store", str(small), "--style", "supervised", "--html", str(small / "page.html")]
    done = subprocess.run(
        [sys.executable, "-c", script, *asked], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.stdout.splitlines()[-1] == "0", done.stdout + done.stderr


def test_bars_join_the_backbones_that_mean_ranks_do_not_tell_apart(bob: Path, tmp_path: Path) -> None:
    rank(bob, "--html", tmp_path / "page.html")
    picture = (tmp_path / "page.html").read_text(encoding="utf-8").partition("Mean ranks")[2].partition("</section>")[0]
    lines = picture.split("<tr>")[2:]
    assert len(lines) == 33
    first = [len(re.findall('d="M5 50V100"', line)) for line in lines]
    last = [len(re.findall('d="M5 0V50"', line)) for line in lines]
    assert (first.index(1), last.index(1)) == (0, 24)
    assert "18.35 in all" in picture
