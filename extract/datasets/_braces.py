"""Braces in names, as shells and WebDataset write them."""

from __future__ import annotations

import re


def expand_braces(text: str) -> list[str]:
    """Every name that ``{a,b}`` and ``{000..003}`` stand for, the last brace changing fastest.

    >>> expand_braces("{train,val}-{08..10}.tar")
    ['train-08.tar', 'train-09.tar', 'train-10.tar', 'val-08.tar', 'val-09.tar', 'val-10.tar']
    """
    brace = re.search(r"\{([^{}]*)\}", text)
    if brace is None:
        return [text]
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", brace[1])
    if bounds:
        first, last = bounds.groups()
        names = [f"{k:0{len(first)}d}" for k in range(int(first), int(last) + 1)]
    else:
        names = brace[1].split(",")
    tails = expand_braces(text[brace.end() :])
    return [text[: brace.start()] + name + tail for name in names for tail in tails]
