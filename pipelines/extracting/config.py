"""The YAML configuration of a batch run: unknown keys are refused, allowed values are named, paths are the file's own.

Relative paths in a configuration are relative to the file that holds them, never to the working directory.
``docs/configuration.md`` and ``docs/configuration.schema.json`` are made from these records, by ``reference.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema

from featurebank.extract import backbones as known_backbones
from featurebank.extract import datasets as known_datasets
from featurebank.pipelines.asking.option import validated
from featurebank.pipelines.asking.question import Question
from featurebank.pipelines.asking.register import find_question
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.extracting.faults import explained, parsed
from featurebank.pipelines.extracting.prompts import rooted_templates
from featurebank.store.naming import LABEL
from featurebank.store.places import expanded

__all__ = [
    "JOBS",
    "RECORDS",
    "BackboneConfig",
    "ConfigError",
    "DatasetConfig",
    "ExtractionConfig",
    "FinetuneConfig",
    "QuestionConfig",
    "RunConfig",
    "SplitConfig",
    "SubsetConfig",
    "TextsConfig",
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class _OrText(BeforeValidator):
    """What a plain string may stand for, in the JSON schema too."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(core), {"type": "string"}]}


def _short(key: str) -> BeforeValidator:
    """A plain string stands for a record with that key."""
    return _OrText(lambda value: {key: value} if isinstance(value, str) else value)


def _rooted(at_folder: Callable[[str, Path], Any]) -> AfterValidator:
    """What is, or holds, a path is taken from the folder of the context; without one it is checked alone."""

    def checked(value: Any, info: ValidationInfo) -> Any:
        folder = (info.context or {}).get("folder")
        at = at_folder(value, folder or Path())  # a variable that is not set is a fault beside the others
        return value if folder is None else at

    return AfterValidator(checked)


def _question(name: str) -> str:
    try:
        find_question(name)
    except KeyError as error:
        raise ValueError(error) from error
    return name


Place = Annotated[Path, AfterValidator(expanded), _rooted(lambda path, folder: folder / path)]
Several = _OrText(lambda value: (value,) if isinstance(value, str) else value)


class BackboneConfig(_Model):
    """A backbone. A plain string is its name."""

    name: Annotated[str, _rooted(known_backbones.rooted)]
    """As `featurebank backbones` lists them, or of [another source](backbones.md), such as `hf:FOLDER`, `onnx:FILE`."""
    checkpoint: Place | None = None
    """A local file or folder of weights instead of the published ones."""
    checkpoint_key: str = ""
    """Which of several sets of tensors in a checkpoint, such as `state_dict_ema`."""
    label: str = Field(default="", pattern=rf"^({LABEL})?$")
    """What it is called beside other checkpoints of its name, `NAME[LABEL]`; not part of the key."""
    outputs: tuple[str, ...] | None = None
    """Which outputs are stored; without it, what the backbone gives by itself."""

    @property
    def title(self) -> str:
        """What it is called before its weights are known."""
        mark = self.label or (self.checkpoint.stem if self.checkpoint else "")
        return f"{self.name}[{mark}]" if mark else self.name


class SubsetConfig(_Model):
    """A fixed part of a split."""

    size: int = Field(ge=1)
    """How many records."""
    stratified: bool = True
    """Whether classes keep their shares."""
    seed: int = 0
    """Of the draw."""


class SplitConfig(_Model):
    """A split, whole or in part. A plain string is its name."""

    split: str
    """As `featurebank datasets NAME` lists them."""
    subset: SubsetConfig | None = None
    """A part of it."""


class DatasetConfig(_Model):
    """A dataset, and the splits wanted of it."""

    name: Annotated[str, _rooted(known_datasets.rooted)]
    """As `featurebank datasets` lists them, or of [another source](datasets.md), such as `folder:PATH`."""
    splits: tuple[Annotated[SplitConfig, _short("split")], ...] = Field(min_length=1)
    """Its splits."""
    root: Place | None = None
    """The folder where its files lie."""
    label: str = ""
    """What the store calls it, instead of its name or its path's last part."""


class ExtractionConfig(_Model):
    """How features are computed."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the networks; part of the key."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of what is stored; part of the key."""
    decoder: Literal["pillow", "nvjpeg"] = "pillow"
    """What decodes and resizes images; `nvjpeg` needs a GPU; part of the key."""
    max_pixels: int | None = Field(default=None, ge=1)
    """Images of more are recorded as failed; part of the key."""
    device: str = "auto"
    """Of torch, such as `cpu` or `cuda:0`; several GPUs share the images of an extraction: `cuda:0,cuda:1`."""
    batch_size: int | None = Field(default=None, ge=1)
    """Images in a batch; without it 256 on a GPU, 16 on a CPU."""
    workers: int | None = Field(default=None, ge=1)
    """Threads that read and decode; without it, as the cores allow."""
    compile: Literal["auto", "always", "never"] = "auto"
    """`auto` lays networks out for a CPU where it pays, `always` compiles them, `never` does neither."""
    strict: bool = False
    """Whether the first image that cannot be decoded ends the run."""
    backbones_per_pass: int = Field(default=8, ge=1)
    """Networks that share each decoded image."""
    pixel_cache: Place | None = None
    """A folder for prepared pixels."""
    pixel_cache_gb: float | None = Field(default=None, gt=0)
    """That folder is not filled beyond it, in units of 1e9 bytes."""
    trust_merged: bool = False
    """Whether rows of sets that another store made are copied too, where they have the same images."""


class TextsConfig(_Model):
    """Text features of the classes, of every backbone with a text tower. A plain string is the templates."""

    templates: Annotated[str, _rooted(rooted_templates)] = "simple"
    """`simple`, `ensemble` or `openai`; or a file with a template a line, `{}` in place of the class."""
    dataset: str = ""
    """Only of this dataset, as the store calls it; without it, of each that names its classes."""
    class_names: Place | None = None
    """A file with what the classes are called in prompts, a line a class; without it, their names."""


class QuestionConfig(_Model):
    """A question to every backbone of the run, once everything is extracted."""

    question: Annotated[str, AfterValidator(_question)]
    """Its name: `linear`, `knn`, `ood` … as `featurebank --help` lists them."""
    of: Annotated[tuple[str, ...], Several] = Field(min_length=1)
    """KEYs of sets: `DATASET`, `DATASET/TEST` or `DATASET/TRAIN:TEST`; a single one may be a plain string."""
    options: dict[str, Any] = Field(default={})
    """Its options, named as in Python: `k: [5, 20]`; files are relative to the working directory."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.asked()
        return self

    def asked(self) -> Question:
        """The question.

        Raises:
            ConfigError: an option that it does not have, needs and lacks, or a value that it does not allow.
        """
        kind = find_question(self.question)
        return kind.of(validated(kind, self.options))


class _JobConfig(_Model):
    """A job on every backbone of the run, or on some."""

    of: Annotated[tuple[str, ...], Several] = Field(min_length=1)
    """KEYs of sets, as of a question."""
    backbones: Annotated[tuple[str, ...], Several] = ()
    """Only these of the run's backbones."""
    options: dict[str, Any] = Field(default={})
    """Its options, as its page in `docs/` lists them: `epochs: 3`, `seeds: [0, 1, 2]`, `on: [osbs]`."""

    question: ClassVar[str]
    """Where the question is, MODULE:CLASS below ``jobs``; imported when it is asked for."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.asked()
        return self

    def asked(self) -> Question:
        """The question.

        Raises:
            ConfigError: an option that it does not have, or a value that it does not allow.
        """
        module, _, name = self.question.partition(":")
        kind: type[Question] = getattr(import_module(f"featurebank.pipelines.jobs.{module}"), name)
        given = self.model_dump(exclude={"of", "backbones", "options"}) | self.options
        return kind.of(validated(kind, given))


class FinetuneConfig(_JobConfig):
    """A fine-tuning of every backbone of the run, or of some. A plain string is what it is of."""

    question = "finetune.question:Finetune"

    recipe: str = "lp_ft"
    """A name, as `docs/finetuning.md` lists them, or a YAML file, relative to the working directory."""


class DetectConfig(_JobConfig):
    """A detector on every backbone of the run, or on some. A plain string is what it is of, a dataset with boxes."""

    question = "detection.question:Detect"


class SegmentConfig(_JobConfig):
    """A segmenter on every backbone of the run, or on some. A plain string is what it is of, a dataset with masks."""

    question = "segmentation.question:Segment"


class RunConfig(_Model):
    """A batch run: the whole file."""

    store: Place = Field(default=Path("features"), validate_default=True)
    """The folder where features go."""
    backbones: tuple[Annotated[BackboneConfig, _short("name")], ...] = Field(min_length=1)
    """The backbones."""
    datasets: tuple[Annotated[DatasetConfig, _short("name")], ...] = Field(min_length=1)
    """The datasets."""
    extraction: ExtractionConfig = ExtractionConfig()
    """How features are computed."""
    texts: Annotated[tuple[Annotated[TextsConfig, _short("templates")], ...], Several] = ()
    """Text features of the classes, for zero-shot questions."""
    questions: tuple[QuestionConfig, ...] = ()
    """What is asked of what was extracted."""
    finetune: tuple[Annotated[FinetuneConfig, _short("of")], ...] = ()
    """What is tuned, after the questions."""
    detect: tuple[Annotated[DetectConfig, _short("of")], ...] = ()
    """Which detectors are trained and scored."""
    segment: tuple[Annotated[SegmentConfig, _short("of")], ...] = ()
    """Which segmenters are trained and scored, last."""

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
            data, faults = parsed(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: not valid YAML: {error}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"{path}: expected a mapping with backbones and datasets, found {type(data).__name__}")
        config = None
        try:
            config = cls.model_validate(data, context={"folder": path.resolve().parent})
        except ValidationError as error:
            faults += explained(error, RECORDS)
        if config is None or faults:
            raise ConfigError(f"{path}:\n" + "\n".join(f"  {line}" for line in faults))
        return config


JOBS: Final = ("finetune", "detect", "segment")
"""The sections whose entries are jobs, in the order in which a batch run does them."""

RECORDS: Final[Mapping[str, type[BaseModel]]] = MappingProxyType(
    {
        "": RunConfig,
        "backbones": BackboneConfig,
        "datasets": DatasetConfig,
        "splits": SplitConfig,
        "subset": SubsetConfig,
        "extraction": ExtractionConfig,
        "texts": TextsConfig,
        "questions": QuestionConfig,
        "finetune": FinetuneConfig,
        "detect": DetectConfig,
        "segment": SegmentConfig,
    }
)
"""The key in a configuration to the record that stands there."""
