"""``featurebank report``: one offline page of all that a store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.stores import DEFAULT_STORE, StoreOption, existing_store
from featurebank.pipelines.streams import JsonOption, console, print_json

__all__ = ["report"]

DEFAULT_PAGE = Path("report.html")


def report(
    folder: Annotated[Path | None, typer.Argument(metavar="[STORE]", help="The store's folder, as --store.")] = None,
    store: StoreOption = DEFAULT_STORE,
    html: Annotated[
        Path, typer.Option("--html", "-o", dir_okay=False, help="Write one offline page of the answers.")
    ] = DEFAULT_PAGE,
    images: Annotated[
        list[str] | None,
        typer.Option(
            "--images",
            metavar="[DATASET=]PLACE",
            help="Where images are, folder:PATH, manifest:FILE or list:FILE, if not known; repeatable.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write one offline page of all that a store holds: answer, numbers, ranks, coverage, failures, costs."""
    from featurebank.pipelines.asking.images import Album
    from featurebank.pipelines.asking.table import print_line
    from featurebank.pipelines.summaries.report.holdings import holdings_of
    from featurebank.pipelines.summaries.report.page import report_page
    from featurebank.store.text import shown

    if not html.parent.is_dir():
        raise ConfigError(f"--html: expected a folder at {html.parent}, found none; make it first")
    album = Album(images or ())
    holdings = holdings_of(existing_store(folder or store))
    drawn = report_page(holdings, album)
    html.write_text(drawn.html, encoding="utf-8")
    if as_json:
        print_json(
            {
                "page": str(html),
                "nbytes": html.stat().st_size,
                "answer": drawn.answer,
                "sets": len(holdings.sets),
                "numbers": len(holdings.rows),
                "failed": sum(len(held.failures) for held in holdings.sealed),
            }
        )
        return
    screen = console()
    print_line(screen, shown(drawn.answer))
    print_line(screen, shown(str(html)), about="page", style="green")
