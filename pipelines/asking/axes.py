"""Axes of a picture as SVG: where a value lies, its frame with round numbers, and room for names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from featurebank.store.text import html_text

__all__ = ["BOTTOM", "DASHES", "HEIGHT", "LEFT", "NEAR", "RIGHT", "TOP", "WIDTH", "Axis", "frame", "free"]

WIDTH, HEIGHT = 440, 300
LEFT, BOTTOM, TOP, RIGHT = 44, 40, 12, 12
DASHES = ("", "6 3", "2 3", "8 3 2 3")
NEAR = 13  # pixels between two names


@dataclass(frozen=True)
class Axis:
    """Values from ``low`` to ``high`` on the pixels from ``begin`` to ``end``."""

    low: float
    high: float
    begin: float
    end: float
    log: bool

    @classmethod
    def of(cls, values: Sequence[float], begin: float, end: float, *, log: bool = False) -> Axis:
        """An axis with some room around the values."""
        low, high = min(values), max(values)
        if log:
            room = max(1.15, (high / low) ** 0.06)
            return cls(low / room, high * room, begin, end, log)
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        return cls(low - room, high + room, begin, end, log)

    def at(self, value: float) -> float:
        """The pixel of a value."""
        low, high = (math.log(end) if self.log else end for end in (self.low, self.high))
        share = ((math.log(value) if self.log else value) - low) / (high - low)
        return round(self.begin + share * (self.end - self.begin), 1)

    def ticks(self) -> Iterator[float]:
        """A few round numbers."""
        if self.log and self.high / self.low > 4:
            digits = (1,) if self.high / self.low > 100 else (1, 2, 5)
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            every = (float(f"{digit}e{power}") for power in powers for digit in digits)
            yield from (tick for tick in every if self.low <= tick <= self.high)
            return
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / 2))
        step *= next((d for d in (5, 2) if (self.high - self.low) / (step * d) >= 3), 1)
        first = math.ceil(self.low / step)
        yield from (round(n * step, 12) for n in range(first, math.floor(self.high / step) + 1))


def frame(across: Axis, up: Axis, x_title: str, y_title: str, *, ticks: Sequence[float] = ()) -> str:
    """Both axes with their titles, a few round numbers on each.

    Args:
        across: from left to right.
        up: from the bottom, or from the top, to the other.
        x_title: of the first.
        y_title: of the second.
        ticks: numbers of the first axis, in place of round ones.
    """
    bottom, right = HEIGHT - BOTTOM, across.end
    text = f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>'
    for tick in ticks or across.ticks():
        x = across.at(tick)
        text += f'<path class="axis" d="M{x} {bottom}v4"/>'
        text += f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{_short(tick)}</text>'
    for tick in up.ticks():
        y = up.at(tick)
        text += f'<path class="axis" d="M{LEFT} {y}H{right}"/>'
        text += f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{_short(tick)}</text>'
    middle, half = (LEFT + right) / 2, (TOP + bottom) / 2
    text += f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{html_text(x_title)}</text>'
    turned = f'<text x="10" y="{half}" text-anchor="middle" transform="rotate(-90 10 {half})">'
    return f"{text}{turned}{html_text(y_title)}</text>"


def _short(tick: float) -> str:
    """A round number without the zero before the point."""
    return f"{tick:.10g}".replace("0.", ".", 1) if abs(tick) < 1 else f"{tick:,g}"


def free(begin: float, end: float, wished: float, placed: Sequence[tuple[float, float, float]]) -> float:
    """The height nearest to the wished one at which a name covers no other."""
    near = [height for left, right, height in placed if left < end and begin < right]
    for step in range(40):
        for height in (wished + NEAR * step, wished - NEAR * step):
            if TOP <= height <= HEIGHT - BOTTOM and all(abs(height - other) >= NEAR for other in near):
                return height
    return wished
