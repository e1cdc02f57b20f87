"""A report of 2,000 numbers in Chromium: its bytes, until it can be used, and until a sorted table is drawn.

Ours is the median of sorting the table of every number by another column, until the frame after it; the reference is
the tenth of a second that it may take. Beside it the page's bytes (2 MB at most) and the time until it is interactive
(a second at most), from navigation to the end of our script, as the browser has it.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
from harness import report, skip, table

from featurebank.pipelines.asking.images import Album
from featurebank.pipelines.asking.results import Computed, Results, Row
from featurebank.pipelines.summaries.report.holdings import holdings_of
from featurebank.pipelines.summaries.report.page import report_page
from featurebank.store import FeatureStore

BOUND = 0.1
SORT = """async (at) => {
  const button = document.querySelectorAll("#numbers thead button")[at];
  const begin = performance.now();
  button.click();
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return (performance.now() - begin) / 1000;
}"""


def made_up(root: Path, numbers: int) -> None:
    """Results of 100 backbones in as many settings as it takes, with intervals and fingerprints as probes have them."""
    results, generator = Results(root), np.random.default_rng(0)
    for at in range(numbers // 100):
        rows = []
        for net in range(100):
            value = float(generator.beta(8, 3))
            rows.append(
                Row(
                    question="linear",
                    backbone=f"timm:network_{net:02}.of_some_length_in1k",
                    train=f"dataset_{at:02}/train",
                    test=f"dataset_{at:02}/test",
                    set=f"dataset_{at:02}/test",
                    metric="accuracy",
                    primary=True,
                    value=value,
                    low=value - 0.01,
                    high=value + 0.01,
                    interval="test rows, Wilson",
                    n=1000,
                    fingerprints=(f"{net:064x}", f"{at:064x}"),
                )
            )
        results.once("linear", {"of": at}, [], lambda rows=rows: Computed(rows=rows), version=1)  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numbers", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    program = shutil.which("chromium")
    if program is None:
        skip("report_page", "no Chromium: apt-get install chromium")
        return
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "features")
        root.mkdir()
        made_up(root, args.numbers)
        path = Path(folder, "report.html")
        path.write_text(report_page(holdings_of(FeatureStore(root)), Album()).html, encoding="utf-8")
        seconds: dict[str, list[float]] = {"until interactive": [], "sorting": []}
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
            for _ in range(args.repeats):
                page = browser.new_page(viewport={"width": 1400, "height": 1000})
                page.goto(path.as_uri())
                ready = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
                seconds["until interactive"].append(ready / 1000)
                heads = page.locator("#numbers thead th").all_inner_texts()
                for name in ("value", "set", "value"):
                    seconds["sorting"].append(page.evaluate(SORT, [one.strip() for one in heads].index(name)))
                page.close()
            browser.close()
        nbytes = path.stat().st_size
    table(f"a report of {args.numbers:,} numbers, {nbytes:,} bytes", seconds)
    ours, ready = (statistics.median(seconds[name]) for name in ("sorting", "until interactive"))
    report("report_page", ours=ours, reference=BOUND, unit="s", bound="ratio <= 1", nbytes=nbytes, interactive=ready)


if __name__ == "__main__":
    main()
