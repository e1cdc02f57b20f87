"""transformers' vision models: what they make of an image without their heads.

Shapes: B batch, T positions with those of prefix tokens, D dimension of a feature, E that of the space of texts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.backbones.network import FrozenNetwork, probe
from featurebank.extract.errors import WeightsError
from featurebank.extract.text_sets import EMBEDDING

__all__ = ["WITH_TEXTS", "HuggingFaceNetwork"]

WITH_TEXTS = ("clip", "siglip")
"""Types of models whose images and texts lie in one space."""


class HuggingFaceNetwork(FrozenNetwork):
    """A vision model, or the vision tower of a model of images and texts.

    ``pooled`` (B, D) is the model's own pooled output, else the first position after the norm; ``last_hidden_state`` as
    the model gives it. ``embedding`` (B, E) of CLIP and SigLIP lies in one space with texts. Where the last state is a
    sequence there are ``blocks.N.cls`` (B, D) and ``blocks.N.tokens`` (B, T, D) behind block N, counted from 0, before
    the final norm.

    Args:
        spec: what to give.
        model: a model with its weights loaded; its head is left out.

    Raises:
        WeightsError: the model takes no images.
        UnknownNameError: an output it does not have.
    """

    def __init__(self, spec: BackboneSpec, model: Any) -> None:
        whole = getattr(model, "base_model", model)
        base = getattr(whole, "vision_model", whole)
        super().__init__(spec, base)
        self._embeds = hasattr(whole, "get_text_features") and whole.config.model_type in WITH_TEXTS
        if EMBEDDING in spec.outputs and self._embeds:
            self.projection = getattr(whole, "visual_projection", nn.Identity()).requires_grad_(False)
        if getattr(base, "main_input_name", "") != "pixel_values":
            raise WeightsError(f"{spec.name}: expected a model of images, found {type(model).__name__}")
        with torch.no_grad():
            found = base(pixel_values=probe(spec, base), output_hidden_states=True, return_dict=True)
        self._sequence = found.last_hidden_state.ndim == 3
        self._blocks = len(found.hidden_states or ()) - 1 if self._sequence else 0
        self.dimension = self._pooled(found).shape[1]
        self._require(spec.outputs)

    def available(self) -> list[str]:
        """Names of all outputs."""
        levels = [f"blocks.{level}.{kind}" for kind in ("cls", "tokens") for level in range(self._blocks)]
        return ["pooled", "last_hidden_state", *([EMBEDDING] if self._embeds else []), *levels]

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, H, W) to one tensor (B, …) per output."""
        every = any("." in name for name in self.spec.outputs)
        found = self.backbone(pixel_values=images, output_hidden_states=every, return_dict=True)
        return {name: self._output(name, found) for name in self.spec.outputs}

    def _output(self, name: str, found: Any) -> torch.Tensor:
        if name == "pooled":
            return self._pooled(found)
        if name == EMBEDDING:
            return self.projection(self._pooled(found))  # type: ignore[no-any-return]
        if name == "last_hidden_state":
            return found.last_hidden_state  # type: ignore[no-any-return]
        _, level, kind = name.split(".")
        tokens = found.hidden_states[int(level) + 1]
        return tokens[:, 0] if kind == "cls" else tokens  # type: ignore[no-any-return]

    def _pooled(self, found: Any) -> torch.Tensor:
        pooled = getattr(found, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)  # type: ignore[no-any-return]
        last: torch.Tensor = found.last_hidden_state
        return last[:, 0] if self._sequence else last.mean((2, 3))
