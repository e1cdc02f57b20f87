"""Which outputs and which sets a question reads."""

from __future__ import annotations

from featurebank.pipelines.asking.option import file_of, options_of

__all__ = ["Reading"]


class Reading:
    """What a question may say of what it reads."""

    output: str

    @property
    def fits(self) -> bool:
        """Whether the answer depends on train and validation rows."""
        return True

    @property
    def outputs(self) -> tuple[str, ...]:
        """What is read of each row."""
        return (self.output,)

    @property
    def fitted_name(self) -> str:
        """What is fitted on, or looked for, where that is no feature set."""
        return ""

    @property
    def further(self) -> dict[str, tuple[str, ...]]:
        """The further sets that it reads by their role, DATASET or DATASET/SPLIT."""
        roles = [name for name, (_, own) in options_of(self).items() if own.role and file_of(self, name) is None]
        values = {name: getattr(self, name) for name in roles}
        return {name: (of,) if isinstance(of, str) else tuple(of) for name, of in values.items() if of}

    @property
    def own_texts(self) -> str:
        """The role that the text features of the scored dataset's classes play; empty where it reads none by itself."""
        return ""
