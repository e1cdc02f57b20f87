"""Where logits come from: the backbone's own classifier or a probe, and the training sets that scores are fitted on.

Shapes: N rows, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.inputs import Rows, SplitRows, vectors
from featurebank.pipelines.questions.linear import fit_rows
from featurebank.probes._rows import row_slices
from featurebank.probes.choice import CS, Choice
from featurebank.probes.numbering import doubt
from featurebank.probes.ood.head import Head
from featurebank.probes.ood.statistics import TrainingSet
from featurebank.store import FeatureSet

__all__ = ["Classifier", "find_classifier", "has_classes", "missing", "rows_with_classes", "training_sets"]

LOGITS = "logits"
JUDGED = 20_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """What gives logits.

    Attributes:
        source: ``own``, ``probe``, or empty where there is none.
        head: its weights; None where the backbone's logits are stored without them, or there is none.
        stored: whether logits are read from the store instead of computed.
        n_classes: K; 0 where there is none.
        classes: (K,) the label that each logit stands for; None where they are not the labels of the train rows.
        chosen: how the probe was made, or where the logits are from; plain JSON.
        lacking: why there are no weights.
        choices: of the probe, for `featurebank.probes.choice.edge_notes`.
        doubt: why the backbone's own classifier, of as many classes as the train rows, is not taken to have these.
    """

    source: Literal["own", "probe", ""] = ""
    head: Head | None = None
    stored: bool = False
    n_classes: int = 0
    classes: NDArray[np.int64] | None = None
    chosen: Mapping[str, Any] = field(default_factory=dict)
    lacking: str = ""
    choices: tuple[Choice, ...] = ()
    doubt: str = ""

    def stored_logits(self, split: SplitRows) -> NDArray[np.floating] | None:
        """(N, K) as they are in the file, a view where no row is left out; None where they are to be computed."""
        if not self.stored:
            return None
        with FeatureSet(split.path) as feature_set:
            logits = feature_set[LOGITS]
            return logits if len(split.rows) == split.total else logits[split.rows]

    def logits(self, split: SplitRows) -> NDArray[np.floating]:
        """(N, K), float32 where they are computed."""
        stored = self.stored_logits(split)
        if stored is not None:
            return stored
        assert self.head is not None  # noqa: S101 - asked only of a classifier
        weight, bias = (np.asarray(part, np.float64) for part in (self.head.weight, self.head.bias))
        found = np.empty((len(split.features), len(bias)), np.float32)
        for block in row_slices(*split.features.shape):
            found[block] = split.features[block].astype(np.float64) @ weight.T + bias
        return found

    def predict(self, split: SplitRows) -> NDArray[np.int64]:
        """The label of the greatest logit of each row (N,)."""
        assert self.classes is not None  # noqa: S101 - asked only where logits stand for labels
        logits = self.logits(split)
        found = np.empty(len(logits), np.int64)
        for block in row_slices(*logits.shape):
            found[block] = self.classes[logits[block].argmax(1)]
        return found


def rows_with_classes(split: SplitRows) -> SplitRows:
    """The rows that have a class; all of them where none has one, for the scores that need no classes.

    Raises:
        ValueError: no row, or features that are no vectors.
    """
    vectors(split)
    some = split.labels.ndim == 1 and bool((split.labels >= 0).any())
    return split.where(split.labels >= 0) if some else split


def has_classes(split: SplitRows) -> bool:
    """Whether every row has one class."""
    return split.labels.ndim == 1 and bool((split.labels >= 0).all())


def find_classifier(
    rows: Rows,
    train: SplitRows,
    validation: SplitRows | None,
    *,
    wanted: Literal["own", "probe"] | None,
    output: str,
    seed: int,
    device: str,
) -> Classifier:
    """The backbone's own classifier or a logistic probe; of itself its own, if it has the train rows' classes.

    A store has no names of a classifier's classes. As many as the dataset's may still be others, or in another order,
    so the train rows must say that they are the same: see `featurebank.probes.numbering.doubt`. One asked for is taken
    to have them, in their order, whatever the rows say.

    Where neither can be had and none was asked for, there is none, and `Classifier.lacking` says why.

    Args:
        rows: of all sets.
        train: those to fit on, `rows_with_classes`.
        validation: those to choose on.
        wanted: which; None to choose.
        output: that is read; a backbone's own classifier reads ``pooled``.
        seed: of the probe's validation rows.
        device: of torch.

    Raises:
        ValueError: what was asked for cannot be had.
    """
    own = _own(rows, train) if output == "pooled" else None
    if wanted == "own" and own is None:
        raise ValueError(
            f"{rows.backbone} has no classifier of its own for {output!r} in the store; leave out --head own"
        )
    fits = own is not None and (own.classes is not None or not has_classes(train))
    if own is not None and wanted == "own":
        return replace(own, classes=np.arange(own.n_classes)) if own.doubt else own
    if own is not None and wanted is None and fits:
        return own
    if not has_classes(train) or len(np.unique(train.labels)) < 2:
        found = "one class" if has_classes(train) else "none"
        reason = f"a probe needs at least two classes in {train.name}; found {found}"
        if wanted == "probe":
            raise ValueError(reason)
        return Classifier(lacking=reason)
    return replace(_probe(train, validation, seed, device), doubt="" if own is None else own.doubt)


def training_sets(
    train: SplitRows,
    validation: SplitRows | None,
    classifier: Classifier,
    device: str,
    text: NDArray[np.floating] | None = None,
) -> list[TrainingSet]:
    """What scores are fitted on: one set, or one with the logits and one with the labels where they do not match."""
    logits, head = classifier.stored_logits(train), classifier.head
    if not has_classes(train):
        return [TrainingSet(train.features, logits=logits, head=head, text=text, device=device)]
    if classifier.classes is None:
        own = [TrainingSet(train.features, logits=logits, head=head, device=device)] if classifier.source else []
        labels = np.unique(train.labels, return_inverse=True)[1]
        return [*own, TrainingSet(train.features, labels, text=text, device=device)]
    held = None
    if validation is not None:
        known = validation.where(np.isin(validation.labels, classifier.classes))
        if len(known.labels):
            held = classifier.logits(known), np.searchsorted(classifier.classes, known.labels)
    labels = np.searchsorted(classifier.classes, train.labels)
    return [TrainingSet(train.features, labels, logits=logits, head=head, text=text, validation=held, device=device)]


def missing(need: str, *, train: SplitRows, classifier: Classifier) -> str:
    """What to say of a score whose need (see `OODScore.needs`) is not met."""
    if need == "text":
        return "it needs text embeddings of the class names"
    if need == "labels" and not has_classes(train):
        return f"{train.name} has no classes"
    if need == "labels":
        found = f"the head's {classifier.n_classes:,} classes are not those of {train.name}"
        return found + (f": {classifier.doubt}" if classifier.doubt else "")
    return classifier.lacking


def _own(rows: Rows, train: SplitRows) -> Classifier | None:
    stored = all(_has_logits(split) for splits in rows.sets.values() for split in splits)
    if rows.head is None and not stored:
        return None
    head = None if rows.head is None else Head(*rows.head)
    with FeatureSet(rows.test.path) as feature_set:
        k = len(head.weight) if head else int(feature_set[LOGITS].shape[1])
    own = Classifier(
        source="own",
        head=head,
        stored=stored,
        n_classes=k,
        chosen={"head": "own", "logits": "stored" if stored else "head"},
        lacking="" if head else f"{rows.backbone} has logits in the store, and no weights",
    )
    if not has_classes(train) or k != (len(train.class_names) or int(train.labels.max()) + 1):
        return own
    judged, named = _some(train), replace(own, classes=np.arange(k))
    reason = doubt(judged.labels, named.predict(judged), k)
    return replace(own, doubt=reason) if reason else named


def _some(train: SplitRows) -> SplitRows:
    """At most `JUDGED` rows, evenly from all classes."""
    order = np.argsort(train.labels, kind="stable")
    chosen = np.zeros(len(order), bool)
    chosen[order[np.linspace(0, len(order) - 1, min(len(order), JUDGED), dtype=np.intp)]] = True
    return train.where(chosen)


def _probe(train: SplitRows, validation: SplitRows | None, seed: int, device: str) -> Classifier:
    fit = fit_rows(train, validation, protocol="logistic", cs=CS, seed=seed, device=device)
    weight, bias = fit.model.coef_, fit.model.intercept_
    if len(fit.classes) == 2:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return Classifier(
        source="probe",
        head=Head(weight, bias, "probe"),
        n_classes=len(fit.classes),
        classes=fit.classes,
        chosen={"head": "probe", "logits": "head", **fit.chosen},
        choices=tuple(replace(choice, name=f"{choice.name} of the probe") for choice in fit.choices),
    )


def _has_logits(split: SplitRows) -> bool:
    with FeatureSet(split.path) as feature_set:
        return LOGITS in feature_set.outputs and len(feature_set.info(LOGITS).shape) == 1
