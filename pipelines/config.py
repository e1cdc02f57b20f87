"""The YAML configuration of a batch run: unknown keys are refused, allowed values are named, paths are the file's own.

Relative paths in a configuration are relative to the file that holds them, never to the working directory.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from featurebank.extract import backbones as known_backbones
from featurebank.extract.datasets import rooted
from featurebank.store.naming import LABEL

__all__ = [
    "BackboneConfig",
    "ConfigError",
    "DatasetConfig",
    "ExtractionConfig",
    "ProbeConfig",
    "RunConfig",
    "SplitConfig",
]


class ConfigError(ValueError):
    """A configuration that cannot be used: where, what was expected, what was found."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _split(value: object) -> object:
    return {"split": value} if isinstance(value, str) else value


class BackboneConfig(_Model):
    """A backbone by name, with what may be chosen about it. A plain string is its name.

    ``checkpoint_key`` chooses where a checkpoint holds several sets of tensors, as ``state_dict_ema``.
    ``label`` is what it is called beside other checkpoints of its name, ``NAME[LABEL]``; it is not part of the key.
    """

    name: str
    checkpoint: Path | None = None
    checkpoint_key: str = ""
    label: str = Field(default="", pattern=rf"^({LABEL})?$")
    outputs: tuple[str, ...] | None = None

    @property
    def title(self) -> str:
        """What it is called before its weights are known."""
        mark = self.label or (self.checkpoint.stem if self.checkpoint else "")
        return f"{self.name}[{mark}]" if mark else self.name


class SubsetConfig(_Model):
    """A fixed part of a split."""

    size: int = Field(ge=1)
    stratified: bool = True
    seed: int = 0


class SplitConfig(_Model):
    """A split by name, whole or in part. A plain string is its name."""

    split: str
    subset: SubsetConfig | None = None


class DatasetConfig(_Model):
    """A dataset by name or path, and the splits wanted of it."""

    name: str
    splits: tuple[Annotated[SplitConfig, BeforeValidator(_split)], ...] = Field(min_length=1)
    root: Path | None = None
    label: str = ""


class ExtractionConfig(_Model):
    """How features are computed.

    ``precision``, ``dtype``, ``decoder`` and ``max_pixels`` are part of the key, the rest is not.
    ``decoder`` is what decodes and resizes, see ``featurebank.extract.preprocessing.Decode``; ``nvjpeg`` needs a GPU.
    Images of more than ``max_pixels`` are recorded as failed.
    ``pixel_cache`` is a folder of prepared pixels, not filled beyond ``pixel_cache_gb``, in units of 1e9 bytes.
    ``trust_merged`` copies rows of sets that another store made too, where they have the same images.
    """

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    dtype: Literal["float16", "float32"] = "float16"
    decoder: Literal["pillow", "nvjpeg"] = "pillow"
    max_pixels: int | None = Field(default=None, ge=1)
    device: str = "auto"
    batch_size: int | None = Field(default=None, ge=1)
    workers: int | None = Field(default=None, ge=1)
    compile: Literal["auto", "always", "never"] = "auto"
    strict: bool = False
    backbones_per_pass: int = Field(default=8, ge=1)
    pixel_cache: Path | None = None
    pixel_cache_gb: float | None = Field(default=None, gt=0)
    trust_merged: bool = False


class ProbeConfig(_Model):
    """A linear probe of every backbone: fitted on one split, its C chosen on a part of it, scored on another."""

    train: str
    test: str
    output: str = "pooled"


class RunConfig(_Model):
    """A batch run."""

    store: Path = Path("features")
    backbones: tuple[Annotated[BackboneConfig, BeforeValidator(_named)], ...] = Field(min_length=1)
    datasets: tuple[Annotated[DatasetConfig, BeforeValidator(_named)], ...] = Field(min_length=1)
    extraction: ExtractionConfig = ExtractionConfig()
    probes: tuple[ProbeConfig, ...] = ()

    @classmethod
    def read(cls, path: Path) -> RunConfig:
        """Reads and validates a file; relative paths in it become relative to its folder.

        Raises:
            ConfigError: the file cannot be read, is no YAML, or does not fit; every misfit is listed.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: the configuration cannot be read: {error}") from error
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: not valid YAML: {error}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"{path}: expected a mapping with backbones and datasets, found {type(data).__name__}")
        try:
            config = cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(f"{path}:\n" + "\n".join(f"  {line}" for line in _explained(error))) from error
        return config.rooted(path.resolve().parent)

    def rooted(self, folder: Path) -> RunConfig:
        """The same with every relative path taken from ``folder``."""
        backbones = tuple(_rooted_backbone(b, folder) for b in self.backbones)
        datasets = tuple(_rooted_dataset(d, folder) for d in self.datasets)
        extraction = self.extraction
        if extraction.pixel_cache is not None:
            cache = folder / extraction.pixel_cache.expanduser()
            extraction = extraction.model_copy(update={"pixel_cache": cache})
        update = {"backbones": backbones, "datasets": datasets, "extraction": extraction}
        return self.model_copy(update={"store": folder / self.store, **update})


def _rooted_backbone(backbone: BackboneConfig, folder: Path) -> BackboneConfig:
    update: dict[str, Any] = {"name": known_backbones.rooted(backbone.name, folder)}
    if backbone.checkpoint is not None:
        update["checkpoint"] = folder / backbone.checkpoint
    return backbone.model_copy(update=update)


def _rooted_dataset(dataset: DatasetConfig, folder: Path) -> DatasetConfig:
    update: dict[str, Any] = {"name": rooted(dataset.name, folder)}
    if dataset.root is not None:
        update["root"] = folder / dataset.root.expanduser()
    return dataset.model_copy(update=update)


def _explained(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            fields = _fields_at(problem["loc"][:-1])
            close = difflib.get_close_matches(str(problem["loc"][-1]), fields, n=1)
            advice = f"did you mean {close[0]!r}?" if close else ""
            yield f"{place}: unknown key; {advice} known keys: {', '.join(fields)}".replace(";  ", "; ")
        elif problem["type"] == "missing":
            yield f"{place}: required, and missing"
        else:
            yield f"{place}: {problem['msg']}, found {problem['input']!r}"


_PLACES: dict[str, type[BaseModel]] = {
    "backbones": BackboneConfig,
    "datasets": DatasetConfig,
    "splits": SplitConfig,
    "subset": SubsetConfig,
    "extraction": ExtractionConfig,
    "probes": ProbeConfig,
}


def _fields_at(loc: tuple[str | int, ...]) -> list[str]:
    names = [part for part in loc if isinstance(part, str) and part in _PLACES]
    return list((_PLACES[names[-1]] if names else RunConfig).model_fields)
