"""Which backbone: what decides, on made-up rows; how a folder is divided and refused; the command, end to end."""

from __future__ import annotations

import logging
import re
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from browser import chromium, opened
from command_line import Done, featurebank_, words
from numpy.typing import NDArray
from PIL import Image

from featurebank.extract.engine import extract
from featurebank.pipelines.asking.page import name_html
from featurebank.pipelines.asking.results import Results
from featurebank.pipelines.asking.sheet import Sheet
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.jobs.choose import field, running
from featurebank.pipelines.jobs.choose.clock import Clock, TimeUp
from featurebank.pipelines.jobs.choose.command import seconds_of
from featurebank.pipelines.jobs.choose.curve import curve_svg
from featurebank.pipelines.jobs.choose.field import Wish, candidates
from featurebank.pipelines.jobs.choose.page import page
from featurebank.pipelines.jobs.choose.pool import look, nested
from featurebank.pipelines.jobs.choose.race import (
    Rules,
    compared,
    cut_to_fit,
    is_out,
    picked,
    rows_to_tell,
    rungs,
    settled,
)
from featurebank.pipelines.jobs.finetune import job
from featurebank.pipelines.jobs.finetune.question import Finetune
from featurebank.probes.intervals import paired_interval

quiet = logging.getLogger("choose").debug
NETS = ("squeezenet1_1@random@40px", "squeezenet1_1@random:1@40px")


@pytest.fixture(autouse=True)
def _timed_in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field, "SECONDS", 0.01)


def right(rows: int, wrong: int, *, start: int = 0) -> NDArray[np.bool_]:
    """Rows of which some, in one run, are wrong."""
    found = np.ones(rows, np.bool_)
    found[start : start + wrong] = False
    return found


# What decides.


def test_who_is_proven_worse_is_out_and_who_is_not_stays() -> None:
    rules = Rules(tolerance=0.01, confidence=0.95, comparisons=30)
    correct = {"a": right(400, 20), "b": right(400, 24), "bad": right(400, 90)}
    found = compared(correct, dict.fromkeys(correct, 1.0), rules)
    assert list(found) == ["a", "b", "bad"]
    assert (found["bad"].low, found["bad"].high) == paired_interval(70, 0, 400, level=rules.level)
    assert rules.level == pytest.approx(1 - 2 * 0.05 / 30)
    assert [name for name, one in found.items() if is_out(one, rules)] == ["bad"]
    assert found["b"].differs == 0.01


def test_the_cheapest_is_picked_only_where_it_is_proven_to_be_as_good() -> None:
    rules = Rules(tolerance=0.02, confidence=0.95, comparisons=10)
    costs = {"dear": 9.0, "cheap": 1.0, "decoy": 0.1}
    for rows, expected in ((300, "dear"), (9000, "cheap")):  # the point estimate is within the tolerance in both
        correct = {
            "dear": right(rows, rows // 10),
            "cheap": right(rows, rows // 10 + rows // 100),
            "decoy": right(rows, rows // 4),
        }
        found = compared(correct, costs, rules)
        assert picked(found, costs, rules) == expected


def test_equally_good_ones_are_led_by_the_cheapest_that_something_has_trained() -> None:
    rules = Rules(tolerance=0.01, confidence=0.95, comparisons=10)
    costs = {"dear": 9.0, "cheap": 1.0, "net@random": 0.1}
    correct = dict.fromkeys(costs, right(5000, 500))
    untrained = {"net@random"}
    found = compared(correct, costs, rules, untrained=untrained)
    assert list(found) == ["cheap", "dear", "net@random"]
    assert picked(found, costs, rules, untrained=untrained) == "cheap"
    assert picked(compared(correct, costs, rules), costs, rules) == "net@random"


def test_the_race_ends_when_nobody_can_be_better_by_the_tolerance() -> None:
    rules = Rules(tolerance=0.05, confidence=0.95, comparisons=10)
    for rows, said in ((100, ""), (4000, "none can be better than the leader by 0.05")):
        correct = {"a": right(rows, rows // 20), "b": right(rows, rows // 20, start=rows // 20)}
        assert settled(compared(correct, {"a": 1.0, "b": 2.0}, rules), rules) == said
    assert settled(compared({"a": right(9, 1)}, {"a": 1.0}, rules), rules) == "one is left"


def test_equal_backbones_are_seldom_dropped() -> None:
    generator, races, sizes = np.random.default_rng(0), 120, (100, 200, 400)
    rules = Rules(tolerance=0.01, confidence=0.95, comparisons=6 * 5 * len(sizes))
    wrong = 0
    for _ in range(races):
        hard = generator.random(400)
        correct = {f"{at}": hard + generator.normal(size=400) * 0.2 < 0.8 for at in range(6)}
        found = [compared({k: v[:n] for k, v in correct.items()}, dict.fromkeys(correct, 1.0), rules) for n in sizes]
        wrong += any(is_out(one, rules) for rung in found for one in rung.values())
    assert wrong / races <= 0.05


def test_rungs_double_and_the_last_has_what_there_is() -> None:
    assert rungs(10_000, 4) == [100, 200, 400, 800, 1600, 2000]
    assert rungs(10_000, 50, 900) == [400, 800, 900]
    assert rungs(60, 4) == [60]
    assert rungs(9000, 500) == [4000]


def test_time_cuts_the_last_first() -> None:
    seconds = {"a": 5.0, "b": 3.0, "c": 4.0}
    assert cut_to_fit(list("abc"), seconds, 12.0) == ["a", "b", "c"]
    assert cut_to_fit(list("abc"), seconds, 8.0) == ["a", "b"]
    assert cut_to_fit(list("abc"), seconds, 1.0) == []


def test_rows_that_tell_one_point_apart_are_those_whose_interval_has_that_half_width() -> None:
    rules = Rules(tolerance=0.01, confidence=0.95, comparisons=56)
    rows = rows_to_tell(0.1, rules)
    low, high = paired_interval(rows // 20, rows // 20, rows, level=rules.level)
    assert (high - low) / 2 == pytest.approx(0.01, rel=1e-2)


# The folder.


def folder(root: Path, counts: dict[str, int], *, seed: int = 0) -> Path:
    """Images of one colour a class, and noise."""
    generator = np.random.default_rng(seed)
    root.mkdir(exist_ok=True)
    for at, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(exist_ok=True)
        for image in range(count):
            pixels = np.clip(generator.normal(60 + 60 * at, 40, (12, 12, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{image}.png")
    return root


def test_every_beginning_has_each_class_by_its_share() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    order = nested(labels, np.random.default_rng(0).permutation(1000).astype(np.uint64))
    assert sorted(order.tolist()) == list(range(1000))
    for size in (20, 50, 137, 500):
        counts = np.bincount(labels[order[:size]], minlength=3)
        assert np.abs(counts - size * np.array([0.6, 0.3, 0.1])).max() <= 1.5


def test_a_folder_that_grows_keeps_who_decides_and_who_is_set_aside(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets", {"cat": 40, "dog": 20})
    before = look(str(root))
    names = np.array(before.images.ids)
    assert (len(before.order), len(before.aside)) == (48, 12)
    assert not set(before.order) & set(before.aside)
    aside, first = set(names[before.aside]), set(names[before.order[:24]])
    folder(tmp_path / "more", {"cat": 4}, seed=1)
    for image in (tmp_path / "more" / "cat").iterdir():
        image.rename(root / "cat" / f"new_{image.name}")
    after = look(str(root))
    names = np.array(after.images.ids)
    assert len(aside & set(names[after.aside])) >= 11
    assert len(first & set(names[after.order[:26]])) >= 21
    assert after.rung(10).spec.split == "all-first-10"


def test_the_same_bytes_are_one_image(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets", {"cat": 10, "dog": 10})
    (root / "dog" / "copy.png").write_bytes((root / "cat" / "0.png").read_bytes())
    (root / "dog" / "again.png").write_bytes((root / "dog" / "1.png").read_bytes())
    pool = look(str(root))
    assert len(pool.order) + len(pool.aside) == 20
    assert pool.notes[0] == "2 images have the bytes of another, 1 of them under another class; one of each is kept"


def listed(root: Path, line: Callable[[int], str], header: str) -> str:
    """A manifest of the images of a folder, by the number of each."""
    paths = sorted(root.rglob("*.png"))
    rows = [f"{path.relative_to(root)},{line(at)}" for at, path in enumerate(paths)]
    (root / "pets.csv").write_text("\n".join([f"path,{header}", *rows]))
    return f"manifest:{root / 'pets.csv'}"


def test_the_values_of_a_column_can_be_the_classes(tmp_path: Path) -> None:
    root = folder(tmp_path, {"cat": 20, "dog": 21})
    name = listed(
        root,
        lambda at: f"{at},{('indoors', 'outdoors', '')[at % 3 if at else 0]},{at % 2},{at}.5",
        "label,place,old,ms",
    )
    pool = look(name, "place")
    assert (pool.images.spec.split, pool.images.class_names) == ("all-place", ["indoors", "outdoors"])
    assert pool.notes == ["13 images without a class are left out", "2 classes of 14 to 14 images"]
    places = pool.images.columns["place"]
    for rows in (pool.order, pool.aside):
        assert [pool.images.class_names[label] for label in pool.images.labels[rows]] == places[rows].tolist()
    assert look(name, "old").classes == 2
    for column, message in (
        ("breed", "must be a column of .*; found 'breed'; there are place, old, ms"),
        ("ms", "texts or whole numbers; found 'ms', of float64"),
        ("", "found 41 classes of at most 1; add images, or take .*: --label place or old$"),
    ):
        with pytest.raises(ConfigError, match=message):
            look(name, column)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "expected images"),
        ({"cat": 20}, "must have two classes or more; found one, of 20 images"),
        ({"cat": 2, "dog": 2}, "must have two classes of 5 different images or more; found 2 classes of at most 2"),
        ({"cat": 20, "dog": 2}, "must have two classes of 5 different images"),
    ],
)
def test_a_folder_that_does_not_do_is_refused(counts: dict[str, int], message: str, tmp_path: Path) -> None:
    root = folder(tmp_path / "pets", counts)
    done = featurebank_("choose", root, "--store", tmp_path / "store", "--among", NETS[0])
    assert (done.code != 0, done.out) == (True, "")
    assert message in words(done.err)


def test_images_without_classes_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets", {"cat": 3})
    for image in (root / "cat").iterdir():
        image.rename(root / image.name)
    (root / "cat").rmdir()
    done = featurebank_("choose", root, "--store", tmp_path / "store")
    assert done.code == 2
    assert "found 3 images and no class; sort them into sub-folders" in words(done.err)


# The backbones.


@pytest.mark.parametrize(
    ("wish", "nearest"),
    [
        (Wish(max_params=1.0), "the nearest is squeezenet1_1@random@40px, with --max-params 1.3"),
        (Wish(max_dim=100), "the nearest is squeezenet1_1@random@40px, with --max-dim 512"),
        (Wish(licences=("CC0",)), "with --licence MIT"),
        (Wish(max_params=1.0, max_dim=1000), "squeezenet1_1@random@40px, with --max-params 1.3"),
    ],
)
def test_filters_that_leave_none_name_the_nearest_relaxation(wish: Wish, nearest: str, tmp_path: Path) -> None:
    wish = Wish(**{**vars(wish), "among": ("mobilenetv2@random", NETS[0])})
    with pytest.raises(ConfigError, match=r"found 2, and none of them is") as refused:
        candidates(wish, Results(tmp_path), device="cpu", precision="float32", say=quiet)
    assert nearest in str(refused.value)


def test_who_is_left_out_is_named_with_the_reason(tmp_path: Path) -> None:
    wish = Wish(among=("efficientnet_lite2@random", "dinov2_vit_base", NETS[0]), max_params=2, licences=("permissive",))
    found = candidates(wish, Results(tmp_path), device="cpu", precision="float32", say=quiet)
    assert list(found.candidates) == [NETS[0]]
    assert found.excluded["efficientnet_lite2@random"] == "parameters, millions: 6.1"
    again = candidates(wish, Results(tmp_path), device="cpu", precision="float32", say=quiet)
    assert again.candidates[NETS[0]].ms == found.candidates[NETS[0]].ms


def test_a_budget_is_a_time() -> None:
    assert seconds_of("1h1m1.5s") == 3661.5
    for text in ("30", "m", "30m ", "5x", "0s"):
        with pytest.raises(ConfigError, match="such as 90s"):
            seconds_of(text)


# The command.


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("choose") / "pets", {"cat": 36, "dog": 36, "eel": 12})


def chosen(images: Path, store: Path, *options: str) -> Done:
    nets = [word for name in NETS for word in ("--among", name)]
    return featurebank_("choose", images, *nets, "--store", store, *options)


def test_a_choice_is_made_once_and_said_again(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, path = tmp_path / "store", tmp_path / "page.html"
    done = chosen(images, store, "--rows", "50", "--json")
    assert done.code == 0, done.err
    found = done.json
    assert found["rows"] == 50
    assert found["images"] == {"all": 84, "decide": 68, "aside": 16}
    lines = {line["backbone"]: line for line in found["backbones"]}
    assert lines.keys() == set(NETS)
    assert lines[found["pick"]]["state"] == "pick"
    assert lines[found["pick"]]["final"][0] > 0.6
    assert found["command"].endswith(" --rows 50 --among squeezenet1_1@random@40px --among squeezenet1_1@random:1@40px")
    rows = [row for row in Results(store).rows() if row.question == "linear" and row.metric == "accuracy"]
    (near,) = [int(note.split()[0]) for note in found["notes"] if "near duplicates" in note] or [0]
    assert {row.n for row in rows} == {16 - near}, found["notes"]
    monkeypatch.setattr(running, "extract", None)  # no image goes through a network again
    assert chosen(images, store, "--rows", "50", "--json").out == done.out
    shown = chosen(images, store, "--rows", "50", "--html", str(path))
    assert f"pick: {found['pick']}" in words(shown.out)
    assert "0 images through a network" in words(shown.err)
    text = path.read_text()
    assert f"The pick is {found['pick']}: {lines[found['pick']]['final'][0]:.3f}".replace(" 0.", " .") in text
    for name in NETS:
        shown_as = f"{lines[name]['curve'][-1][1]:.3f}".removeprefix("0")
        assert re.search(rf'<tr id="b\d">.*?{re.escape(name_html(name))}.*?<td>{shown_as}</td></tr>', text)


def test_a_plan_extracts_nothing(images: Path, tmp_path: Path) -> None:
    done = chosen(images, tmp_path, "--plan", "--json")
    assert done.code == 0, done.err
    assert (done.json["pick"], [size for size, _ in done.json["plan"]]) == (None, [68])
    assert not list(tmp_path.rglob("*.h5"))


def test_a_budget_that_is_too_small_says_what_would_do(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = chosen(images, tmp_path, "--budget", "0.001s")
    assert (done.code, done.out) == (2, "")
    assert "enough to time each backbone once; found 0.001 s" in words(done.err)
    monkeypatch.setattr(running, "SLACK", 1e6)
    done = chosen(images, tmp_path, "--budget", "1h")
    assert (done.code, done.out) == (2, "")
    assert "enough for the first rung, 68 images of 2 backbones; found 3600 s; about" in words(done.err)
    assert not list(tmp_path.rglob("*.h5"))


def test_time_ends_what_looks_at_no_clock() -> None:
    clock, before = Clock(1.2), signal.getsignal(signal.SIGALRM)  # all but what Python takes around it
    with pytest.raises(TimeUp), clock.timing():
        time.sleep(10)
    assert -5 < clock.left <= 0
    with pytest.raises(TimeUp), clock.timing():
        raise AssertionError("nothing begins when the time is up")
    with Clock(None).timing(), Clock(60).timing():
        pass
    assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)) == (before, (0, 0))


def test_finalists_are_tuned_on_what_decided_and_scored_once(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "Finetune", partial(Finetune, epochs=1, precision="float32"))
    with monkeypatch.context() as interrupted:
        interrupted.setattr(job, "train", ended)
        done = chosen(images, tmp_path, "--rows", "24", "--tune", "--json")
    assert (done.code, {line["tuned"] for line in done.json["backbones"]}) == (130, {None})
    assert done.json["notes"][-1] == "tuning was interrupted: the same command goes on where it was"
    done = chosen(images, tmp_path, "--rows", "24", "--tune", "--json")
    assert done.code == 0, done.err
    tuned = {line["backbone"]: line["tuned"] for line in done.json["backbones"] if line["state"] != "worse"}
    kept = [row for row in Results(tmp_path).rows() if row.question == "finetune" and row.score == "tuned"]
    scored = {row.backbone: [row.value, row.low, row.high] for row in kept if row.primary}
    assert tuned == scored
    (near,) = [int(note.split()[0]) for note in done.json["notes"] if "near duplicates" in note] or [0]
    assert {(row.train, row.n) for row in kept if row.primary} == {("pets/all-first-24", 16 - near)}
    names = {f"tuned:{path.name}" for path in (tmp_path / "tuned").iterdir() if path.name != "maps"}
    assert all(any(name in note for note in done.json["notes"]) for name in names)
    assert " --tune" in done.json["command"]
    monkeypatch.setattr(job, "train", None)  # nothing is trained again
    assert chosen(images, tmp_path, "--rows", "24", "--tune", "--json").out == done.out
    assert "the leader aside tuned ms" in words(chosen(images, tmp_path, "--rows", "24", "--tune").out)


def raced(state: str, *shares: float) -> running.Line:
    sizes = (100, 200, 400)[: len(shares)]
    return running.Line(state=state, rows=sizes[-1], curve=dict(zip(sizes, shares, strict=True)))


def test_each_line_of_the_picture_ends_where_its_backbone_was_dropped() -> None:
    lines = {
        "best": raced("pick", 0.7, 0.8, 0.9),
        "<b>near</b>": raced("not told apart", 0.7, 0.79, 0.89),
        "slow": raced("cut by time alone", 0.6, 0.7),
        "bad": raced("worse", 0.4),
        "broken": running.Line(state="failed"),
    }
    links = re.findall(r'<a href="#b(\d)"><title>(.*?)</title>(.*?)</a>', curve_svg(lines))
    found = {
        int(at): (title, re.findall(r"([\d.]+) ([\d.]+)", drawn.split('d="')[1].split('"')[0]), drawn)
        for at, title, drawn in links
    }
    assert [found[at][0] for at in (1, 2)] == [
        "&lt;b&gt;near&lt;/b&gt;: not told apart, 0.890 of 400 images",
        "slow: cut by time alone, 0.700 of 200 images",
    ]
    assert {at: len(points) for at, (_, points, _) in found.items()} == {0: 3, 1: 3, 2: 2, 3: 1}
    first, second, third = (float(x) for x, _ in found[0][1])
    assert third - second == pytest.approx(second - first, abs=0.2)  # doubling is a step
    assert [x for x, _ in found[2][1]] == [x for x, _ in found[0][1][:2]]
    heights = [float(y) for _, y in found[0][1]]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    assert [at for at, (_, _, drawn) in found.items() if 'class="tip"' in drawn] == [3, 2]
    assert [at for at, (_, _, drawn) in found.items() if "<circle" in drawn] == [1, 0]


def test_the_page_is_in_order_for_a_browser(tmp_path: Path) -> None:
    lines = {"best": raced("pick", 0.7, 0.9), "near": raced("not told apart", 0.7, 0.89), "bad": raced("worse", 0.4)}
    choice = running.Choice(pick="best", stopped="", rows=200, lines=lines, finalists=["best", "near"], notes=[])
    race = SimpleNamespace(costs=dict.fromkeys(lines, 5.0), who=SimpleNamespace(excluded={"big": "dimension: 9000"}))
    sheet = Sheet(title="pets", names=["backbone"], columns=["ms"], lines=[((name,), ("5.0",)) for name in lines])
    path = tmp_path / "page.html"
    path.write_text(page(sheet, race, choice, "featurebank choose pets"))  # type: ignore[arg-type]
    with chromium() as browser:
        for width in (1400, 420):
            scheme: Literal["light", "dark"] = "light" if width == 1400 else "dark"
            with opened(browser, path, width=width, scheme=scheme, axe=True) as found:
                assert found.page.evaluate("document.documentElement.scrollWidth") == width
                assert (found.requests, found.errors, found.violations()) == ([path.as_uri()], [], [])


# What ends a race early.


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = folder(tmp_path_factory.mktemp("many") / "pets", {"cat": 130, "dog": 130})
    for damaged in (root / "cat").glob("1*.png"):
        damaged.write_bytes(b"\x89PNG" + damaged.name.encode())  # other bytes each, and no image
    return root


@pytest.mark.parametrize(
    "end", [(KeyboardInterrupt, 130, "interrupted"), (TimeUp, 0, "time")], ids=["by a person", "by the budget"]
)
def test_what_ends_a_race_leaves_the_last_whole_rung(
    end: tuple[type[BaseException], int, str], many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, code, stopped = end
    calls: list[str] = []

    def ended(wanted: Any, *parts: Any, **more: Any) -> Any:
        calls.append(wanted[0].outcome.split)
        if calls[-1] == "all-first-200":
            raise ending
        return extract(wanted, *parts, **more)

    monkeypatch.setattr(running, "extract", ended)
    done = chosen(many, tmp_path, "--rows", "200", "--json")
    assert (done.code, calls[:2]) == (code, ["all-first-100", "all-first-200"])
    assert (done.json["stopped"], done.json["rows"]) == (stopped, 100)
    assert {line["rows"] for line in done.json["backbones"]} == {100}
    finals = [line["final"] for line in done.json["backbones"]]
    assert (None in finals) == (code == 130)


def test_what_time_alone_cut_is_marked_and_images_that_fail_decide_nothing(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "cut_to_fit", lambda names, *_: list(names)[:2])
    done = chosen(many, tmp_path, "--rows", "200", "--among", "squeezenet1_1@random:2@40px", "--json")
    assert done.code == 0, done.err
    lines = {line["state"]: line for line in done.json["backbones"]}
    assert (lines["cut by time alone"]["rows"], done.json["rows"]) == (100, 200)
    notes = [note for note in done.json["notes"] if "could not be decoded" in note]
    assert len(notes) >= 2
    failed = int(notes[1].split()[1])
    rows = [row for row in Results(tmp_path).rows() if row.score == "ridge" and row.test == "pets/all-first-200"]
    assert {row.n for row in rows} == {200 - failed}
    assert 20 <= failed <= 41
