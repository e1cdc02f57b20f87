"""Views of a backbone, asked for behind its name.

``@96px`` is at another input size, ``@windowed`` a plain transformer in windows (`windowed_network`), ``@flip`` of
mirrored images. A view changes the name and, but for windows, the preprocessing, and so the key; sources know nothing
of it: they resolve and build the name without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from featurebank.extract.backbones.contract import BackboneSpec, Network
from featurebank.extract.errors import ExtractError, WeightsError, fault
from featurebank.extract.preprocessing import Preprocessing
from featurebank.store.errors import UnknownNameError

if TYPE_CHECKING:
    from featurebank.extract.backbones.network import FrozenNetwork

__all__ = ["View", "built", "split_view"]

_VIEW = re.compile(r"(?:@(?P<px>[1-9]\d{0,3})px)?(?P<windowed>@windowed)?(?P<flip>@flip)?\Z")


@dataclass(frozen=True, kw_only=True)
class View:
    """How a backbone sees images, where not as its weights expect.

    Attributes:
        px: height and width of the network's input; ``None`` for the backbone's own.
        windowed: whether blocks attend within windows.
        flip: whether images are mirrored, left to right.
    """

    px: int | None = None
    windowed: bool = False
    flip: bool = False

    def preprocessing(self, own: Preprocessing) -> Preprocessing:
        """A backbone's own record, as the view has it.

        The resize keeps its proportion to the crop: 256 before a crop of 224 becomes 110 before one of 96. Images that
        are not resized (``none``) are cropped.
        """
        if self.px is not None:
            own = replace(
                own,
                height=self.px,
                width=self.px,
                resize_height=max(1, round(self.px * own.resize_height / own.height)),
                resize_width=max(1, round(self.px * own.resize_width / own.width)),
            )
        return replace(own, flip=True) if self.flip else own

    def of(self, spec: BackboneSpec) -> BackboneSpec:
        """The spec of a backbone in this view."""
        return replace(spec, name=f"{spec.name}{self}", preprocessing=self.preprocessing(spec.preprocessing))

    def __str__(self) -> str:
        named = [("" if self.px is None else f"@{self.px}px"), self.windowed * "@windowed", self.flip * "@flip"]
        return "".join(named)


def split_view(name: str) -> tuple[str, View]:
    """A name without the view that it ends in, and the view.

    >>> split_view("mobilenetv2@random:7@96px@flip")
    ('mobilenetv2@random:7', View(px=96, windowed=False, flip=True))
    >>> split_view("mobilenetv2")
    ('mobilenetv2', View(px=None, windowed=False, flip=False))
    """
    match = _VIEW.search(name)
    assert match is not None  # noqa: S101 - every part of the pattern may be missing
    px = match["px"]
    view = View(
        px=None if px is None else int(px), windowed=match["windowed"] is not None, flip=match["flip"] is not None
    )
    return name[: match.start()], view


def built(spec: BackboneSpec, build: Callable[[BackboneSpec], Network]) -> Network:
    """The network that a source builds of a spec without its view.

    Raises:
        WeightsError: the architecture does not take images of that size, or has no windows; or as the source.
        AssetError, UnknownNameError: as the source.
    """
    name, view = split_view(spec.name)
    plain = replace(spec, name=name, outputs=("pooled",) if view.windowed else spec.outputs)
    try:
        network = build(plain)
    except (ExtractError, UnknownNameError):
        raise
    except Exception as error:
        if view.px is None:
            raise
        raise WeightsError(
            f"{spec.name}: images must be of a size that the network takes; found {view.px} x {view.px} pixels, of "
            f"which it says: {fault(error)}; ask for another size, or for {name}"
        ) from error
    if view.windowed:
        from featurebank.extract.backbones.windowed_network import windowed

        return windowed(spec, cast("FrozenNetwork", network))
    network.spec = spec
    return network
