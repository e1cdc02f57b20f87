"""Text features in a batch run: of the classes of what it has opened, for the backbones that have text towers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence

from featurebank.extract.backbones import has_texts
from featurebank.extract.datasets import label_of
from featurebank.extract.datasets.contract import Split
from featurebank.extract.text_sets import EMBEDDING, TEXTS
from featurebank.extract.texts import Prompts, make_texts
from featurebank.extract.wanted import Outcome, Wanted
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.extracting.config import TextsConfig
from featurebank.pipelines.extracting.prompts import make_prompts, prompts_name, read_templates
from featurebank.store import FeatureStore

__all__ = ["make_run_texts", "text_places"]

log = logging.getLogger("featurebank")


def text_places(texts: Sequence[TextsConfig], datasets: Collection[str]) -> set[tuple[str, str]]:
    """Dataset and split of the text features that a run will make.

    Raises:
        ConfigError: a dataset that is none of the run's, templates that cannot be used, or two texts of one name.
    """
    places: set[tuple[str, str]] = set()
    for index, one in enumerate(texts):
        if one.dataset and one.dataset not in datasets:
            known = ", ".join(sorted(datasets))
            raise ConfigError(f"texts.{index}.dataset: {one.dataset!r} is none of this run's datasets: {known}")
        try:
            read_templates(one.templates)
        except ConfigError as error:
            raise ConfigError(f"texts.{index}.templates: {error}") from error
        split = f"{TEXTS}{prompts_name(one.templates, one.class_names)}"
        own = {(dataset, split) for dataset in ([one.dataset] if one.dataset else datasets)}
        if twice := places & own:
            raise ConfigError(f"texts.{index}: {'/'.join(min(twice))} is made by another of the texts; keep one")
        places |= own
    return places


def make_run_texts(
    texts: Sequence[TextsConfig],
    wanted: Sequence[Wanted],
    splits: Sequence[Split],
    store: FeatureStore,
    *,
    unavailable: dict[str, str],
    device: str,
) -> list[Outcome]:
    """What became of the text features of a run; what cannot be made of a dataset's classes is said as unavailable.

    Args:
        texts: what is asked for.
        wanted: the feature sets of images, which say what their backbones are called.
        splits: the opened splits.
        store: where they go.
        unavailable: gets a line for each dataset whose classes give no texts.
        device: of torch.
    """
    if not texts:
        return []
    backbones = {w.request.backbone: w.outcome.backbone for w in wanted}
    able = {spec: name for spec, name in backbones.items() if EMBEDDING in spec.outputs and has_texts(spec.name)}
    if not able:
        unavailable["texts"] = f"none of the run's backbones has the output {EMBEDDING} and a text tower"
        return []
    prompts = [*_prompts(texts, _named_classes(splits), unavailable)]
    outcomes = make_texts([*able], prompts, store, device=device)
    names = [name for name in able.values() for _ in prompts]
    for outcome, name in zip(outcomes, names, strict=True):
        outcome.backbone = name
        if outcome.error:
            log.error("%s on %s/%s failed; why stands at the end", name, outcome.dataset, outcome.split)
    return outcomes


def _prompts(
    texts: Sequence[TextsConfig], classes: Mapping[str, set[tuple[str, ...]]], unavailable: dict[str, str]
) -> Iterator[tuple[str, Prompts]]:
    for one in texts:
        for dataset, several in classes.items():
            if one.dataset not in ("", dataset) or (not several and not one.dataset):
                continue
            try:
                if len(several) > 1:
                    raise ConfigError("its splits must name the same classes; found different ones")
                (names,) = several or {()}
                yield dataset, make_prompts(names, templates=one.templates, classes=one.class_names)
            except ConfigError as error:
                unavailable[f"texts of {dataset}"] = str(error)


def _named_classes(splits: Sequence[Split]) -> dict[str, set[tuple[str, ...]]]:
    """The class names of each dataset, as its splits have them."""
    classes: dict[str, set[tuple[str, ...]]] = {}
    for split in splits:
        names = tuple(split.class_names)
        classes.setdefault(label_of(split.spec), set()).update([names] if names else [])
    return classes
