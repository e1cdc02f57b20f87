"""How the answers of a question are shown beyond the table that follows from its layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from featurebank.pipelines.asking.layout import Layout

if TYPE_CHECKING:
    from featurebank.pipelines.asking.cases import Answered, Selection
    from featurebank.pipelines.asking.images import Album
    from featurebank.pipelines.asking.results import Results, Row
    from featurebank.pipelines.asking.sheet import Sheet

__all__ = ["Showing"]


class Showing:
    """What a question may say of the tables and the page of its answers."""

    name: ClassVar[str]
    layout: ClassVar[Layout] = Layout()

    @property
    def title(self) -> str:
        """What its table is called."""
        return self.name

    @property
    def has_table(self) -> bool:
        """Whether there is a main table; else `sheets` are all."""
        return True

    def faint(self, row: Row) -> bool:  # noqa: ARG002 (of questions that know better)
        """Whether a line of the table is shown as less than the others."""
        return False

    def sheet(self, rows: Sequence[Row], title: str, failed: Mapping[tuple[str, ...], Sequence[str]]) -> Sheet:
        """The main table; ``failed`` has the questions without an answer of each line."""
        from featurebank.pipelines.asking.sheet import pivot

        return pivot(rows, self.layout, title=title, failed=failed, faint=self.faint)

    def remarks(self, rows: Sequence[Row]) -> Sequence[str]:  # noqa: ARG002 (of questions that have some)
        """Lines below the main table, from the rows of all backbones."""
        return ()

    def sheets(self, rows: Sequence[Row]) -> Sequence[Sheet]:  # noqa: ARG002 (of questions that have some)
        """Further tables below the main one, from the rows of all backbones."""
        return ()

    def check_page(self, selection: Selection, album: Album) -> None:
        """Raises ConfigError where a page of these cases cannot be made; called before anything is computed."""

    def section(self, answered: Sequence[Answered], results: Results, album: Album) -> str:  # noqa: ARG002 (of some)
        """What a page shows below the tables, as HTML: of what was answered about one pair of sets."""
        return ""
