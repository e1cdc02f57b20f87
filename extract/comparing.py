"""Copied rows that are computed again: are they what this network makes of these images?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.errors import ExtractError
from featurebank.extract.reuse import Copies, Donor
from featurebank.extract.sink import Assembler, Passing

__all__ = ["Compared", "DonorError"]

# Another device, library or batch moves features of bfloat16 by some hundredths of their norm; another network's, or
# another image's, differ by about as much as they are long.
RELATIVE, ABSOLUTE = 0.1, 1e-3


class DonorError(ExtractError, ValueError):
    """A set's features of an image are not those that the network makes of it."""

    def __init__(self, donor: Donor, reason: str) -> None:
        super().__init__(
            f"{donor.path} has other features than are computed for the same image: {reason}; no row is copied from it"
        )
        self.donor = donor


class Compared(Passing):
    """Hands rows on to an assembler; those of the sample are compared, and replaced by what is copied.

    So the bytes are the same whichever rows were compared.

    Args:
        assembler: of the feature set.
        copies: its copied rows.
    """

    def __init__(self, assembler: Assembler, copies: Copies) -> None:
        super().__init__(assembler)
        self._copies = copies

    def add(self, start: int, outputs: Mapping[str, NDArray[np.generic]], failed: Mapping[int, str]) -> None:
        """See `Target`.

        Raises:
            DonorError: a row is not what was to be copied.
        """
        stop = start + len(next(iter(outputs.values())))
        rows = np.array([row for row in range(start, stop) if self._copies.sample[row] and row not in failed], np.intp)
        if len(rows):
            outputs = {name: self._compared(name, rows, start, values) for name, values in outputs.items()}
            self._copies.compared += len(rows)
        self.assembler.add(start, outputs, failed)

    def _compared(
        self, name: str, rows: NDArray[np.intp], start: int, values: NDArray[np.generic]
    ) -> NDArray[np.generic]:
        copied = self._copies.values(name, rows)
        a, b = (array.astype(np.float64).reshape(len(rows), -1) for array in (values[rows - start], copied))
        length = np.maximum(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
        distance = np.linalg.norm(a - b, axis=1)
        allowed = RELATIVE * length + ABSOLUTE * np.sqrt(a.shape[1])
        # Not "greater": a distance that is no number is none that is small.
        if (wrong := np.flatnonzero(~(distance <= allowed))).size:
            row = int(wrong[0])
            reason = f"{name!r} differs by {distance[row]:.3g}, at most {allowed[row]:.3g} is rounding"
            raise DonorError(self._copies.donor_of(int(rows[row])), reason)
        replaced = values.copy()
        replaced[rows - start] = copied
        return replaced
