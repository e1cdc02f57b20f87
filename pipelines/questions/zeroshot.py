"""The accuracy of the nearest class text.

Shapes: M test rows, D features, K classes, T templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.text_sets import EMBEDDING, logit_numbers
from featurebank.pipelines.asking.answer import Answer
from featurebank.pipelines.asking.classes import listed
from featurebank.pipelines.asking.inputs import (
    Rows,
    SplitRows,
    labelled,
    left_out,
    match_notes,
    matched,
    ordered_classes,
)
from featurebank.pipelines.asking.layout import Layout
from featurebank.pipelines.asking.option import file_of, option
from featurebank.pipelines.asking.question import Question
from featurebank.pipelines.asking.texts import class_prompts, names_texts, read_logit_scale, read_texts
from featurebank.store import FeatureSet

__all__ = ["ZeroShot"]


@dataclass(frozen=True, kw_only=True)
class ZeroShot(Question):
    """The accuracy of the nearest class text; nothing is fitted, so no training row is read.

    Text features are those that `featurebank texts` made of the dataset's classes, or a set of the same backbone with a
    row for each prompt, labelled with its class, the same number for each class; or a file of (K, D) or (K, T, D), see
    `read_texts`. A class is the mean of its texts of unit length, at unit length.
    """

    name: ClassVar[str] = "zeroshot"
    version: ClassVar[int] = 2
    predicts_classes: ClassVar[bool] = True
    layout: ClassVar[Layout] = Layout(fitted="text")

    text: str = option(
        "",
        "Text features: DATASET/SPLIT of the store, FILE.npy or FILE.npz; without it those of `featurebank texts`.",
        metavar="FILE|KEY",
        role=True,
        suffixes=(".npy", ".npz"),
    )
    logit_scale: float | None = option(None, "The model's factor of cosines, where the texts lack it.")

    def __post_init__(self) -> None:
        super().__post_init__()
        file_of(self, "text")
        if self.output == "pooled" and (not self.text or names_texts(self.text)):
            object.__setattr__(self, "output", EMBEDDING)  # what lies in one space with them

    @property
    def fits(self) -> bool:
        """No: nothing is fitted."""
        return False

    @property
    def fitted_name(self) -> str:
        """The file of texts."""
        file = file_of(self, "text")
        return "" if file is None else file.name

    @property
    def own_texts(self) -> str:
        """``text``, where none is named."""
        return "" if self.text else "text"

    def run(self, rows: Rows) -> Answer:
        """Accuracy and balanced accuracy; NLL, Brier and ECE of the softmax of cosines times the model's logit scale.

        Where that is not known there are no probabilities, and none of the three. A bias that the model adds stands in
        the settings; among classes that exclude each other it changes no probability.
        """
        from featurebank.pipelines.asking import intervals
        from featurebank.probes.zeroshot import ZeroShotClassifier

        test, text, notes = self._text(labelled(rows.test), rows["text"])
        scale, bias = self._logit_numbers(rows["text"])
        probe = ZeroShotClassifier(scale or 1.0, bias).fit(text)
        found = intervals.row_probabilities(test.labels, probe.classes_, probe.logits(test.features))
        notes = [*left_out(test), *notes]
        if (beyond := int((test.labels >= len(probe.classes_)).sum())) > 0:
            names = listed([test.class_name(int(k)) for k in np.unique(test.labels) if k >= len(probe.classes_)])
            notes.append(f"{beyond:,} rows of classes without text features count as wrong: {names}")
        scores, kept = (
            intervals.class_scores(test.labels, found.predictions, seed=self.seed),
            intervals.predicted(test, found.predictions),
        )
        if scale is None:
            notes.append(
                "no NLL, Brier score or ECE: the model's logit scale is not known; give --logit-scale, or --text "
                "FILE.npz with text and logit_scale"
            )
        else:
            scores += intervals.probability_scores(found, seed=self.seed)
            kept |= intervals.likelihoods(found)
        chosen = {} if scale is None else {"logit_scale": scale} | ({"logit_bias": bias} if bias else {})
        return Answer(scores=scores, chosen=chosen, arrays=kept, notes=notes)

    def _logit_numbers(self, sets: Sequence[SplitRows]) -> tuple[float | None, float]:
        """The model's scale, which an option may say, and its bias, as the file or the set of texts has them."""
        if (file := file_of(self, "text")) is not None:
            return (read_logit_scale(file) if self.logit_scale is None else self.logit_scale), 0.0
        with FeatureSet(sets[0].path) as texts:
            scale, bias = logit_numbers(texts) or (None, 0.0)
        return (scale if self.logit_scale is None else self.logit_scale), bias

    def _text(self, test: SplitRows, sets: Sequence[SplitRows]) -> tuple[SplitRows, NDArray[Any], list[str]]:
        """The test rows in the classes of the texts, these (K, D) or (K, T, D), and how they were matched."""
        if (file := file_of(self, "text")) is not None:
            text = read_texts(file)
            return test, text, ordered_classes(file, len(text), test)
        prompts = labelled(sets[0])
        test, text = matched(test, prompts, by_number=True), class_prompts(prompts)
        return test, text, match_notes(prompts, test)
