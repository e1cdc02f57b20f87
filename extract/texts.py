"""Text features of a dataset's classes: one feature set of a row a prompt, made by a backbone's text tower.

It lies beside the backbone's image features of the dataset, as split ``texts-<name>``, and is a feature set like them:
its key has the backbone with its weights, the tokenizer, the templates and the digest of the prompts. What the model
multiplies and shifts cosines by is in the provenance.

Shapes: K classes, T templates, E dimension of the space shared with images.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from featurebank.extract import backbones
from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.backbones.text_tower import TextTower
from featurebank.extract.errors import fault
from featurebank.extract.key import backbone_key
from featurebank.extract.provenance import text_provenance
from featurebank.extract.text_sets import EMBEDDING, TEXTS
from featurebank.extract.wanted import Outcome, look
from featurebank.store import FeatureSetWriter, FeatureStore, NotFoundError, Output, Records
from featurebank.store.fingerprint import content_hash, fingerprint, records_digest

__all__ = ["Prompts", "make_texts"]

log = logging.getLogger("featurebank")

KEY_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What a text tower is told of a dataset's classes.

    Attributes:
        name: of the templates, and of the class texts where these are not the dataset's own: behind ``texts-``.
        class_names: K, as the dataset has them; may be empty where it names none.
        templates: T, each with one ``{}``.
        texts: K times T, what is read.
        rule: how class names became texts.
    """

    name: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    rule: str

    @property
    def records(self) -> Records:
        """A row for each of K * T, class by class, labelled with its class."""
        k, t = len(self.texts), len(self.templates)
        every = [text for texts in self.texts for text in texts]
        hashes = b"".join(content_hash(text.encode()) for text in every)
        return Records(
            ids=[f"{label:06}/{template:04}" for label in range(k) for template in range(t)],
            labels=np.repeat(np.arange(k), t),
            content_hash=np.frombuffer(hashes, np.uint8).reshape(-1, 16),
            columns={"prompt": np.array(every), "template": np.tile(np.arange(t), k)},
        )


def make_texts(
    specs: Sequence[BackboneSpec],
    wanted: Sequence[tuple[str, Prompts]],
    store: FeatureStore,
    *,
    device: str = "cpu",
) -> list[Outcome]:
    """The text features of some backbones, made where the store has them not; one that fails stops no other.

    Args:
        specs: backbones with text towers.
        wanted: datasets, as the store's folders are called, and what is read of their classes.
        store: where they go.
        device: of torch.
    """
    listed = [(dataset, prompts, prompts.records) for dataset, prompts in wanted]
    outcomes = []
    for spec in specs:
        tower: TextTower | None = None
        for dataset, prompts, records in listed:
            split = f"{TEXTS}{prompts.name}"
            outcome = Outcome(
                backbone=spec.name,
                dataset=dataset,
                split=split,
                fingerprint="",
                path=store.root,
                n_rows=len(records.ids),
            )
            outcomes.append(outcome)
            try:
                key = _key(spec, prompts, dataset, split, records)
                outcome.fingerprint = fingerprint(key)
                outcome.path = store.path_for(dataset, split, spec.name, outcome.fingerprint)
                look(outcome)
                if outcome.state == "missing":
                    tower = tower or backbones.text_tower(spec, device)
                    made = text_provenance(device, spec, prompts.class_names, prompts.rule)
                    _write(outcome, key, records, made, tower)
            except Exception as error:
                outcome.state, outcome.error = "failed", fault(error)
    return outcomes


def _key(spec: BackboneSpec, prompts: Prompts, dataset: str, split: str, records: Records) -> dict[str, Any]:
    backbone = backbone_key(spec)
    del backbone["preprocessing"]
    digest = records_digest(records.ids, records.labels, records.content_hash)
    return {
        "version": KEY_VERSION,
        "backbone": {**backbone, "outputs": [EMBEDDING]},
        "texts": {"templates": list(prompts.templates), "tokenizer": dict(backbones.tokenizer(spec))},
        "precision": "float32",
        "dtype": "float32",
        "dataset": {"name": dataset, "split": split, "digest": digest},
    }


def _write(
    outcome: Outcome, key: Mapping[str, Any], records: Records, made: Mapping[str, Any], tower: TextTower
) -> None:
    texts = records.columns["prompt"].tolist()
    if cut := tower.tokenizer.cut(texts):
        what = f"{cut:,} of {len(texts):,} prompts have more than {tower.tokenizer.context} tokens"
        log.warning("%s on %s/%s: %s; their ends are not read", outcome.backbone, outcome.dataset, outcome.split, what)
    try:
        writer = FeatureSetWriter.resume(outcome.path)
    except NotFoundError:
        output = Output(name=EMBEDDING, shape=tower.encode(texts[:1]).shape[1:], dtype="float32")
        told = {**made, "logit_scale": tower.logit_scale, "logit_bias": tower.logit_bias}
        writer = FeatureSetWriter.create(outcome.path, key=key, outputs=[output], records=records, provenance=told)
    with writer:
        rows = writer.chunk_rows(EMBEDDING)
        for index in np.flatnonzero(writer.pending(EMBEDDING)).tolist():
            writer.write_chunk(EMBEDDING, index, tower.encode(texts[index * rows : (index + 1) * rows]))
            writer.commit()
        writer.mark_ok(0, len(texts))
        writer.seal().close()
    outcome.state, outcome.computed = "sealed", len(texts)
