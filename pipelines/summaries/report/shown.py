"""What questions themselves show of answers that are kept: reliability, training, scores of outsiders."""

from __future__ import annotations

from collections.abc import Iterator

from featurebank.pipelines.asking.cases import Answered, Case
from featurebank.pipelines.asking.diagrams import reliability_section
from featurebank.pipelines.asking.images import Album
from featurebank.pipelines.asking.results import Result, Results
from featurebank.pipelines.jobs.finetune.curves import curves_section
from featurebank.pipelines.questions.ood.section import scores_html
from featurebank.pipelines.questions.ood.standings import standings
from featurebank.pipelines.summaries.report.board import Board
from featurebank.pipelines.summaries.report.holdings import Holdings
from featurebank.pipelines.summaries.report.mistakes import explains
from featurebank.store.text import html_text

__all__ = ["outsiders", "reliability", "training"]

MOST = 8  # backbones with a picture


def reliability(board: Board | None, holdings: Holdings) -> str:
    """A reliability diagram of the best backbones of a board, where what they predicted has probabilities."""
    if board is None:
        return ""
    results, drawn = Results(holdings.root), []
    for line in [*board.single.values()][:MOST]:
        result = holdings.result_of[line.row.result]
        try:
            kept = results.arrays(result)
            if "log_confidence" not in kept or not explains(line.row, kept):
                continue
        except ValueError:
            continue
        drawn.append(Answered(case=Case(backbone=line.row.backbone, sets={}), results=(result,)))
    return _named("reliability", reliability_section(drawn, results)) if drawn else ""


def training(holdings: Holdings) -> str:
    """Curves of each training, the first of them with the anchor."""
    of: dict[str, list[Answered]] = {}
    for result in holdings.computations:
        if result.question == "finetune" and not result.part:
            row = result.rows[0]
            of.setdefault(row.train, []).append(Answered(case=Case(backbone=row.backbone, sets={}), results=(result,)))
    return _named("training", "".join(curves_section(some[:MOST]) for _, some in sorted(of.items())))


def outsiders(holdings: Holdings, album: Album) -> str:
    """Histograms, curves and worst images of the backbone whose scores tell most, for each set in distribution.

    Raises:
        ConfigError: images that were named cannot be opened.
    """
    best: dict[str, tuple[float, Answered]] = {}
    for answered in _scored(holdings):
        test, mean = answered.rows[0].test, standings(answered.rows)[0].mean
        if test not in best or mean > best[test][0]:
            best[test] = mean, answered
    parts = []
    for test, (_, answered) in sorted(best.items()):
        try:
            parts.append(scores_html([answered], Results(holdings.root), album))
        except ValueError as error:
            parts.append(f"<section><h2>Scores of {html_text(test)}</h2><p>{html_text(str(error))}</p></section>")
    return _named("outsiders", "".join(parts))


def _scored(holdings: Holdings) -> Iterator[Answered]:
    """Answers about out-of-distribution scores whose sets are all here, each score of a backbone once."""
    of: dict[tuple[str, ...], dict[str, Result]] = {}
    for result in holdings.computations:
        row = result.rows[0]
        if result.question == "ood":
            of.setdefault((row.backbone, row.train, row.test, *row.fingerprints), {}).setdefault(result.part, result)
    for (backbone, _, test, *fingerprints), parts in sorted(of.items()):
        helds = [holdings.by_fingerprint(one) for one in fingerprints]
        entries = [held.entry for held in helds if held is not None]
        tested = [entry for entry in entries if entry.place == test]
        if len(entries) < len(helds) or not tested or "" not in parts or len(parts) < 2:
            continue
        others = tuple(entry for entry in entries if entry not in tested)
        case = Case(backbone=backbone, sets={"test": tuple(tested), "further": others})
        ordered = [parts[""], *(parts[part] for part in sorted(parts) if part)]
        yield Answered(case=case, results=tuple(ordered))


def _named(anchor: str, sections: str) -> str:
    """The sections, of which the first has the anchor."""
    return sections.replace("<section>", f'<section id="{anchor}">', 1)
