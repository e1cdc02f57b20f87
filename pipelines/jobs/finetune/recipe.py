"""A recipe: all that determines how a network is tuned, besides the network, its rows and the seed.

A recipe is a YAML file of the fields of `Recipe`; those of ``recipes/`` are known by their names. A file may also hold

- ``extends``: the name of a recipe whose values it takes where it has none;
- ``scaled``: true where its rates are those of 256 rows an update, and grow and shrink with ``batch_size``;
- fields of `Phase`, which stand for every phase, and of `Augmentation`: ``epochs: 50``, ``flip: 0``. With other
  ``epochs`` the warm-up keeps its share of them.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.extracting.faults import parsed
from featurebank.pipelines.jobs.finetune.augment import AUGMENTATIONS, Augmentation, is_auto_augment
from featurebank.pipelines.training.phase import Phase
from featurebank.store.fingerprint import record
from featurebank.store.places import expanded

__all__ = ["Recipe", "load_recipe", "plain_recipe", "recipe_names"]

ROWS_OF_A_SCALED_RATE: Final = 256


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is tuned.

    Attributes:
        name: what it is called; no part of what it is.
        phases: of training, one after the other.
        rates: candidates for the first phase's rate, of which the best on the validation rows is taken; the other
            phases' rates follow in proportion. None: the phases' own.
        head: ``probe``: the classifier begins as the store's probe (LP-FT, Kumar et al. 2022, arXiv:2202.10054);
            ``random``: at chance.
        layer_decay: rate of each layer in shares of the next one's, from the head down to the stem.
        decay_steps: how often that is applied in all; ``None`` for once a layer.
        drop_path: probability of skipping the last residual branch; earlier ones in proportion to their depth.
        batch_norm: ``eval``: batch norms keep their statistics; ``train``: they follow the batches.
        frozen_blocks: blocks that stay as they are, with the stem; -1 for all but the head.
        augmentation: of the train images; ``None`` for the pixels of extraction.
        mixup: both parameters of the beta distribution that mixup draws its weights from; 0 for none.
        cutmix: of CutMix.
        mix_prob: the share of the batches that are mixed.
        mix_switch: of those, the share that CutMix mixes, where there are both.
        smoothing: share of a target that is spread over all classes.
        loss: ``ce``: cross-entropy, one class a row; ``bce``: binary cross-entropy of each output.
        unknown: what the label -1 counts as where a row has several: ``ignore`` leaves it out, ``zero``, ``one``.
        unknown_ones: names of labels whose -1 counts as 1 whatever ``unknown`` says.
        ema: decay of an average of the weights; 0 for none.
        clip: the largest norm of all gradients together; 0 for none.
        batch_size: rows of one update.
        label_fraction: the share of the train rows that is used, of each class.
        shots: train rows of each class that are used, instead.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")  # of the records within it as well

    name: str = field(compare=False)
    phases: tuple[Phase, ...]
    rates: tuple[float, ...] = ()
    head: Literal["probe", "random"] = "probe"
    layer_decay: float = 1.0
    decay_steps: float | None = None
    drop_path: float = 0.0
    batch_norm: Literal["eval", "train"] = "eval"
    frozen_blocks: int = 0
    augmentation: Augmentation | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0
    mix_switch: float = 0.5
    smoothing: float = 0.0
    loss: Literal["ce", "bce"] = "ce"
    unknown: Literal["ignore", "zero", "one"] = "ignore"
    unknown_ones: tuple[str, ...] = ()
    ema: float = 0.0
    clip: float = 0.0
    batch_size: int = 32
    label_fraction: float = 1.0
    shots: int | None = None

    def __post_init__(self) -> None:
        if faults := list(_faults(self)):
            raise ValueError("\n".join(faults))

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with one another."""
        return bool(self.mix_prob and (self.mixup or self.cutmix))

    def at_rate(self, rate: float) -> Recipe:
        """With another rate of the first phase, and those of the others in proportion; nothing is left to choose.

        >>> [phase.rate for phase in load_recipe("two_phase").at_rate(1e-4).phases]
        [0.0001, 0.0001]
        """
        first = self.phases[0].rate
        phases = tuple(replace(phase, rate=rate * (phase.rate / first)) for phase in self.phases)
        return replace(self, phases=phases, rates=())


def plain_recipe(recipe: Recipe) -> dict[str, Any]:
    """What is not at its default, as plain JSON, without the name: the same for two recipes that do the same.

    >>> plain_recipe(Recipe(name="short", phases=(Phase(epochs=2),)))
    {'phases': [{'epochs': 2}]}
    """
    plain: dict[str, Any] = record(recipe)
    return plain


def recipe_names() -> list[str]:
    """The recipes known by name.

    >>> recipe_names()
    ['bob', 'chexpert', 'lp_ft', 'mae', 'mae_large', 'semi', 'two_phase', 'visda']
    """
    return sorted(file.name.removesuffix(".yaml") for file in _packaged().iterdir() if file.name.endswith(".yaml"))


def load_recipe(name: str, **overrides: Any) -> Recipe:
    """A recipe by its name or from a YAML file, with other values in place of its own.

    Args:
        name: one of `recipe_names`, or a file that ends in ``.yaml``.
        overrides: as in a file, of the module's docstring; but ``rate`` and ``rates`` are never scaled.

    Raises:
        ConfigError: there is no such recipe, or what is wrong with it, all of it.

    >>> recipe = load_recipe("lp_ft", epochs=2, batch_size=16)
    >>> recipe.name, recipe.batch_size, recipe.phases[0].epochs, recipe.phases[0].warmup_epochs
    ('lp_ft', 16, 2, 0.2)
    """
    data = _values(name)
    scaled = data.pop("scaled", False)
    if not isinstance(scaled, bool):
        raise ConfigError(f"recipe {name}: scaled must be true or false; found {scaled!r}")
    of_all = {key: data.pop(key) for key in [*data] if key in (*_PHASE, *_AUGMENTATION)}
    rates = {key: overrides.pop(key) for key in [*overrides] if key in ("rate", "rates")}
    recipe = _overridden(_overridden(_valid(name, data), of_all), overrides)
    if scaled:
        share = recipe.batch_size / ROWS_OF_A_SCALED_RATE
        phases = tuple(replace(phase, rate=phase.rate * share) for phase in recipe.phases)
        recipe = replace(recipe, phases=phases, rates=tuple(rate * share for rate in recipe.rates))
    return _overridden(recipe, rates)


def _packaged() -> Any:
    return resources.files("featurebank.pipelines.jobs.finetune") / "recipes"


def _values(name: str) -> dict[str, Any]:
    """What a recipe's file holds, over what it extends."""
    if name in recipe_names():
        text, called = (_packaged() / f"{name}.yaml").read_text(encoding="utf-8"), name
    elif name.endswith((".yaml", ".yml")):
        text, called = _text_of(expanded(name)), Path(name).stem
    else:
        close = "".join(f"did you mean {one!r}? " for one in difflib.get_close_matches(name, recipe_names(), n=1))
        raise ConfigError(
            f"a recipe must be one of {', '.join(recipe_names())}, or a file that ends in .yaml; found {name!r}; "
            f"{close}give one of them"
        )
    try:
        data, twice = parsed(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe {name}: it must be YAML; found: {error}") from error
    if twice:
        raise ConfigError(_told(name, twice))
    if not isinstance(data, dict):
        raise ConfigError(f"recipe {name}: it must be a mapping with keys of {', '.join(_FIELDS)}; found {data!r}")
    below = data.pop("extends", None)
    if below is None:
        return {**data, "name": called}
    if below not in recipe_names() or below == called:
        raise ConfigError(f"recipe {name}: extends must be one of {', '.join(recipe_names())}; found {below!r}")
    return {**_values(below), **data, "name": called}


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"recipe {path}: expected a YAML file, which cannot be read: {error}") from error


def _overridden(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """A recipe with other values, those of phases in every phase."""
    values = dataclasses.asdict(recipe)
    for key, value in sorted(overrides.items()):  # so epochs come before what depends on them
        if key in _PHASE:
            for phase in values["phases"]:
                if key == "epochs" and isinstance(value, int):
                    phase["warmup_epochs"] *= value / phase["epochs"]
                phase[key] = value
        elif key in _AUGMENTATION:
            below = values["augmentation"]
            named = {"extends": below} if isinstance(below, str) else below or {}
            values["augmentation"] = {**named, key: value}
        else:
            values[key] = value
    return _valid(recipe.name, values) if overrides else recipe


def _valid(name: str, data: Mapping[str, Any]) -> Recipe:
    faults: list[str] = []
    values = {**data, "augmentation": _augmentation(data.get("augmentation"), faults)}
    try:
        recipe = TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        typed = [line for line in _explained(error) if line not in faults]
        faults += [*typed, *(line for line in _out_of_range(values) if line not in typed)]
    if faults:
        raise ConfigError(_told(name, faults))
    return recipe


def _augmentation(given: Any, faults: list[str]) -> Any:
    """The record, or its values, of an augmentation that is given by its name, or extends one of a name."""
    named = {"extends": given} if isinstance(given, str) else given
    if not isinstance(named, dict) or "extends" not in named:
        return given
    below = named["extends"]
    if below not in AUGMENTATIONS:
        faults.append(f"augmentation: it must be one of {', '.join(AUGMENTATIONS)} or a mapping; found {below!r}")
        return None
    known, own = AUGMENTATIONS[below], {key: value for key, value in named.items() if key != "extends"}
    return {**dataclasses.asdict(known or Augmentation()), **own} if own else known


def _told(name: str, faults: list[str]) -> str:
    return "\n  ".join([f"recipe {name}:", *faults])


def _explained(error: ValidationError) -> Iterator[str]:
    """A line for each thing that does not fit."""
    for problem in error.errors():
        loc = problem["loc"]
        place = ".".join(map(str, loc))
        if problem["type"] == "unexpected_keyword_argument":
            known = {"phases": _PHASE, "augmentation": _AUGMENTATION}.get(str(loc[0]) if loc[1:] else "", _FIELDS)
            meant = known if loc[1:] else (*known, *_PHASE, *_AUGMENTATION)
            close = difflib.get_close_matches(str(loc[-1]), meant, n=1)
            advice = f"did you mean {close[0]!r}? " if close else ""
            yield f"{place}: unknown key; {advice}known keys: {', '.join(known)}"
        elif problem["type"] == "missing":
            yield f"{place}: required, and missing"
        elif problem["type"] == "value_error":
            yield from str(problem["ctx"]["error"]).splitlines()
        else:
            yield f"{place}: {problem['msg']}; found {problem['input']!r}"


def _names(kind: type) -> tuple[str, ...]:
    return tuple(one.name for one in dataclasses.fields(kind) if one.name != "name")


_PHASE, _AUGMENTATION = _names(Phase), _names(Augmentation)
_FIELDS: Final = ("extends", "scaled", *_names(Recipe))

_RANGES: Final[Mapping[str, tuple[str, Callable[[float], bool]]]] = {
    name: (words, holds)
    for words, names, holds in (
        ("above 0", "rate rates decay_steps ratio", lambda value: 0 < value < math.inf),
        ("at least 0", "weight_decay warmup_epochs mixup cutmix clip jitter", lambda value: 0 <= value < math.inf),
        ("at least 1", "epochs patience batch_size shots", lambda value: value >= 1),
        ("at least -1", "frozen_blocks", lambda value: value >= -1),
        ("above 0 and at most 1", "layer_decay label_fraction scale steps", lambda value: 0 < value <= 1),
        ("from 0 to 1", "floor warmup_rate mix_prob mix_switch flip erase", lambda value: 0 <= value <= 1),
        ("at least 0 and below 1", "momentum betas drop_path smoothing ema shift", lambda value: 0 <= value < 1),
    )
    for name in names.split()
}


def _out_of_range(values: Any, key: str = "", place: str = "") -> Iterator[str]:
    """A line for each number of a record's plain values that is out of its range."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _out_of_range(value, str(name), f"{place}.{name}".strip("."))
    elif isinstance(values, list | tuple):
        for index, value in enumerate(values):
            yield from _out_of_range(value, key, f"{place}.{index}")
    elif key in _RANGES and isinstance(values, int | float):
        words, holds = _RANGES[key]
        if not holds(values):
            yield f"{place}: it must be {words}; found {values!r}"


def _faults(recipe: Recipe) -> Iterator[str]:
    """A line for each thing that is wrong with a recipe whose values have the right types."""
    yield from _out_of_range(dataclasses.asdict(recipe))
    if not recipe.phases:
        yield "phases: there must be at least one; found none"
    for index, phase in enumerate(recipe.phases):
        if phase.warmup_epochs > phase.epochs:
            yield f"phases.{index}.warmup_epochs: at most epochs, {phase.epochs}; found {phase.warmup_epochs:g}"
    images = recipe.augmentation
    if images is not None:
        for name, range_ in (("scale", images.scale), ("ratio", images.ratio)):
            if range_ is not None and range_[0] > range_[1]:
                yield f"augmentation.{name}: the smaller number must stand first; found {list(range_)}"
        if images.auto_augment and not is_auto_augment(images.auto_augment):
            yield (
                "augmentation.auto_augment: it must be of timm's form for RandAugment, such as rand-m9-mstd0.5-inc1; "
                f"found {images.auto_augment!r}"
            )
    if recipe.mixes and recipe.batch_size % 2:
        yield f"batch_size: it must be even where images are mixed in pairs; found {recipe.batch_size}"
    if recipe.shots is not None and recipe.label_fraction < 1:
        yield "shots: they stand in place of a label_fraction; found both: leave one out"
