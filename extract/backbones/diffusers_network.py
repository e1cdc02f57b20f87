"""Stable Diffusion as an encoder: latents of an image, once through the UNet, no noise.

Shapes: B batch, H, W input size, h, w size of a feature map, C its channels, L tokens of the prompt, E their dimension.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.backbones.network import FrozenNetwork
from featurebank.extract.errors import WeightsError

__all__ = ["DiffusionEncoder"]

_NAME = re.compile(
    r"(?!vae.*_t)(?P<part>vae|down|mid|up)\.(?P<level>\d+)\.(?P<kind>mean|features)(?:_t(?P<timestep>\d+))?"
)
_UNSUPPORTED = ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")


class DiffusionEncoder(FrozenNetwork):
    """A variational autoencoder's encoder and a UNet with the embedding of one prompt.

    The latents are the mode of their distribution times its scaling factor; nothing is drawn. Timestep 0 unless an
    output names another; no noise is added for later ones either.

    ===================  =======================================================================================
    ``pooled``           (B, C) mean of the positions behind the middle block, group-normalised without weights
    ``features``         (B, C, h, w) behind the middle block
    ``latents``          (B, 4, H/8, W/8) what enters the UNet
    ``vae.N.mean``       (B, C) mean of the positions behind level N of the autoencoder's encoder, after it is made
                         smaller; also ``vae.N.features`` (B, C, h, w)
    ``down.N.mean``      (B, C) mean of the positions behind level N, before it is made smaller; also
                         ``down.N.features`` (B, C, h, w)
    ``mid.0.mean``       the same behind the middle block
    ``up.N.mean``        the same behind level N of the way up, after it is made larger
    ``…_t100``           behind any of the last three: at timestep 100
    ===================  =======================================================================================

    Args:
        spec: what to give.
        vae: diffusers' ``AutoencoderKL``; its decoder is dropped.
        unet: diffusers' ``UNet2DConditionModel``; what the outputs do not need of it is dropped.
        context: (1, L, E), the prompt's embedding.

    Raises:
        UnknownNameError: an output this network does not have.
        WeightsError: a UNet that needs more than images, a timestep and a prompt.
    """

    def __init__(self, spec: BackboneSpec, vae: Any, unet: Any, context: torch.Tensor) -> None:
        extra = [key for key in _UNSUPPORTED if getattr(unet.config, key, None) is not None]
        if extra:
            raise WeightsError(f"{spec.name}: expected a UNet of images and prompts, found {', '.join(extra)} in it")
        vae.decoder = vae.post_quant_conv = None
        unet.conv_norm_out = unet.conv_out = None
        super().__init__(spec, nn.ModuleDict({"vae": vae, "unet": unet}))
        self.context: torch.Tensor
        self.register_buffer("context", context.detach().clone())
        self.dimension = unet.config.block_out_channels[-1]
        self._require([_at_timestep_zero(name) for name in spec.outputs])
        ways = {name: match for name in spec.outputs if (match := _NAME.fullmatch(name))}
        self._ways = {name: (m["part"], int(m["level"]), int(m["timestep"] or 0)) for name, m in ways.items()}
        timesteps = {timestep for part, _, timestep in self._ways.values() if part != "vae"}
        self._timesteps = sorted(timesteps | ({0} if {"pooled", "features"} & {*spec.outputs} else set()))
        self._upwards = any(way[0] == "up" for way in self._ways.values())
        if not self._upwards:
            unet.up_blocks = None

    def _part(self, name: str) -> Any:
        return self.backbone[name]  # type: ignore[index]

    def available(self) -> list[str]:
        """Names of all outputs, at timestep 0."""
        levels = {part: len(self._part(part).config.block_out_channels) for part in ("vae", "unet")}
        counted = [("vae", levels["vae"]), ("down", levels["unet"]), ("mid", 1), ("up", levels["unet"])]
        places = [f"{part}.{level}" for part, count in counted for level in range(count)]
        return ["pooled", "features", "latents", *(f"{p}.{k}" for k in ("mean", "features") for p in places)]

    def parameters_counted(self) -> Iterator[nn.Parameter]:
        """See `FrozenNetwork`: the way up is no part of the encoder."""
        return (p for name, p in self.named_parameters() if ".up_blocks." not in name)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, H, W) in [-1, 1] to one tensor (B, …) per output."""
        latents, encoded = self._encoded(images)
        maps = {timestep: self._maps(latents, timestep) for timestep in self._timesteps}
        outputs = {}
        for name in self.spec.outputs:
            if name in self._ways:
                part, level, timestep = self._ways[name]
                features = encoded[level] if part == "vae" else maps[timestep][part, level]
                outputs[name] = features if ".features" in name else features.mean((2, 3))
            elif name == "latents":
                outputs[name] = latents
            else:
                features = maps[0]["mid", 0]
                groups = self._part("unet").config.norm_num_groups
                outputs[name] = (
                    features if name == "features" else nn.functional.group_norm(features, groups).mean((2, 3))
                )
        return outputs

    def _encoded(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The latents, and the map (B, C, h, w) behind each level of the autoencoder's encoder."""
        vae, maps = self._part("vae"), []
        x = vae.encoder.conv_in(images)
        for block in vae.encoder.down_blocks:
            x = block(x)
            maps.append(x)
        x = vae.encoder.conv_act(vae.encoder.conv_norm_out(vae.encoder.mid_block(x)))
        x = vae.encoder.conv_out(x)
        moments = x if vae.quant_conv is None else vae.quant_conv(x)
        return moments.chunk(2, 1)[0] * vae.config.scaling_factor, maps

    def _maps(self, latents: torch.Tensor, timestep: int) -> dict[tuple[str, int], torch.Tensor]:
        """The feature map (B, C, h, w) behind each part of the UNet."""
        unet = self._part("unet")
        steps = torch.full((len(latents),), timestep, device=latents.device)
        time = unet.time_embedding(unet.time_proj(steps).to(latents.dtype))
        context = self.context.expand(len(latents), -1, -1)
        x = unet.conv_in(latents)
        maps: dict[tuple[str, int], torch.Tensor] = {}
        passed = [x]
        for level, block in enumerate(unet.down_blocks):
            x, states = block(hidden_states=x, temb=time, **_text(block, context))
            maps["down", level] = states[len(block.resnets) - 1]
            passed += states
        x = unet.mid_block(x, time, encoder_hidden_states=context)
        maps["mid", 0] = x
        for level, block in enumerate(unet.up_blocks if self._upwards else ()):
            count = len(block.resnets)
            skipped = tuple(passed[-count:])
            del passed[-count:]
            size = passed[-1].shape[2:] if passed else None
            x = block(
                hidden_states=x,
                temb=time,
                res_hidden_states_tuple=skipped,
                upsample_size=size,
                **_text(block, context),
            )
            maps["up", level] = x
        return maps


def _text(block: Any, context: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}


def _at_timestep_zero(name: str) -> str:
    return re.sub(r"_t\d+$", "", name) if _NAME.fullmatch(name) else name
