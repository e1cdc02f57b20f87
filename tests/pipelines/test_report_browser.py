"""The report in Chromium: nothing is asked for, nothing is wrong for a screen reader, what it can do it does."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from browser import chromium, opened
from command_line import featurebank_
from probe_sets import write_pair
from retrieval_sets import make_pictures, write_pictures

from featurebank.pipelines.asking.results import Results
from featurebank.store import FeatureStore

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = FeatureStore(tmp_path_factory.mktemp("browser") / "features")
    for name, noise in (("mobilenetv2", 0.4), ("efficientnet_lite0", 0.6), (HOSTILE, 0.9)):
        write_pair(made, "pets", name, noise=noise, failed=[2], class_names=["ant", "bee", "=1+1"])
    done = featurebank_(
        "probe", "pets", "--task", "linear", "--task", "knn", "--k", "5", "--compare", "--store", made.root
    )
    assert done.code == 0, done.err
    return made.root


@pytest.fixture(scope="module")
def page(store: Path) -> Path:
    path = store.parent / "report.html"
    assert featurebank_("report", store, "-o", path).code == 0
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 420])
def test_nothing_is_asked_for_and_axe_finds_nothing(
    browser: Any, page: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    with opened(browser, page, width=width, scheme=scheme) as found:
        assert found.page.evaluate("document.documentElement.scrollWidth") == width
        assert (found.requests, found.errors) == ([page.as_uri()], [])
    with opened(browser, page, width=width, scheme=scheme, axe=True) as found:
        found.page.evaluate("document.querySelectorAll('details').forEach((one) => one.open = true)")
        assert found.violations() == []


def test_without_script_everything_is_there(browser: Any, page: Path, store: Path) -> None:
    with opened(browser, page, script=False) as found:
        assert found.page.locator("#numbers tbody tr").count() == len(Results(store).rows())
        assert found.page.locator("form.filter").is_hidden()
        assert found.page.locator("thead button").count() == 0


def column(found: Any, table: str, at: int) -> list[str]:
    texts: list[str] = found.page.locator(f"{table} tbody tr").evaluate_all(
        f"(rows) => rows.map((row) => row.cells[{at}].dataset.v ?? row.cells[{at}].textContent)"
    )
    return texts


def test_tables_are_sorted_by_keyboard(browser: Any, page: Path) -> None:
    with opened(browser, page) as found:
        table = "#numbers table"
        heads = found.page.locator(f"{table} thead th").all_inner_texts()
        at = [text.strip() for text in heads].index("value")
        head = found.page.locator(f"{table} thead th").nth(at)
        before = column(found, table, 0)
        head.locator("button").focus()
        found.page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "descending"
        numbers = [float(one) for one in column(found, table, at)]
        assert numbers == sorted(numbers, reverse=True)
        found.page.keyboard.press("Space")
        assert head.get_attribute("aria-sort") == "ascending"
        assert [float(one) for one in column(found, table, at)] == numbers[::-1] or sorted(numbers) == [
            float(one) for one in column(found, table, at)
        ]
        found.page.locator(f"{table} thead th button").first.press("Enter")
        assert head.get_attribute("aria-sort") is None
        assert sorted(before) == sorted(column(found, table, 0))
        assert found.page.locator(f"{table} thead th").first.get_attribute("aria-sort") == "ascending"


def test_a_filter_hides_lines_and_points_and_stands_in_the_address(browser: Any, page: Path) -> None:
    with opened(browser, page) as found:
        found.page.get_by_label("Name or text").fill("mobile")
        shown = found.page.locator("#answer tbody tr:visible th").all_inner_texts()
        assert shown == ["mobilenetv2"]
        assert found.page.locator("#answer svg.chart a:visible").count() == 1
        found.page.get_by_label("Name or text").fill("")
        found.page.get_by_label("Family").select_option("efficientnet")
        assert found.page.locator("#backbones tbody tr:visible th").all_inner_texts() == ["efficientnet_lite0"]
        found.page.get_by_role("link", name="Coverage").click()
        address = found.page.url
        assert address.endswith("#coverage&family=efficientnet")
    with opened(browser, address) as again:
        assert again.page.locator("#backbones tbody tr:visible th").all_inner_texts() == ["efficientnet_lite0"]
        again.page.get_by_role("button", name="Clear").click()
        again.page.locator("#backbones tbody tr:visible").nth(2).wait_for()
        assert again.errors == []


def test_the_numbers_are_saved_in_full_and_compute_nothing(browser: Any, page: Path, store: Path) -> None:
    with opened(browser, page) as found:
        with found.page.expect_download() as saved:
            found.page.locator("#numbers").get_by_role("button", name="Download as CSV").click()
        lines = list(csv.DictReader(io.StringIO(Path(saved.value.path()).read_text(encoding="utf-8"))))
        values = sorted((line["backbone"], float(line["value"]), float(line["low"] or "nan")) for line in lines)
        rows = Results(store).rows()
        assert [one[:2] for one in values] == sorted((row.backbone, row.value) for row in rows)
        assert sum(line["low"] != "" for line in lines) == sum(row.low is not None for row in rows)
        found.page.locator("#mistakes details summary").click()
        with found.page.expect_download() as saved:
            found.page.locator("#mistakes details").get_by_role("button", name="Download as CSV").click()
        text = Path(saved.value.path()).read_text(encoding="utf-8")
        assert "'=1+1" in text
        assert ",=1+1" not in text


def test_rankings_are_found_by_class_and_by_name(browser: Any, tmp_path: Path) -> None:
    store, pictures = FeatureStore(tmp_path / "features"), make_pictures(tmp_path / "pictures")
    write_pictures(store, pictures)
    page = tmp_path / "page.html"
    asked = ("retrieve", "pictures/all", "--html", page, "--images", f"folder:{pictures}", "--store", store.root)
    assert featurebank_(*asked).code == 0
    with opened(browser, page) as found:
        queries = found.page.locator("div[data-item]:visible")
        assert queries.count() == 18
        found.page.get_by_label("Class").select_option("class1")
        assert queries.count() == 6
        assert {name.partition(" ")[0] for name in queries.locator("figure:first-child img").evaluate_all(
            "(images) => images.map((image) => image.alt)")} == {"class1"}  # fmt: skip
        found.page.get_by_label("Name or text").fill("nothing of that name")
        assert queries.count() == 0
        assert found.page.get_by_role("status").inner_text() == "0 of 19 shown"
        assert (found.requests[:1], found.errors) == ([page.as_uri()], [])
    with opened(browser, page, width=420, axe=True) as found:
        assert found.violations() == []
