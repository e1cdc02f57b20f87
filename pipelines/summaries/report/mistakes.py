"""What the best classifier gets wrong: its surest mistakes with their images, and which classes it confuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.images import Album
from featurebank.pipelines.asking.page import figure, name_html, table_html
from featurebank.pipelines.asking.results import Results, Row
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.summaries.report.board import Board, called
from featurebank.pipelines.summaries.report.holdings import Holdings
from featurebank.store.text import html_text

__all__ = ["explains", "mistakes_section"]

MOST = 24
PAIRS = 10


@dataclass(frozen=True, kw_only=True)
class _Mistake:
    row: int
    id: str
    label: str
    predicted: str
    confidence: float | None


def mistakes_section(board: Board | None, holdings: Holdings, album: Album) -> str:
    """The mistakes behind a board's best number; nothing where that is not about predicted classes."""
    if board is None:
        return ""
    row = board.best.row
    try:
        kept = Results(holdings.root).arrays(row)
        if not ({"ids", "rows"} <= kept.keys() and explains(row, kept)):
            return ""
        wrong = _mistakes(kept, _class_names(row, holdings))
        total = len(kept["labels"])
    except (ValueError, LookupError, TypeError) as error:
        return _section(f"<p>What was predicted cannot be read: {html_text(str(error))}</p>")
    title = f"{called(row)} of {row.backbone} on {row.test}: {len(wrong):,} of {total:,} wrong"
    if not wrong:
        return _section(f"<p>{html_text(title)}.</p>")
    order = "surest first" if wrong[0].confidence is not None else "in the order of the rows"
    shown = wrong[:MOST]
    intro = f"<p>{html_text(title)}; {order}.</p>"
    return _section(intro + _pictures(shown, row, holdings, album) + _table(shown, title) + _pairs(wrong))


def explains(row: Row, kept: Mapping[str, NDArray[Any]]) -> bool:
    """Whether a number is the accuracy of the predictions that are kept, and not that of one of its variants."""
    if row.metric != "accuracy" or not {"labels", "predictions"} <= kept.keys():
        return False
    labels, predictions = kept["labels"], kept["predictions"]
    return labels.shape == predictions.shape and bool(np.isclose((labels == predictions).mean(), row.value, atol=1e-9))


def _section(text: str) -> str:
    return f'<section id="mistakes"><h2>Worst mistakes</h2>{text}</section>'


def _mistakes(kept: Mapping[str, NDArray[Any]], names: Sequence[str]) -> list[_Mistake]:
    labels, predictions = kept["labels"], kept["predictions"]
    sure = np.exp(kept["log_confidence"].astype(np.float64)) if "log_confidence" in kept else None
    at = np.flatnonzero(labels != predictions)
    if sure is not None:
        at = at[np.argsort(-sure[at], kind="stable")]

    def named(number: int) -> str:
        return names[number] if 0 <= number < len(names) else str(number)

    return [
        _Mistake(
            row=int(kept["rows"][one]),
            id=str(kept["ids"][one]),
            label=named(int(labels[one])),
            predicted=named(int(predictions[one])),
            confidence=None if sure is None else float(sure[one]),
        )
        for one in at.tolist()
    ]


def _class_names(row: Row, holdings: Holdings) -> tuple[str, ...]:
    """Those of the training set, whose numbers predictions have, else of the test set."""
    helds = [held for one in row.fingerprints if (held := holdings.by_fingerprint(one)) is not None]
    of = {held.entry.place: held.class_names for held in helds}
    return of.get(row.train) or of.get(row.test) or ()


def _pictures(shown: Sequence[_Mistake], row: Row, holdings: Holdings, album: Album) -> str:
    helds = [held for one in row.fingerprints if (held := holdings.by_fingerprint(one)) is not None]
    tested = next((held for held in helds if held.entry.place == row.test), None)
    if tested is None:
        return f"<p>No images: the set {html_text(row.test)} is not in this store any more.</p>"
    try:
        image = album.pictures(tested.entry.path, row.test)
        figures = [
            figure(
                image(one.row),
                [one.label, f"→ {one.predicted}"],
                kind="wrong",
                name=f"{one.id}: {one.label}, taken for {one.predicted}",
                about=f'data-item data-class="{html_text(one.label)}"',
            )
            for one in shown
        ]
    except (ConfigError, ValueError, OSError) as error:
        if album.named(row.test.rpartition("/")[0]):
            raise
        return f"<p>No images: {html_text(str(error))}</p>"
    return f'<div class="row">{"".join(figures)}</div>'


def _table(shown: Sequence[_Mistake], title: str) -> str:
    heads = "".join(f'<th class="name" scope="col">{name}</th>' for name in ("id", "is", "taken for"))
    heads += '<th scope="col">confidence</th>'
    lines = []
    for one in shown:
        sure = "<td></td>" if one.confidence is None else f'<td data-v="{one.confidence!r}">{one.confidence:.3f}</td>'
        cells = f'<td class="text">{name_html(one.label)}</td><td class="text">{name_html(one.predicted)}</td>{sure}'
        lines.append(
            f'<tr data-item data-class="{html_text(one.label)}"><th scope="row">{name_html(one.id)}</th>{cells}</tr>'
        )
    table = table_html("Surest mistakes", heads, lines, called=title, csv="mistakes.csv")
    return f"<details><summary>The {len(shown):,} as a table</summary>{table}</details>"


def _pairs(wrong: Sequence[_Mistake]) -> str:
    """Which class is taken for which most often."""
    counts = Counter((one.label, one.predicted) for one in wrong)
    top = sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:PAIRS]
    heads = "".join(f'<th class="name" scope="col">{name}</th>' for name in ("is", "taken for"))
    heads += '<th scope="col">rows</th><th scope="col">of all mistakes</th>'
    lines = [
        f'<tr data-item data-class="{html_text(label)}"><th scope="row">{name_html(label)}</th>'
        f'<td class="text">{name_html(predicted)}</td><td>{count:,}</td><td>{100 * count / len(wrong):.0f} %</td></tr>'
        for (label, predicted), count in top
    ]
    return table_html("Taken for each other most often", heads, lines, called="Confusions", csv="confusions.csv")
