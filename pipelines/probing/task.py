"""The contract of a task: a frozen record of settings that turns rows of features into numbers."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from featurebank.pipelines.probing.inputs import Inputs
from featurebank.pipelines.probing.scores import Answer

__all__ = ["Task"]


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A question to frozen features.

    Attributes:
        output: the output of the backbone that is read.
        seed: of splits, draws and intervals.
    """

    name: ClassVar[str]
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

    def settings(self) -> dict[str, Any]:
        """Everything that determines the answer besides the features, as plain JSON; files by their SHA-256."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in self.unhashed}
        return {name: _plain(value) for name, value in named.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        with value.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
