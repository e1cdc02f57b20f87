"""The contract of a task: a frozen record of settings that turns rows of features into numbers."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from featurebank.pipelines.probing.inputs import Inputs
from featurebank.pipelines.probing.scores import Answer
from featurebank.pipelines.results import Row
from featurebank.store.fingerprint import is_default

__all__ = ["Task"]


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A question to frozen features.

    A change of what it answers to the same options, a default's included, takes another `version`: results of the
    old one are then no longer found.

    Attributes:
        output: the output of the backbone that is read.
        seed: of splits, draws and intervals.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    unhashed: ClassVar[tuple[str, ...]] = ()
    predicts_classes: ClassVar[bool] = False

    output: str = "pooled"
    seed: int = 0

    @property
    def reads_train(self) -> bool:
        """Whether the answer depends on train and validation rows."""
        return True

    @property
    def others(self) -> tuple[str, ...]:
        """Further sets that it reads, DATASET or DATASET/SPLIT."""
        return ()

    @abstractmethod
    def run(self, inputs: Inputs) -> Answer:
        """Fits, chooses on validation rows only, and reads the test rows once.

        Raises:
            ValueError: the rows do not allow it; the message says what was expected and found.
        """

    def fits(self, rows: Sequence[Row]) -> bool:  # noqa: ARG002 (of tasks whose rows hold more)
        """Whether rows that were there have what is shown of them beyond their own fields; raising means no."""
        return True

    def settings(self) -> dict[str, Any]:
        """Everything that determines the answer besides the features, as plain JSON; files by their SHA-256."""
        return {field.name: _plain(getattr(self, field.name)) for field in self._hashed()}

    def key(self) -> dict[str, Any]:
        """The settings that are not at their default: what names a result, so that new options leave old ones known."""
        given = [field for field in self._hashed() if not is_default(field, getattr(self, field.name))]
        return {field.name: _plain(getattr(self, field.name)) for field in given}

    def _hashed(self) -> list[Field[Any]]:
        return [field for field in fields(self) if field.name not in self.unhashed]


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        with value.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
