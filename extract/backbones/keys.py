"""Which tensors of a checkpoint are a network's, in one line that a table can hold.

======================================  =====================================================================
``*``                                   all, as they are named
``base_encoder.*``                      all, without this prefix
``* without scratch.* head.*``          those of these patterns belong to something else, and are left out
``* via classy``                        renamed by a conversion of `layouts` afterwards
======================================  =====================================================================

Nothing is left out that is not listed: a tensor that neither begins with the prefix nor matches is an error.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from featurebank.extract.errors import WeightsError

if TYPE_CHECKING:
    import torch

__all__ = ["conversion_of", "select"]

_LINE = re.compile(r"(?P<prefix>\S*)\*(?: without (?P<without>\S+(?: (?!via )\S+)*))?(?: via (?P<via>\w+))?")


def select(tensors: Mapping[str, torch.Tensor], keys: str) -> dict[str, torch.Tensor]:
    """The network's tensors under the network's names, before any conversion.

    Args:
        tensors: the checkpoint's, by name.
        keys: the line.

    Raises:
        WeightsError: a tensor that the line does not speak of, or no such line.

    >>> import torch
    >>> x = torch.zeros(1)
    >>> list(select({"net.w": x, "optimiser.m": x}, "net.* without optimiser.*"))
    ['w']
    """
    line = _parsed(keys)
    prefix, without = line["prefix"] or "", (line["without"] or "").split()
    kept = {n: t for n, t in tensors.items() if not any(fnmatch.fnmatchcase(n, pattern) for pattern in without)}
    strange = [name for name in kept if not name.startswith(prefix)]
    if strange or not kept:
        raise WeightsError(
            f"expected tensors {keys!r}, found {', '.join(strange[:10]) or 'none'}"
            f"{f' and {len(strange) - 10} more' if len(strange) > 10 else ''}: another checkpoint than the zoo lists"
        )
    return {name.removeprefix(prefix): value for name, value in kept.items()}


def conversion_of(keys: str) -> str:
    """The conversion that a line asks for, ``""`` for none.

    >>> conversion_of("* without head.* via classy")
    'classy'
    """
    return _parsed(keys)["via"] or ""


def _parsed(keys: str) -> dict[str, str | None]:
    match = _LINE.fullmatch(keys)
    if match is None:
        raise WeightsError(f"expected '<prefix>* [without <pattern> …] [via <conversion>]', found {keys!r}")
    return match.groupdict()
