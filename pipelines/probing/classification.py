"""Tasks with one class a row: linear, k nearest neighbours, few labels, zero-shot.

Each is a frozen record of its settings, which name its results, with `run`.

Shapes: M test rows, D features, K classes, T templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.pipelines.classes import listed
from featurebank.pipelines.probing.inputs import (
    Inputs,
    SplitRows,
    class_notes,
    labelled,
    labelled_splits,
    left_out,
    match_notes,
    matched,
    ordered_classes,
)
from featurebank.pipelines.probing.scores import (
    Answer,
    Score,
    calibration_score,
    class_scores,
    likelihoods,
    predicted,
    probability_scores,
    row_probabilities,
    share_score,
)
from featurebank.pipelines.probing.task import Task
from featurebank.pipelines.probing.texts import read_logit_scale, read_texts
from featurebank.probes.choice import CS, Choice, edge_notes
from featurebank.probes.linear import LinearFit, Protocol

__all__ = ["FewShotTask", "KNNTask", "LinearTask", "ZeroShotTask", "check_choice", "fit_rows"]

TOP = 5
SHOTS, FRACTIONS = (10,), (0.01, 0.1)

FewProtocol = Literal["logistic", "ncm", "bob", "dinov2"]


@dataclass(frozen=True, kw_only=True)
class LinearTask(Task):
    """A linear classifier; its settings and its temperature from validation rows.

    Attributes:
        protocol: ``logistic``, ``bob`` or ``dinov2``; see `featurebank.probes.linear.fit_linear`.
        cs: candidates for C.
        device: of torch.
    """

    name: ClassVar[str] = "linear"
    version: ClassVar[int] = 2
    predicts_classes: ClassVar[bool] = True
    unhashed: ClassVar[tuple[str, ...]] = ("device",)

    protocol: Protocol = "logistic"
    cs: tuple[float, ...] = CS
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_choice("protocol", self.protocol, get_args(Protocol))

    def run(self, inputs: Inputs) -> Answer:
        """Accuracy, balanced accuracy, NLL, Brier and ECE after temperature scaling, and the ECE before it."""
        train, validation, test = labelled_splits(inputs)
        fit = fit_rows(train, validation, protocol=self.protocol, cs=self.cs, seed=self.seed, device=self.device)
        logits = fit.logits(test.features)
        rows = row_probabilities(test.labels, fit.classes, logits, temperature=fit.temperature)
        unscaled = row_probabilities(test.labels, fit.classes, logits)
        scores = [
            *class_scores(test.labels, rows.predictions, seed=self.seed),
            *probability_scores(rows, seed=self.seed),
            calibration_score("ece_unscaled", unscaled, seed=self.seed),
        ]
        notes = class_notes(train, test, validation)
        notes += edge_notes(fit.choices)
        if fit.uncalibrated:
            notes.append(f"the temperature is 1: {fit.uncalibrated}")
        return Answer(
            scores=scores,
            chosen={**fit.chosen, "temperature": fit.temperature},
            arrays=predicted(test, rows.predictions) | likelihoods(rows),
            notes=notes,
        )


@dataclass(frozen=True, kw_only=True)
class KNNTask(Task):
    """DINO's vote of the k nearest training rows by cosine, k and T from validation rows.

    Attributes:
        k: candidates; those beyond the rows that are searched are passed over.
        temperature: candidates for T.
        device: of torch.
    """

    name: ClassVar[str] = "knn"
    version: ClassVar[int] = 2
    predicts_classes: ClassVar[bool] = True
    unhashed: ClassVar[tuple[str, ...]] = ("device",)

    k: tuple[int, ...] = (5, 10, 20, 50, 100, 200)
    temperature: tuple[float, ...] = (0.02, 0.04, 0.07, 0.1, 0.2)
    device: str = "cpu"

    def run(self, inputs: Inputs) -> Answer:
        """Accuracy, balanced accuracy, and with more than five classes how often the label is among the first five."""
        from featurebank.probes.neighbours import knn_sweep

        train, validation, test = labelled_splits(inputs)
        # A fifth of the training rows stands in for validation rows.
        searched = len(train.labels) - (-(-len(train.labels) // 5) if validation is None else 0)
        ks = [k for k in self.k if k <= searched]
        if not ks:
            raise ValueError(f"k must be at most {searched}, the rows searched; found {list(self.k)}; lower --k")
        sweep = knn_sweep(
            train.features,
            train.labels,
            test.features,
            test.labels,
            validation=None if validation is None else (validation.features, validation.labels),
            ks=ks,
            temperatures=self.temperature,
            seed=self.seed,
            device=self.device,
        )
        scores = class_scores(test.labels, sweep.predictions, seed=self.seed)
        if len(np.unique(train.labels)) > TOP:
            scores.append(share_score("top5_accuracy", sweep.top5, len(test.labels)))
        return Answer(
            scores=scores,
            chosen={"k": sweep.k, "temperature": sweep.temperature},
            arrays=predicted(test, sweep.predictions),
            notes=[*class_notes(train, test, validation), *edge_notes(sweep.choices)],
        )


@dataclass(frozen=True, kw_only=True)
class FewShotTask(Task):
    """Few labels of each class, several nested draws; 10 shots, 1 % and 10 % where nothing else is asked for.

    Attributes:
        shots: rows of each class.
        fraction: of each class's rows.
        draws: of every number of labels.
        protocol: ``logistic``, C chosen by folds of the drawn rows; ``ncm``, the nearest class mean, which has nothing
            to choose; ``bob`` or ``dinov2``, a learning rate chosen on a fifth of the drawn rows.
        cs: candidates for C.
        device: of torch.
    """

    name: ClassVar[str] = "fewshot"
    version: ClassVar[int] = 2
    unhashed: ClassVar[tuple[str, ...]] = ("device",)

    shots: tuple[int, ...] = ()
    fraction: tuple[float, ...] = ()
    draws: int = 5
    protocol: FewProtocol = "logistic"
    cs: tuple[float, ...] = CS
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_choice("protocol", self.protocol, get_args(FewProtocol))
        if not self.shots and not self.fraction:
            object.__setattr__(self, "shots", SHOTS)
            object.__setattr__(self, "fraction", FRACTIONS)

    def run(self, inputs: Inputs) -> Answer:
        """Mean accuracy over draws, with Student's interval cut to 0..1, for each number of labels."""
        from featurebank.probes.fewshot import label_efficiency_curve

        train, _, test = labelled_splits(inputs)
        recorded: list[NDArray[np.int64]] = []
        choices: list[Choice] = []
        curve = label_efficiency_curve(
            train.features,
            train.labels,
            test.features,
            test.labels,
            shots=self.shots,
            fractions=self.fraction,
            draws=self.draws,
            estimator_factory=lambda: _Recorded(self._estimator(), recorded, choices),
            seed=self.seed,
        )
        scores, kept = [], {}
        for index, point in enumerate(curve):
            words = f"{point.shots}-shot" if point.fraction is None else f"{100 * point.fraction:g}%"
            kept[f"predictions {words}"] = np.stack(recorded[index * self.draws : (index + 1) * self.draws])
            scores.append(
                Score(
                    metric=f"accuracy {words}",
                    value=point.mean,
                    low=max(point.low, 0.0),
                    high=min(point.high, 1.0),
                    interval="draws of labels, Student",
                    settings={"rows": point.rows, "accuracies": list(point.accuracies)},
                )
            )
        rows = {"ids": test.ids, "rows": test.rows, "labels": test.labels}
        return Answer(scores=scores, arrays=rows | kept, notes=[*class_notes(train, test), *edge_notes(choices)])

    def _estimator(self) -> Any:
        from featurebank.probes.few_labels import FewLabelsProbe
        from featurebank.probes.linear import protocol_heads
        from featurebank.probes.neighbours import NearestClassMean

        if self.protocol == "ncm":
            return NearestClassMean()
        if self.protocol == "logistic":
            return FewLabelsProbe(self.cs, seed=self.seed)
        return protocol_heads(self.protocol, random_state=self.seed, device=self.device)


class _Recorded:
    """A classifier that adds its predictions, and what it chose, to lists."""

    def __init__(self, classifier: Any, predictions: list[NDArray[np.int64]], choices: list[Choice]) -> None:
        self.classifier, self.predictions, self.choices = classifier, predictions, choices

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        self.classifier.fit(X, y)
        self.choices += getattr(self.classifier, "choices_", ())
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        self.predictions.append(self.classifier.predict(X))
        return self.predictions[-1]


@dataclass(frozen=True, kw_only=True)
class ZeroShotTask(Task):
    """Image features against text features of the class names; nothing is fitted, so no training row is read.

    Attributes:
        text: where the text features are: a file of (K, D) or (K, T, D), see `read_texts`, or DATASET/SPLIT, a set of
            the same backbone with a row for each prompt, labelled with its class, the same number for each class.
        text_file: the same, for the result's name, if it is a file.
        logit_scale: exp of the model's own logit scale; that of the file, or unknown, if None.
    """

    name: ClassVar[str] = "zeroshot"
    version: ClassVar[int] = 2
    predicts_classes: ClassVar[bool] = True

    text: str = ""
    text_file: Path | None = None
    logit_scale: float | None = None

    def __post_init__(self) -> None:
        if bool(self.text) == (self.text_file is not None):
            raise ValueError("zeroshot needs --text: a file of (K, D) or (K, T, D), .npy or .npz, or DATASET/SPLIT")

    @property
    def reads_train(self) -> bool:
        """No: nothing is fitted."""
        return False

    @property
    def others(self) -> tuple[str, ...]:
        """The set of text features, if they are in one."""
        return (self.text,) if self.text else ()

    def run(self, inputs: Inputs) -> Answer:
        """Accuracy and balanced accuracy; NLL, Brier and ECE of the softmax of cosines times the model's logit scale.

        Where that is not known there are no probabilities, and none of the three.
        """
        from featurebank.probes.zeroshot import ZeroShotClassifier

        test, text, notes = self._text(labelled(inputs.test), inputs.others)
        scale = self.logit_scale
        if scale is None and self.text_file is not None:
            scale = read_logit_scale(self.text_file)
        probe = ZeroShotClassifier(scale or 1.0).fit(text)
        rows = row_probabilities(test.labels, probe.classes_, probe.logits(test.features))
        notes = [*left_out(test), *notes]
        if (beyond := int((test.labels >= len(probe.classes_)).sum())) > 0:
            names = listed([test.class_name(int(k)) for k in np.unique(test.labels) if k >= len(probe.classes_)])
            notes.append(f"{beyond:,} rows of classes without text features count as wrong: {names}")
        scores, kept = class_scores(test.labels, rows.predictions, seed=self.seed), predicted(test, rows.predictions)
        if scale is None:
            notes.append(
                "no NLL, Brier score or ECE: the model's logit scale is not known; give --logit-scale, or --text "
                "FILE.npz with text and logit_scale"
            )
        else:
            scores += probability_scores(rows, seed=self.seed)
            kept |= likelihoods(rows)
        chosen = {} if scale is None else {"logit_scale": scale}
        return Answer(scores=scores, chosen=chosen, arrays=kept, notes=notes)

    def _text(self, test: SplitRows, sets: Sequence[SplitRows]) -> tuple[SplitRows, NDArray[Any], list[str]]:
        """The test rows in the classes of the texts, these (K, D) or (K, T, D), and how they were matched."""
        if self.text_file is not None:
            text = read_texts(self.text_file)
            return test, text, ordered_classes(self.text_file, len(text), test)
        prompts = labelled(sets[0])
        classes, counts = np.unique(prompts.labels, return_counts=True)
        if len(set(counts.tolist())) > 1 or classes.tolist() != list(range(len(classes))):
            raise ValueError(
                f"{prompts.name}: expected as many prompts for each of the classes 0..K-1, found {counts.min()} to "
                f"{counts.max()} for {len(classes)} classes up to {classes.max()}"
            )
        test = matched(test, prompts, by_number=True)
        order = np.argsort(prompts.labels, kind="stable")
        text = prompts.features[order].reshape(len(classes), int(counts[0]), -1)
        return test, text, match_notes(prompts, test)


def fit_rows(
    train: SplitRows, validation: SplitRows | None, *, protocol: Protocol, cs: Sequence[float], seed: int, device: str
) -> LinearFit:
    """`featurebank.probes.linear.fit_linear` on rows of feature sets."""
    from featurebank.probes.linear import fit_linear

    return fit_linear(
        train.features,
        train.labels,
        validation=None if validation is None else (validation.features, validation.labels),
        protocol=protocol,
        Cs=cs,
        random_state=seed,
        device=device,
    )


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raises ValueError where a setting is none of the allowed values."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; found {value!r}")
