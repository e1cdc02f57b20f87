"""The tokenizers that open_clip's configurations name, without what its own loader would follow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurebank.extract.assets import sha256_of
from featurebank.extract.backbones.hub_cache import snapshot
from featurebank.extract.backbones.tokenizers import FILES, Tokenizer, digest_of, fast_tokenizer
from featurebank.extract.errors import WeightsError

if TYPE_CHECKING:
    import torch

__all__ = ["open_clip_tokenizer", "tokenizer_record"]

CONTEXT = 77


def tokenizer_record(name: str, text: Mapping[str, Any]) -> dict[str, Any]:
    """What determines the tokens: the kind, the digest of its tables, length and settings.

    Args:
        name: the backbone, for messages.
        text: ``text_cfg`` of the architecture.
    """
    settings = {"context_length": text.get("context_length", CONTEXT), **text.get("tokenizer_kwargs", {})}
    if repository := text.get("hf_tokenizer_name"):
        return {"kind": "transformers", "sha256": digest_of(snapshot(name, repository, FILES)), **settings}
    from open_clip.tokenizer import default_bpe  # type: ignore[import-untyped]

    return {"kind": "open_clip", "sha256": sha256_of(Path(default_bpe())), **settings}


def open_clip_tokenizer(name: str, text: Mapping[str, Any]) -> Tokenizer:
    """What `open_clip.get_tokenizer` gives for an architecture, of the same files.

    Raises:
        WeightsError: the architecture asks for a setting that is not known.
        AssetError: its files are not to be had.
    """
    import torch
    from open_clip.tokenizer import SimpleTokenizer, get_clean_fn

    context, settings = text.get("context_length", CONTEXT), dict(text.get("tokenizer_kwargs", {}))
    repository = text.get("hf_tokenizer_name")
    if not repository:
        simple = SimpleTokenizer(context_length=context, **settings)
        return Tokenizer(
            context=context, tokens=simple, lengths=lambda texts: [len(simple.encode(one)) + 2 for one in texts]
        )
    clean, strip = get_clean_fn(settings.pop("clean", "whitespace")), settings.pop("strip_sep_token", False)
    if settings or text.get("tokenizer_mode"):
        asked = ", ".join([*settings, *(["tokenizer_mode"] if text.get("tokenizer_mode") else [])])
        raise WeightsError(f"{name}: expected a tokenizer with clean and strip_sep_token at most, found {asked}")
    plain, own = fast_tokenizer(name, snapshot(name, repository, FILES), context=context)

    def tokens(texts: list[str]) -> torch.Tensor:
        numbers = plain.tokens([clean(one) for one in texts])
        return torch.where(numbers == own.sep_token_id, 0, numbers) if strip else numbers

    return Tokenizer(context=context, tokens=tokens, lengths=lambda texts: plain.lengths([clean(one) for one in texts]))
