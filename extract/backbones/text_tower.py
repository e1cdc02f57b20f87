"""What a text tower is: the part of a vision-language backbone that puts texts into the space of its images.

Shapes: N texts, E dimension of the space shared with images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.backbones.tokenizers import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

__all__ = ["TextSource", "TextTower"]

BATCH = 256


class TextTower:
    """A built text tower.

    Args:
        model: the module that ``encode`` uses, weights loaded.
        encode: token numbers (B, L) to features (B, E).
        tokenizer: of the model.
        logit_scale: what the model multiplies cosines of images and texts by, exp of its parameter.
        logit_bias: what it adds then; 0 where it has none, as CLIP.
        device: of torch.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        encode: Callable[[torch.Tensor], torch.Tensor],
        tokenizer: Tokenizer,
        *,
        logit_scale: float,
        logit_bias: float,
        device: str = "cpu",
    ) -> None:
        model.eval().requires_grad_(False).to(device)
        self.tokenizer, self.logit_scale, self.logit_bias = tokenizer, logit_scale, logit_bias
        self._encode, self._device = encode, device

    def encode(self, texts: Sequence[str], batch_size: int = BATCH) -> NDArray[np.float32]:
        """(N, E) float32, as the tower gives them: of no particular length.

        Raises:
            ValueError: no texts, or a single string.
        """
        import numpy as np
        import torch

        if isinstance(texts, str) or not texts:
            raise ValueError(f"texts must be a list of at least one string; found {texts!r}")
        parts = []
        with torch.inference_mode():
            for start in range(0, len(texts), batch_size):
                tokens = self.tokenizer.tokens(list(texts[start : start + batch_size]))
                parts.append(self._encode(tokens.to(self._device)).float().cpu().numpy())
        return np.concatenate(parts)


@runtime_checkable
class TextSource(Protocol):
    """A source of backbones some of which have text towers."""

    def tokenizer(self, spec: BackboneSpec) -> Mapping[str, Any]:
        """What determines the tokens of a text, as plain JSON for a key; nothing is built.

        Raises:
            WeightsError: the backbone has no text tower.
            AssetError: the tokenizer's files are not to be had.
        """
        ...

    def text_tower(self, spec: BackboneSpec, device: str) -> TextTower:
        """The text tower behind a spec.

        Raises:
            WeightsError: the backbone has none, or the checkpoint does not fit.
            AssetError: a file is not to be had, or no longer what was resolved.
        """
        ...
