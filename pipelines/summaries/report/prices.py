"""What backbones cost, as far as a store knows: timed, or counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from featurebank.pipelines.asking.metrics import metric
from featurebank.pipelines.asking.results import Row
from featurebank.pipelines.summaries.facts import Facts
from featurebank.pipelines.summaries.report.holdings import Holdings

__all__ = ["Price", "prices_of"]

EFFICIENCY = "efficiency"
TIMED = ("latency_p50",)
COUNTED = ("gmacs", "parameters")
SHARES = {"latency_p50": "time", "gmacs": "multiply-adds", "parameters": "parameters"}


@dataclass(frozen=True, kw_only=True)
class Price:
    """One kind of cost.

    Attributes:
        name: of its metric.
        title: what a heading calls it, with its unit.
        about: how it was measured.
        values: by backbone.
    """

    name: str
    title: str
    about: str
    values: Mapping[str, float]

    def shown(self, backbone: str) -> str:
        """The value as people read it; empty where it is not known."""
        value = self.values.get(backbone)
        if value is None:
            return ""
        return f"{value / 1e6:,.1f}" if self.name == "parameters" else metric(self.name).shown(value)

    @property
    def share(self) -> str:
        """What a fraction of it is a fraction of."""
        return SHARES[self.name]


def prices_of(holdings: Holdings, facts: Mapping[str, Facts]) -> list[Price]:
    """Every kind of cost that is known of some backbone, what says most about a choice first."""
    prices = [*_timed(holdings.rows), *_counted(holdings.rows, facts)]
    return [price for price in prices if price.values]


def _timed(rows: Sequence[Row]) -> list[Price]:
    """Times of one device and precision alone: of several ways the one in which most backbones were timed."""
    found = []
    for name in TIMED:
        every = [row for row in rows if row.question == EFFICIENCY and row.metric == name]
        ways = Counter((str(row.details.get("processor", "")), row.score) for row in every)
        if not ways:
            continue
        most = max(ways.values())
        way = min(one for one, count in ways.items() if count == most)
        of = {row.backbone: row for row in every if (str(row.details.get("processor", "")), row.score) == way}
        about = f"latency of one image, p50, {', '.join(filter(None, way))}"
        values = {backbone: row.value for backbone, row in of.items()}
        found.append(Price(name=name, title="latency, ms", about=about, values=values))
    return found


def _counted(rows: Sequence[Row], facts: Mapping[str, Facts]) -> list[Price]:
    found = []
    for name in COUNTED:
        of = {row.backbone: row for row in rows if row.question == EFFICIENCY and row.metric == name}
        values = {backbone: row.value for backbone, row in of.items()}
        title, about = metric(name).title, "multiply-adds of one image, counted"
        if name == "parameters":
            known = {backbone: one.parameters for backbone, one in facts.items() if one.parameters is not None}
            values = {backbone: float(number) for backbone, number in known.items()} | values
            title, about = "parameters, M", "parameters of the network"
        found.append(Price(name=name, title=title, about=about, values=values))
    return found
