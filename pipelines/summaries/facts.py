"""What is known of a backbone by its name: what apples are, for those who compare apples with apples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from featurebank.pipelines.summaries.results import fits
from featurebank.store.errors import UnknownNameError, unknown_name

__all__ = ["Facts", "Kind", "facts_of"]

UNKNOWN = "not known"
NEVER_TRAINED = "random"  # a style of its own: what the zoo says of weights is not about these


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a backbone; empty or ``None`` where nothing is.

    Attributes:
        architecture: as its library calls it.
        style: ``supervised``, ``self-supervised`` …; ``random`` of weights that nothing has trained.
        data: what it was trained on.
        parameters: their number.
        px: the side of its input.
        licence: of the weights.
    """

    architecture: str = ""
    style: str = ""
    data: str = ""
    parameters: int | None = None
    px: int | None = None
    licence: str = ""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Which backbones are alike; texts may have ``*`` for anything. What is not known is not alike.

    Attributes:
        architecture: any of these.
        style: of pretraining, see `Facts`.
        pretraining: any of these data.
        px: any of these sides of the input.
        least: parameters in millions.
        most: likewise.
    """

    architecture: tuple[str, ...] = ()
    style: str | None = None
    pretraining: tuple[str, ...] = ()
    px: tuple[int, ...] = ()
    least: float | None = None
    most: float | None = None

    def apart(self, names: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
        """The backbones of the kind, and the others, each with the fact that is not as asked for.

        Raises:
            UnknownNameError: no backbone is of that style.
        """
        if self == Kind():
            return [*names], []
        facts = {name: facts_of(name) for name in names}
        styles = {one.style for one in facts.values()} - {""}
        if self.style is not None and not any(fits(one, self.style) for one in styles):
            raise unknown_name("style of pretraining", self.style, styles)
        why = {name: self._excludes(facts[name]) for name in names}
        return [name for name in names if not why[name]], [(name, reason) for name, reason in why.items() if reason]

    def _excludes(self, facts: Facts) -> str:
        """The first fact that is not as asked for; empty where all are."""
        texts = (
            ("architecture", facts.architecture, self.architecture),
            ("style", facts.style, (self.style,) if self.style else ()),
            ("pretraining", facts.data, self.pretraining),
        )
        for what, value, patterns in texts:
            if patterns and not any(fits(value, pattern) for pattern in patterns):
                return f"{what}: {value or UNKNOWN}"
        if self.px and facts.px not in self.px:
            return f"input: {f'{facts.px} px' if facts.px else UNKNOWN}"
        least, most = self.least or 0.0, math.inf if self.most is None else self.most
        if least == 0 and most == math.inf:
            return ""
        if facts.parameters is None:
            return f"parameters: {UNKNOWN}"
        millions = facts.parameters / 1e6
        return "" if least <= millions <= most else f"parameters: {millions:.1f} M"


def facts_of(backbone: str) -> Facts:
    """The facts of a backbone of a store: of the zoo, the packaged ones, or what timm states; of others none.

    A name came with the store: it is looked up and opens nothing.

    >>> facts_of("mocov3_vit_small@96px").style, facts_of("mobilenetv2@random").style, facts_of("hf:folder")
    ('self-supervised', 'random', Facts(architecture='', style='', data='', parameters=None, px=None, licence=''))
    """
    from featurebank.extract.backbones import packaged, zoo
    from featurebank.extract.backbones.views import split_view

    name, view = split_view(backbone.partition("[")[0])
    plain, random, _ = name.partition("@random")
    if (entry := zoo.find(plain)) is not None:
        known = Facts(
            architecture=entry.architecture,
            style=entry.style,
            data=entry.data,
            parameters=entry.parameters,
            px=entry.preprocessing.height,
            licence=entry.licence,
        )
    elif (own := packaged.ENTRIES.get(plain)) is not None:
        known = Facts(
            architecture=own.architecture,
            data=str(own.facts["trained on"]),
            parameters=int(str(own.facts["parameters"])),
            px=own.preprocessing.height,
            licence=str(own.facts["licence"]),
        )
    else:
        known = _timm_facts(plain) if plain.startswith("timm:") else Facts()
    if random:
        known = replace(known, style=NEVER_TRAINED, data="", licence="")
    return replace(known, px=view.px or known.px)


def _timm_facts(name: str) -> Facts:
    from featurebank.extract.backbones import describe

    architecture = name.removeprefix("timm:")
    try:
        said = describe(name)
    except (UnknownNameError, ModuleNotFoundError):
        said = {}
    size = said.get("input")
    px = int(size[-1]) if isinstance(size, tuple) else None
    return Facts(architecture=architecture, px=px, licence=str(said.get("licence", "")))
