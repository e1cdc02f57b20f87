"""What an estimator's parameters must be, declared with them and checked in one place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np


class Bound(NamedTuple):
    """What a parameter must be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


Count = Annotated[int, Bound("at least 1", lambda value: 1 <= value < np.inf)]
Pair = Annotated[int, Bound("at least 2", lambda value: 2 <= value < np.inf)]
Positive = Annotated[float, Bound("above 0 and finite", lambda value: 0 < value < np.inf)]
NotNegative = Annotated[float, Bound("at least 0 and finite", lambda value: 0 <= value < np.inf)]
Fraction = Annotated[float, Bound("at least 0 and below 1", lambda value: 0 <= value < 1)]
Positives = Annotated[
    Sequence[float],
    Bound(
        "at least one finite number above 0", lambda values: len(values) > 0 and all(0 < one < np.inf for one in values)
    ),
]
NotNegatives = Annotated[
    Sequence[float],
    Bound(
        "at least one finite number of 0 or more",
        lambda values: len(values) > 0 and all(0 <= v < np.inf for v in values),
    ),
]


def check_parameters(estimator: Any) -> None:
    """Raises ValueError for a parameter that is not what its annotation says, a literal or a `Bound`."""
    for name, hint in get_type_hints(type(estimator), include_extras=True).items():
        value = getattr(estimator, name, None)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise ValueError(f"{name} must be one of {', '.join(map(str, get_args(hint)))}; found {value!r}")
        for bound in getattr(hint, "__metadata__", ()):
            if not bound.holds(value):
                raise ValueError(f"{name} must be {bound.words}; found {value}")
    check_device(getattr(estimator, "device", "cpu"))


def check_device(name: str) -> None:
    """Raises ValueError where torch has no such device."""
    if name == "cpu":
        return
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device must be one that torch can use here, such as 'cpu'; found {name!r}: {reason}"
        ) from error
