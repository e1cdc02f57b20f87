"""What enters the first block that is tuned: extracted once as a feature set, and the network behind it.

Shapes: B rows, M records of a split.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from featurebank.pipelines.jobs.cached import outputs_of
from featurebank.pipelines.jobs.finetune.top import Top

if TYPE_CHECKING:
    from featurebank.extract.backbones.contract import BackboneSpec
    from featurebank.pipelines.asking.inputs import SplitRows
    from featurebank.pipelines.jobs.finetune.network import TunedNetwork
    from featurebank.pipelines.jobs.workshop import Workshop

__all__ = ["FromCut", "maps_of"]


class FromCut(nn.Module):
    """A network from the first block that is tuned on: ``(B, …) -> (B, K)``.

    Args:
        whole: with that many blocks frozen.
        frozen_blocks: from the first; the cut is what enters the next.
    """

    PREFIX = "whole."

    def __init__(self, whole: TunedNetwork, frozen_blocks: int) -> None:
        super().__init__()
        self.whole = whole
        self.cut = f"cut.{frozen_blocks + 1}"
        self._top = (Top(whole.network, frozen_blocks + 1),)  # whose parameters are those of the whole

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, …) what enters the block, to logits (B, K)."""
        return self.whole.head(self._top[0](maps))  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> FromCut:
        """As the whole network."""
        self.training = mode
        self.whole.train(mode)
        return self


def maps_of(
    spec: BackboneSpec, rows: SplitRows, cut: str, workshop: Workshop, *, flip: bool = False
) -> NDArray[np.floating]:
    """(M, …) what enters a block for every record of a split, extracted where the store of maps lacks it.

    Raises:
        ValueError: the set could not be made.
    """
    own = replace(spec, outputs=(cut,))
    if flip:
        own = replace(own, name=f"{spec.name}@flip", preprocessing=replace(spec.preprocessing, flip=True))
    return outputs_of(own, rows, workshop)[cut]
