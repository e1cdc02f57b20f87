"""Models of images and texts, tiny and at random, their weights where open_clip and transformers look for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip  # type: ignore[import-untyped]
import pytest
import tokenizers
import torch
import transformers
from open_clip import pretrained
from safetensors.torch import save_file
from zoo_networks import put_in_hub

__all__ = ["CONFIGS", "SIGLIP", "SMALL", "in_hub", "save_hugging_face", "save_tokenizer", "saved", "tiny_zoo"]

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
CONFIGS: dict[str, dict[str, Any]] = {
    "fb-vit": {"embed_dim": 12, "vision_cfg": VIT, "text_cfg": TEXT},
    "fb-resnet": {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
        "text_cfg": TEXT,
    },
    "fb-timm": {
        "embed_dim": 12,
        "custom_text": True,
        "vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160},
        "text_cfg": TEXT,
    },
    "fb-timm-classifier": {
        "embed_dim": 12,
        "custom_text": True,
        "vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": None, "image_size": 160},
        "text_cfg": TEXT,
    },
    "fb-coca": {
        "embed_dim": 16,
        "custom_text": True,
        "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 76, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
}
SIGLIP: dict[str, Any] = {  # its tokenizer is a repository of its own on the hub
    "embed_dim": 12,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": VIT,
    "text_cfg": {
        **TEXT,
        "context_length": 8,
        "vocab_size": 64,
        "hf_tokenizer_name": "featurebank/words",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}
SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
HUGGING_FACE_TEXT = {**SMALL, "vocab_size": 64, "max_position_embeddings": 8, "bos_token_id": 3, "eos_token_id": 1}
WORDS = ["a", "photo", "of", "the", "great", "white", "shark", "tench", "in", "itap", "bad"]


def tiny_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes open_clip know `CONFIGS`, with one tag each, and empties the hub; returns the hub's cache."""
    configs = {**CONFIGS, "fb-siglip": SIGLIP}
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", {**open_clip.factory._MODEL_CONFIGS, **configs})
    tags = {
        name: {"tiny": {**pretrained._pcfg(hf_hub=f"featurebank/{name}/"), "quick_gelu": False}} for name in configs
    }
    monkeypatch.setattr(pretrained, "_PRETRAINED", {**pretrained._PRETRAINED, **tags})
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("FEATUREBANK_OFFLINE", "1")
    return cache


def saved(name: str, path: Path, **changes: torch.Tensor) -> Any:
    """open_clip's own model of a configuration, its weights saved as open_clip does."""
    torch.manual_seed(0)
    model = open_clip.create_model(name, **({"output_dict": True} if "coca" in name else {})).eval()
    for parameter in model.parameters():  # CoCa leaves one of its decoder's as the memory happens to be
        parameter.data.nan_to_num_(0.0, 0.0, 0.0)
    state = {**model.state_dict(), **changes}
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    return model


def in_hub(cache: Path, name: str, scratch: Path) -> Any:
    """The same with its weights in the hub's cache; the backbone is ``open_clip:<name>/tiny``."""
    scratch.mkdir(parents=True, exist_ok=True)
    model = saved(name, scratch / "open_clip_model.safetensors")
    put_in_hub(cache, f"featurebank/{name}", {"open_clip_model.safetensors": scratch / "open_clip_model.safetensors"})
    return model


def save_tokenizer(folder: Path) -> Path:
    """A tokenizer of a few words as transformers saves it, with SigLIP's way of padding by the end of a text."""
    folder.mkdir(parents=True, exist_ok=True)
    special = ("<unk>", "</s>", "[SEP]")
    model = tokenizers.models.WordLevel({word: number for number, word in enumerate([*special, *WORDS])}, "<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s> [SEP]", special_tokens=[("</s>", 1), ("[SEP]", 2)]
    )
    names = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "</s>", "sep_token": "[SEP]"}
    kind: Any = transformers.PreTrainedTokenizerFast
    kind(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


def save_hugging_face(folder: Path, kind: str, *, seed: int = 0) -> Any:
    """A model of images and texts as transformers saves it, with its tokenizer."""

    torch.manual_seed(seed)
    if kind == "clip":
        config: Any = transformers.CLIPConfig(text_config=HUGGING_FACE_TEXT, vision_config=SMALL, projection_dim=16)
        model: Any = transformers.CLIPModel(config)
    else:
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=HUGGING_FACE_TEXT, vision_config=SMALL))
        model.logit_bias.data.fill_(-12.5)
    model.eval().save_pretrained(folder)
    save_tokenizer(folder)
    processor = {
        "size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model
