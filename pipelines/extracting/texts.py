"""``featurebank texts``: text features of a dataset's classes, for the backbones that have text towers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.stores import DEFAULT_STORE, StoreOption, existing_store
from featurebank.pipelines.streams import JsonOption, console, print_json, show_messages
from featurebank.store.text import shown

if TYPE_CHECKING:
    from featurebank.extract.backbones.contract import BackboneSpec
    from featurebank.store import Entry

__all__ = ["texts"]

FOLDER = "hf:"


def texts(  # noqa: PLR0917 - one for each option
    dataset: Annotated[str, typer.Argument(help="DATASET, as ls lists it; DATASET/SPLIT where splits name others.")],
    backbone: Annotated[
        list[str] | None, typer.Argument(help="Of the store; without one, all that have text towers.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    templates: Annotated[
        str,
        typer.Option(metavar="NAME|FILE", help="simple, ensemble or openai; or a file with a template a line."),
    ] = "simple",
    classes: Annotated[
        Path | None,
        typer.Option(
            "--class-names", exists=True, dir_okay=False, help="What the classes are called in prompts, a line a class."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(exists=True, help="The weights, where the images' were given by a file.")
    ] = None,
    checkpoint_key: Annotated[str, typer.Option(help="Which of several sets of tensors in it.")] = "",
    device: Annotated[str, typer.Option(help="Of torch, such as cpu or cuda.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write the text features of a dataset's classes beside its image features, for zero-shot questions."""
    from featurebank.extract.device import resolve_device
    from featurebank.extract.errors import ExtractError, fault
    from featurebank.extract.texts import make_texts
    from featurebank.pipelines.extracting.command import outcome_json
    from featurebank.pipelines.extracting.display import outcome_table
    from featurebank.pipelines.extracting.prompts import make_prompts
    from featurebank.store import StoreError

    show_messages(console(stderr=True))
    features = existing_store(store)
    entries = _image_sets(features.ls(), dataset)
    prompts = make_prompts(_class_names(entries), templates=templates, classes=classes)
    able = _with_towers(entries, backbone or (), dataset)
    if checkpoint is not None and len(backbone or able) > 1:
        raise ConfigError(f"--checkpoint is of one backbone; name it: found {', '.join(backbone or able)}")
    specs: dict[str, BackboneSpec] = {}
    faults: dict[str, str] = {}
    for name in dict.fromkeys(backbone or sorted(able)):
        try:
            called, spec = _spec(name, able, checkpoint, checkpoint_key)
            specs[called] = spec
        except (ExtractError, StoreError, OSError, ValueError) as error:
            faults[name] = fault(error)
    outcomes = make_texts([*specs.values()], [(entries[0].dataset, prompts)], features, device=resolve_device(device))
    for outcome, name in zip(outcomes, specs, strict=True):
        outcome.backbone = name
    faults |= {outcome.backbone: outcome.error for outcome in outcomes if outcome.error}
    if as_json:
        print_json({"sets": [outcome_json(outcome) for outcome in outcomes], "failed": faults})
    else:
        screen = console()
        if outcomes:
            screen.print(outcome_table(outcomes))
        for name, reason in faults.items():
            screen.print(Text.assemble("  ", (shown(name), "red"), f": {reason}"), soft_wrap=True)
    if faults:
        raise typer.Exit(1)


def _image_sets(entries: Iterable[Entry], dataset: str) -> list[Entry]:
    """The sealed sets of images of DATASET or DATASET/SPLIT, of each the newest content.

    Raises:
        UnknownNameError: there is none.
    """
    from featurebank.extract.text_sets import is_texts
    from featurebank.store.entries import newest_contents
    from featurebank.store.errors import unknown_name

    entries = [*entries]
    own = newest_contents([e for e in entries if dataset in (e.dataset, f"{e.dataset}/{e.split}")])
    images = []
    for entry in own:
        with entry.open() as feature_set:
            if not is_texts(feature_set.key):
                images.append(entry)
    if not images:
        hint = "; its images are extracted first: featurebank features CONFIG"
        raise unknown_name("dataset", dataset, {entry.dataset for entry in entries}, hint)
    return images


def _class_names(entries: Sequence[Entry]) -> list[str]:
    """Of the sets of a dataset, where these agree; none where they name none."""
    named: dict[tuple[str, ...], str] = {}
    for entry in entries:
        with entry.open() as feature_set:
            if names := tuple(feature_set.class_names):
                named.setdefault(names, f"{entry.dataset}/{entry.split}")
    if len(named) > 1:
        (first, one), (second, two) = [*named.items()][:2]
        few = " and ".join(f"{len(names)} in {place}" for names, place in ((first, one), (second, two)))
        raise ConfigError(f"the splits of {entries[0].dataset} must name the same classes; found {few}; name one split")
    return [*next(iter(named), ())]


def _with_towers(entries: Sequence[Entry], wanted: Sequence[str], dataset: str) -> dict[str, Entry]:
    """What the backbones are called to a set of each that lies in one space with texts.

    Raises:
        UnknownNameError: a backbone has no set of the dataset.
        ConfigError: none has a set in the space of texts, or not one that is asked for.
    """
    from featurebank.extract.backbones import has_texts
    from featurebank.extract.text_sets import EMBEDDING
    from featurebank.store.errors import unknown_name

    able: dict[str, Entry] = {}
    for entry in entries:
        if EMBEDDING in {output.name for output in entry.outputs} and has_texts(entry.backbone):
            able.setdefault(entry.name, entry)
    names = {entry.name for entry in entries}
    for name in wanted:
        if name not in names and not name.startswith(FOLDER):
            raise unknown_name(f"backbone of {dataset}", name, names)
    lacking = [name for name in wanted or sorted(names) if name not in able and name in names]
    if lacking if wanted else not able:
        raise ConfigError(
            f"texts are for backbones with a text tower, whose sets have the output {EMBEDDING}, such as "
            f"open_clip:ViT-B-16/openai; found {', '.join(lacking)}"
        )
    return able


def _spec(
    name: str, able: Mapping[str, Entry], checkpoint: Path | None, checkpoint_key: str
) -> tuple[str, BackboneSpec]:
    """What a backbone is called, and its spec, of the very weights that made its sets.

    Raises:
        ConfigError: these are other weights, or lie in a folder that a store does not name.
    """
    from featurebank.extract import backbones

    there = able.get(name)
    if there is not None and there.backbone.startswith(FOLDER):
        raise ConfigError(f"{name}: a store does not say where the folder is; name it: {FOLDER}PATH")
    reference = there.backbone if there else name
    spec = backbones.resolve(reference, checkpoint=checkpoint, checkpoint_key=checkpoint_key)
    networks = {entry.network: entry.name for entry in able.values() if entry.network and entry.backbone == spec.name}
    for network, called in networks.items():
        if network.weights == spec.weights.identity:
            return called, replace(spec, label=network.label)
    made = ", ".join(network.weights[:16] for network in networks) or "none in the space of texts"
    raise ConfigError(
        f"{name}: expected the weights of its sets, {made}; found {spec.weights.identity[:16]}; "
        "name their file with --checkpoint"
    )
