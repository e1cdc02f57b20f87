"""Stable Diffusion with a handful of channels, in a folder as diffusers saves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

__all__ = ["LENGTH", "SCALE", "save_diffusion"]

SCALE, LENGTH = 0.18215, 16


def save_diffusion(folder: Path, *, px: int, vae: tuple[int, ...] = (8, 16), unet: tuple[int, ...] = (32, 64)) -> Path:
    """``unet``, ``vae``, ``text_encoder``, ``tokenizer``; channels of each level of the first two."""
    torch.manual_seed(0)
    further = len(unet) - 1
    denoiser: Any = UNet2DConditionModel(  # type: ignore[no-untyped-call]
        sample_size=px // 2 ** (len(vae) - 1),
        block_out_channels=unet,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", *["DownBlock2D"] * further),
        up_block_types=(*["UpBlock2D"] * further, "CrossAttnUpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    denoiser.save_pretrained(folder / "unet")
    autoencoder: Any = AutoencoderKL(  # type: ignore[no-untyped-call]
        block_out_channels=vae,
        down_block_types=("DownEncoderBlock2D",) * len(vae),
        up_block_types=("UpDecoderBlock2D",) * len(vae),
        norm_num_groups=4,
        scaling_factor=SCALE,
    )
    autoencoder.save_pretrained(folder / "vae")
    text = CLIPTextConfig(
        vocab_size=200, hidden_size=24, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=LENGTH, bos_token_id=188, eos_token_id=189, pad_token_id=189,
    )  # fmt: skip
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder / "tokenizer")
    return folder
