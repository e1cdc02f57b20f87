"""What lies beside the weights of a run: what determines it, how it was begun, and what came of it.

``<store>/KIND/NAME/``: ``begun.json`` before the first step, ``run.json`` once the weights are there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurebank.pipelines.training import ranks
from featurebank.store.errors import CorruptError
from featurebank.store.filing import Filing
from featurebank.store.fingerprint import canonical_json

__all__ = ["TUNED", "WEIGHTS", "Record"]

TUNED, WEIGHTS = "tuned", "weights.safetensors"
LARGEST = 16 << 20


@dataclass(frozen=True)
class Record:
    """The files of a run, in the store.

    Attributes:
        root: the store's folder.
        name: of the run.
        identity: what determines its weights, as plain JSON; a file of another run is as none.
        kind: of jobs, the folder of the store where all of them lie.
    """

    root: Path
    name: str
    identity: Mapping[str, Any]
    kind: str = TUNED

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.root / self.kind / self.name

    def read(self) -> dict[str, Any] | None:
        """What came of a run whose weights are there."""
        return self._read("run.json") if Filing(self.root, self.kind).has(self.name, WEIGHTS) else None

    def begun(self) -> dict[str, Any] | None:
        """How a run computes that was begun."""
        return self._read("begun.json")

    def begin(self, record: Mapping[str, Any]) -> None:
        """Before the first step; the first process of a group writes, the others wait."""
        if ranks.is_first():
            self._write("begun.json", record)
        ranks.wait()

    def end(self, record: Mapping[str, Any]) -> None:
        """After the weights are there."""
        self._write("run.json", record)

    def _read(self, file: str) -> dict[str, Any] | None:
        try:
            document = json.loads(Filing(self.root, self.kind).read(self.name, file, limit=LARGEST))
            return dict(document["record"]) if document["identity"] == self._plain else None
        except (OSError, CorruptError, ValueError, KeyError, TypeError):
            return None

    def _write(self, file: str, record: Mapping[str, Any]) -> None:
        document = {"identity": self._plain, "record": _finite(record)}
        Filing(self.root, self.kind).write(self.name, file, data=canonical_json(document))

    @property
    def _plain(self) -> Any:
        return json.loads(canonical_json(dict(self.identity)))


def _finite(value: Any) -> Any:
    """Plain JSON, without what is not finite."""
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
