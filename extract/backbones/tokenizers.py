"""Tokenizers of text towers: what identifies one, and one from a folder of transformers' files, read as data.

Shapes: N texts, L tokens a text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from featurebank.extract.backbones.configurations import read_configuration
from featurebank.extract.backbones.folders import folder_weights
from featurebank.extract.errors import AssetError, WeightsError
from featurebank.extract.opening import open_regular

if TYPE_CHECKING:
    import torch

__all__ = ["FILES", "Tokenizer", "digest_of", "fast_tokenizer"]

FILES: Final = ("tokenizer.json", "tokenizer_config.json")
MAX_BYTES: Final = 256 << 20
_SPECIAL: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Texts to the numbers that a tower reads.

    Attributes:
        context: L.
        tokens: N texts to int64 (N, L), padded and cut.
        lengths: N texts to the tokens that each has before it is cut.
    """

    context: int
    tokens: Callable[[list[str]], torch.Tensor]
    lengths: Callable[[list[str]], list[int]]

    def cut(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than the context, so that their ends are not read."""
        return sum(length > self.context for length in self.lengths(list(texts)))


def digest_of(folder: Path) -> str:
    """The digest of a folder's tokenizer, made as that of a checkpoint's folder.

    Raises:
        AssetError: a file is missing or cannot be read.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise AssetError(
                f"{folder}: expected a tokenizer as transformers saves it, {' and '.join(FILES)}; found no {name}; "
                "save it there with save_pretrained"
            )
    return folder_weights(folder, FILES, origin="").sha256


def fast_tokenizer(name: str, folder: Path, *, context: int) -> tuple[Tokenizer, Any]:
    """A tokenizer from files, and the object of transformers behind it.

    Only the tables and rules in ``tokenizer.json`` and the names of special tokens are taken; which class or code the
    files ask for is not followed.

    Args:
        name: the backbone, for messages.
        folder: where `FILES` lie.
        context: L.

    Raises:
        AssetError: a file cannot be read.
        WeightsError: it holds no tokenizer, or one without a token for padding.
    """
    import tokenizers
    import transformers

    config = read_configuration(folder / FILES[1], "a tokenizer's configuration, as transformers saves it")
    special = {key: text for key in _SPECIAL if (text := _token(config.get(key)))}
    path = folder / FILES[0]
    try:
        with open_regular(path, MAX_BYTES) as file:
            backend = tokenizers.Tokenizer.from_buffer(file.read())
    except OSError as error:
        raise AssetError(f"{path}: expected a tokenizer's file, found: {error.strerror}") from error
    except Exception as error:  # the library raises plain exceptions for whatever does not fit
        raise WeightsError(f"{name}: expected a tokenizer in {path}, found: {error}") from error
    if "pad_token" not in special or backend.token_to_id(special["pad_token"]) is None:
        raise WeightsError(
            f"{name}: expected {path} to have a token for padding, found {special.get('pad_token', 'none')!r}"
        )
    kind: Any = transformers.PreTrainedTokenizerFast
    own = kind(tokenizer_object=backend, padding_side="right", **special)

    def tokens(texts: list[str]) -> torch.Tensor:
        encoded = own(texts, return_tensors="pt", max_length=context, padding="max_length", truncation=True)
        return encoded.input_ids  # type: ignore[no-any-return]

    def lengths(texts: list[str]) -> list[int]:
        return [len(numbers) for numbers in own(texts, truncation=False, padding=False, verbose=False).input_ids]

    return Tokenizer(context=context, tokens=tokens, lengths=lengths), own


def _token(value: object) -> str:
    """A special token's text, as a string or in transformers' longer form."""
    content = value.get("content") if isinstance(value, Mapping) else value
    return content if isinstance(content, str) else ""
