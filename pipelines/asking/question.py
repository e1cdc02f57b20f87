"""The contract of a question: a frozen record of options that turns rows of features into numbers.

From the one declaration follow the verb and its options, the form in YAML, the names of results, the tidy rows, the
tables, the JSON and the section of a page.
"""

from __future__ import annotations

import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from featurebank.pipelines.asking.answer import Answer
from featurebank.pipelines.asking.option import Option, choices_of, flag_of, key_of, option, options_of, plain
from featurebank.pipelines.asking.reading import Reading
from featurebank.pipelines.asking.showing import Showing
from featurebank.pipelines.errors import ConfigError

if TYPE_CHECKING:
    from featurebank.pipelines.asking.cases import Case, Selection
    from featurebank.pipelines.asking.inputs import Rows
    from featurebank.store import FeatureStore

__all__ = ["DECLARED", "Question"]

DECLARED: dict[str, type[Question]] = {}
"""The questions of this process by name."""


@dataclass(frozen=True, kw_only=True)
class Question(Reading, Showing, ABC):
    """A question to frozen features; its docstring's first line is its help, ``name`` its verb.

    A change of what it answers to the same options takes another `version`: results of the old one are not found.

    Attributes:
        primary: the main metric; that of the first number if empty.
        methods: the option that lists methods which are answered together and kept one by one.
        job: whether it reads images, and is asked of a configuration alone.
        extra: parameters of the verb that are no options, see `prepare`: type, and what is said of it.
    """

    version: ClassVar[int] = 1
    primary: ClassVar[str] = ""
    predicts_classes: ClassVar[bool] = False
    methods: ClassVar[str] = ""
    job: ClassVar[bool] = False
    extra: ClassVar[Mapping[str, tuple[Any, Option]]] = {}

    output: str = option("pooled", "The output that is read.", metavar="NAME")
    seed: int = option(0, "Of splits, draws and intervals.")

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "name" in cls.__dict__ and not cls.job:
            DECLARED[cls.name] = cls

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for name, (_, own) in options_of(self).items():
            allowed, value = choices_of(hints[name]), getattr(self, name)
            if allowed and value is not None and value not in allowed:
                raise ValueError(f"{flag_of(self, name)} must be one of {', '.join(allowed)}; found {value!r}")
            if own.least is not None and value is not None and value < own.least:
                raise ValueError(f"{flag_of(self, name)} must be at least {own.least:g}; found {value:g}")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """The question with the options that are given; ``None`` leaves one at its default.

        Raises:
            ConfigError: an option that it needs and lacks, or a value that it does not allow.
        """
        values = {name: value for name, value in given.items() if value is not None}
        needed = [name for name, (own, _) in options_of(cls).items() if own.default is MISSING and name not in values]
        if needed:
            raise ConfigError(f"{cls.name} needs {' and '.join(flag_of(cls, name) for name in needed)}")
        try:
            return cls(**values)
        except (KeyError, ValueError) as error:
            raise ConfigError(f"{cls.name}: {error}") from error

    @classmethod
    def prepare(
        cls,
        given: Mapping[str, Any],
        extra: Mapping[str, Any],  # noqa: ARG003 (of questions that have some)
        keys: Sequence[str],
        store: FeatureStore,  # noqa: ARG003 (of questions that make sets)
    ) -> list[tuple[Self, Sequence[str]]]:
        """The questions that a command means, and the KEYs of each.

        Args:
            given: options.
            extra: parameters of the verb, ``backbone`` too; ``opened`` takes datasets that it opens by DATASET/SPLIT.
            keys: KEYs.
            store: the store, which need not be there yet where there is something in ``extra``.
        """
        return [(cls.of(given), keys)]

    def variants(self, selection: Selection) -> Sequence[Self]:  # noqa: ARG002 (of questions that have some)
        """The questions that it stands for about its cases; itself alone.

        Raises:
            ConfigError: there can be none.
        """
        return (self,)

    def check(self, cases: Sequence[Case]) -> None:
        """Raises ConfigError, or UnknownNameError, where it does not suit its cases; before anything is computed."""

    @property
    def variant(self) -> str:
        """What tells it apart from other variants that are asked together; stands in ``score`` of its rows."""
        return ""

    @property
    def called(self) -> str:
        """Its name and variant."""
        return f"{self.name} {self.variant}".rstrip()

    @property
    def parts(self) -> tuple[str, ...]:
        """What is kept and found on its own: the methods that are asked for, behind what belongs to none of them."""
        return ("", *getattr(self, self.methods)) if self.methods else ("",)

    def only(self, parts: Sequence[str]) -> Self:
        """The same question about some of the methods."""
        some: Any = {self.methods: tuple(part for part in parts if part)}
        return replace(self, **some) if self.methods else self

    @abstractmethod
    def run(self, rows: Rows) -> Answer:
        """Fits, chooses on validation rows only, and reads the scored rows once.

        Raises:
            ValueError: the rows do not allow it; the message says what was expected and found.
        """

    def read_beside(self, case: Case, workshop: Any) -> dict[str, Any]:  # noqa: ARG002 (of questions that read more)
        """Digests of what it reads of a case besides its feature sets, by name: with them, part of a result's key.

        Args:
            case: the case.
            workshop: where a job works, as `run` has it of its rows.

        Raises:
            ValueError: it cannot be read.
        """
        return {}

    def settings(self, part: str = "") -> dict[str, Any]:
        """Everything that determines the answer besides the features, as plain JSON; files by their SHA-256."""
        own = {name: plain(self, name) for name, (_, one) in options_of(self).items() if one.hashed}
        return own | ({self.methods: [part] if part else []} if self.methods else {})

    def key(self, part: str = "") -> dict[str, Any]:
        """The settings that are not at their default, which name a result, so that new options leave old ones known."""
        return key_of(self, but=self.methods) | ({"part": part} if part else {})
