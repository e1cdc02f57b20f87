"""Text towers of transformers' CLIP and SigLIP, and the tokenizers beside them.

Shapes: B batch, L tokens a text, E dimension of the space shared with images.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurebank.extract.backbones.configurations import read_configuration
from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.backbones.folders import verified
from featurebank.extract.backbones.hf_network import WITH_TEXTS
from featurebank.extract.backbones.text_tower import TextTower
from featurebank.extract.backbones.tokenizers import digest_of, fast_tokenizer
from featurebank.extract.errors import WeightsError

if TYPE_CHECKING:
    import torch

__all__ = ["build_text_tower", "tokenizer_record"]

CONTEXT = {"clip": 77, "siglip": 64}
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def tokenizer_record(spec: BackboneSpec, files_of: Callable[[Path], Sequence[str]]) -> dict[str, Any]:
    """What determines the tokens: the digest of its files, length, and how texts are cleaned before.

    Args:
        spec: the backbone.
        files_of: the files of its weights, of a folder.

    Raises:
        WeightsError: it is neither CLIP nor SigLIP, or has random weights, whose folder is not known.
        AssetError: a file is missing or has changed.
    """
    if spec.weights.path is None:
        raise WeightsError(f"{spec.name}: expected weights of a folder, which has the tokenizer too; found random ones")
    folder = verified(spec.weights, files_of)
    config = read_configuration(folder / "config.json")
    if (kind := config.get("model_type")) not in WITH_TEXTS:
        raise WeightsError(f"{spec.name}: expected {' or '.join(WITH_TEXTS)}, which has a text tower; found {kind!r}")
    text = config.get("text_config")
    length = text.get("max_position_embeddings", CONTEXT[kind]) if isinstance(text, Mapping) else CONTEXT[kind]
    if not isinstance(length, int) or not 1 < length <= 1 << 16:
        raise WeightsError(f"{spec.name}: expected max_position_embeddings of texts to be a length; found {length!r}")
    clean = {"clean": "canonical"} if kind == "siglip" else {}
    return {"kind": "transformers", "sha256": digest_of(folder), "context_length": length, **clean}


def build_text_tower(spec: BackboneSpec, model: Any, record: Mapping[str, Any], device: str) -> TextTower:
    """The text tower of a model, weights loaded.

    Args:
        spec: the backbone.
        model: of transformers; its image tower is let go of.
        record: what `tokenizer_record` says.
        device: of torch.

    Raises:
        WeightsError: the model has no text tower.
        AssetError: a file of its tokenizer is not to be had.
    """
    folder = spec.weights.path
    if folder is None or not hasattr(model, "get_text_features"):
        raise WeightsError(f"{spec.name}: expected a model with a text tower, found {type(model).__name__}")
    tokenizer, _ = fast_tokenizer(spec.name, folder, context=record["context_length"])
    if "clean" in record:
        tokens, lengths = tokenizer.tokens, tokenizer.lengths
        tokenizer = replace(
            tokenizer,
            tokens=lambda texts: tokens([*map(_canonical, texts)]),
            lengths=lambda texts: lengths([*map(_canonical, texts)]),
        )
    bias = getattr(model, "logit_bias", None)
    model.vision_model = None

    def encode(numbers: torch.Tensor) -> torch.Tensor:
        # Padding lies behind the end of a text, where CLIP's reads no further; SigLIP was trained to read it.
        pooled = model.get_text_features(input_ids=numbers)
        return getattr(pooled, "pooler_output", pooled)  # type: ignore[no-any-return]

    return TextTower(
        model,
        encode,
        tokenizer,
        logit_scale=float(model.logit_scale.detach().exp()),
        logit_bias=0.0 if bias is None else float(bias.detach()),
        device=device,
    )


def _canonical(text: str) -> str:
    """What SigLIP's tokenizer does to a text first.

    >>> _canonical("A  photo of a T-shirt.")
    'a photo of a tshirt'
    """
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())
