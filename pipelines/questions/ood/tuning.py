"""Parameters of scores, chosen on an out-of-distribution set that no result is about.

Shapes: N rows of a set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from featurebank.pipelines.asking.inputs import SplitRows
from featurebank.pipelines.questions.ood.classifier import Classifier, has_classes
from featurebank.pipelines.questions.ood.parts import Parts
from featurebank.probes._holding import held_out
from featurebank.probes.choice import Choice
from featurebank.probes.ood.evaluation import SelectedParameters, select
from featurebank.probes.ood.registry import get, grid
from featurebank.probes.ood.statistics import TrainingSet

__all__ = ["choices", "choose", "selection_settings"]

HELD_OUT = 0.2

Fitted = tuple[Classifier, list[TrainingSet]]


def choose(
    assigned: Parts, names: Sequence[str], whole: Fitted, fitted: Callable[[SplitRows], Fitted], *, seed: int
) -> tuple[dict[str, SelectedParameters], str]:
    """The best parameters of each score that has any, by AUROC of held-out rows against the set to choose on.

    The held-out rows are the validation rows where there are some; else a fifth of the train rows, of every class, on
    which for this choice nothing is fitted, neither a probe nor a score.

    Args:
        assigned: the rows; its ``tuning`` is there.
        names: of scores.
        whole: the classifier and the training sets of all train rows.
        fitted: those of some train rows.
        seed: of the fifth.

    Returns:
        Score to what was chosen, and the name of the held-out rows. A score that cannot be computed here is left out.
    """
    assert assigned.tuning is not None  # noqa: S101 - asked only with such a set
    train, held, (classifier, parts) = assigned.train, assigned.validation, whole
    if held is None:
        train, held = _split(train, seed)
        classifier, parts = fitted(train)
    inside, outside = ((split.features, classifier.stored_logits(split)) for split in (held, assigned.tuning))
    found = {}
    for name in names:
        part = next((part for part in parts if part.missing(get(name).needs) is None), None)
        candidates = grid(name, rows=len(train.features), width=train.features.shape[1])
        if part is None or not candidates or _refused(name, part):
            continue
        found[name] = select(name, candidates, part, validation_in=inside, validation_out=outside)
    return found, held.name


def choices(name: str, chosen: SelectedParameters) -> list[Choice]:
    """Each number that was chosen for a score, the others as chosen."""
    found = []
    for parameter, value in chosen.parameters.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        others = {key: one for key, one in chosen.parameters.items() if key != parameter}
        scores = {
            tried[parameter]: auroc
            for tried, auroc in chosen.tried
            if all(tried[key] == one for key, one in others.items())
        }
        found.append(Choice(name=f"{name} {parameter}", value=value, scores=scores))
    return found


def selection_settings(chosen: SelectedParameters, *, inside: str, outside: str) -> dict[str, Any]:
    """What is recorded of a choice, as plain JSON."""
    return {
        "inside": inside,
        "outside": outside,
        "auroc": chosen.auroc,
        "tried": [{"parameters": parameters, "auroc": auroc} for parameters, auroc in chosen.tried],
    }


def _refused(name: str, part: TrainingSet) -> bool:
    """Whether the score cannot be fitted on these rows; where it is computed the reason is told."""
    try:
        get(name)().fit(part)
    except Exception:
        return True
    return False


def _split(train: SplitRows, seed: int) -> tuple[SplitRows, SplitRows]:
    """Train rows without a fifth of each class, and this fifth; a class of one row stays whole."""
    codes = np.unique(train.labels if has_classes(train) else np.zeros(len(train.rows)), return_inverse=True)[1]
    if np.bincount(codes).max(initial=0) < 2:
        raise ValueError(
            f"--validation needs held-out rows: a val split, or classes of at least two rows in {train.name}"
        )
    held = np.zeros(len(codes), bool)
    held[held_out(codes, HELD_OUT, np.random.default_rng(seed))[1]] = True
    return train.where(~held), replace(train.where(held), name=f"{train.name}:fifth")
