"""Tasks whose answer is not one class a row: several labels, numbers, a mask.

Shapes: N training rows, M test rows, L labels, T targets, K classes, (H, W) the size of a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.classes import listed
from featurebank.pipelines.probing.classification import check_choice
from featurebank.pipelines.probing.inputs import Inputs, SplitRows, left_out, load_array, match_notes, matched, vectors
from featurebank.pipelines.probing.scores import Answer, resampled
from featurebank.pipelines.probing.task import Task
from featurebank.probes.choice import CS, Choice, edge_notes
from featurebank.store.errors import unknown_name

__all__ = ["DenseTask", "MultiLabelTask", "RegressionTask"]

HELD_OUT = 0.2
RANKING_DRAWS = 200  # of ranking metrics, which take a pass over all rows and labels for each draw


@dataclass(frozen=True, kw_only=True)
class MultiLabelTask(Task):
    """A logistic regression for each label; one C for all, of the highest mean AUROC on validation rows.

    Attributes:
        cs: candidates for C.
        missing: what a label of -1 counts as in the training rows: ``ignore``, ``zero`` or ``one``.
        device: of torch.
    """

    name: ClassVar[str] = "multilabel"
    version: ClassVar[int] = 2
    unhashed: ClassVar[tuple[str, ...]] = ("device",)

    cs: tuple[float, ...] = CS
    missing: str = "ignore"
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_choice("missing", self.missing, ("ignore", "zero", "one"))

    def run(self, inputs: Inputs) -> Answer:
        """Mean AUROC and mean average precision over the labels with both classes among the test rows."""
        from featurebank.probes.metrics import multilabel_auroc, multilabel_map
        from featurebank.probes.weighted import label_auroc, label_precision

        train, test = self._several(inputs.train), matched(self._several(inputs.test), inputs.train)
        validation = inputs.validation and matched(self._several(inputs.validation), inputs.train)
        fitting, held = _held_out(train, validation, self.seed)
        areas = {C: multilabel_auroc(held.labels, self._fitted(fitting, C, held)).mean for C in self.cs}
        C = min(areas, key=lambda C: (-areas[C], C))
        scores = self._fitted(train, C, test)
        measure = partial(resampled, rows=len(scores), seed=self.seed, draws=RANKING_DRAWS)
        return Answer(
            scores=[
                measure("auroc", multilabel_auroc(test.labels, scores).mean, label_auroc(test.labels, scores)),
                measure("map", multilabel_map(test.labels, scores).mean, label_precision(test.labels, scores)),
            ],
            chosen={"C": C},
            arrays={
                "ids": test.ids,
                "rows": test.rows,
                "labels": test.labels,
                "probabilities": scores,
            },
            notes=[
                *left_out(train, inputs.validation, test),
                *_label_notes(train, test, validation),
                *edge_notes([Choice(name="C", value=C, scores=areas)]),
            ],
        )

    def _fitted(self, train: SplitRows, C: float, scored: SplitRows) -> NDArray[np.float64]:
        """Probabilities of the scored rows (M, L); one half for a label that no training row has."""
        from featurebank.probes.multilabel import MultiLabelProbe

        probe = MultiLabelProbe(C, missing=self.missing, device=self.device)  # type: ignore[arg-type]
        found = np.full(scored.labels.shape, np.nan)
        found[:, : train.labels.shape[1]] = probe.fit(train.features, train.labels).predict_proba(scored.features)
        return np.where(np.isnan(found), 0.5, found)

    def _several(self, split: SplitRows) -> SplitRows:
        if vectors(split).labels.ndim != 2:
            raise ValueError(f"{split.name}: expected several labels a row, (N, L), found one; use --task linear")
        return split


@dataclass(frozen=True, kw_only=True)
class RegressionTask(Task):
    """Ridge regression to numbers; alpha by leave-one-out, or on validation rows where the store has them.

    Attributes:
        target: extra columns of the records; the labels if empty. Rows with a NaN, or a label below 0, are left out.
    """

    name: ClassVar[str] = "regression"
    version: ClassVar[int] = 2

    target: tuple[str, ...] = ()

    def run(self, inputs: Inputs) -> Answer:
        """R², mean absolute error and root mean squared error, each averaged over the targets."""
        from featurebank.probes.ridge import RidgeProbe, regression_scores
        from featurebank.probes.weighted import regression

        (train, y), (test, truth) = self._targets(inputs.train), self._targets(inputs.test)
        held = None if inputs.validation is None else self._targets(inputs.validation)
        validation = None if held is None else (held[0].features, held[1])
        probe = RidgeProbe().fit(train.features, y, validation)
        predictions = probe.predict(test.features)

        values = regression_scores(truth, predictions)
        return Answer(
            scores=[
                resampled(metric, value, regression(truth, predictions, metric), rows=len(truth), seed=self.seed)
                for metric, value in (("r2", values.r2), ("mae", values.mae), ("rmse", values.rmse))
            ],
            chosen={"alpha": probe.alpha_},
            arrays={
                "ids": test.ids,
                "rows": test.rows,
                "targets": truth,
                "predictions": predictions,
            },
            notes=[
                *left_out(train, held and held[0], test),
                *edge_notes([Choice(name="alpha", value=probe.alpha_, scores=probe.validation_)]),
            ],
        )

    def _targets(self, split: SplitRows) -> tuple[SplitRows, NDArray[np.float64]]:
        """The rows with targets, and those (N, T)."""
        vectors(split)
        columns = split.columns
        for name in self.target:
            if name not in columns:
                raise unknown_name(f"column of {split.name}", name, columns)
        # Labels with decimals are kept as a column of that name; see `extract.datasets`.
        decimals = ("label",) if (split.labels < 0).all() and "label" in columns else ()
        named = [_as_numbers(columns[name], split.name) for name in self.target or decimals]
        given = np.stack(named, 1) if named else split.labels.reshape(len(split.labels), -1)
        targets: NDArray[np.float64] = given.astype(np.float64)
        good = np.isfinite(targets) if named else targets >= 0
        usable = np.asarray(good.all(axis=1))
        if not usable.any():
            raise ValueError(f"{split.name}: expected rows with finite targets, found none among {len(targets)}")
        return split.where(usable), targets[usable]


def _as_numbers(column: NDArray[Any], place: str) -> NDArray[Any]:
    """Numbers, also where they stand as text because a float would lose some: ``1.10``, whole ones with gaps."""
    if column.dtype.kind in "biuf":
        return column
    texts = column.tolist()
    try:
        if any("_" in text for text in texts):
            raise ValueError
        return np.array([float(text) if text else np.nan for text in texts], np.float64)
    except ValueError:
        raise ValueError(f"{place}: expected columns of numbers to regress to, found strings") from None


@dataclass(frozen=True, kw_only=True)
class DenseTask(Task):
    """A linear classifier of every patch token: semantic segmentation. Stores hold no masks, so they come as files.

    Attributes:
        output: patch tokens, (h * w, D) a row.
        train_masks: ``.npy`` of integers (N, H, W), one for each row of the train set, failed rows included.
        test_masks: the same of the test set, (M, H, W).
        grid: (h, w); a square if empty.
        ignore_index: the value of pixels that do not count.
        epochs: passes over the training images.
        device: of torch.
    """

    name: ClassVar[str] = "dense"
    version: ClassVar[int] = 2
    unhashed: ClassVar[tuple[str, ...]] = ("device",)

    output: str = "tokens"
    train_masks: Path
    test_masks: Path
    grid: tuple[int, ...] = ()
    ignore_index: int = 255
    epochs: int = 30
    learning_rates: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    device: str = "cpu"

    def run(self, inputs: Inputs) -> Answer:
        """Mean IoU, mean Dice and pixel accuracy; the learning rate is chosen by mean IoU on held-out images."""
        from featurebank.probes.segmentation import dice, mean_iou
        from featurebank.probes.weighted import masks as statistics

        train, test = inputs.train, inputs.test
        masks, truth = _masks(self.train_masks, train), _masks(self.test_masks, test)
        K = 1 + max(int(mask[mask != self.ignore_index].max(initial=1)) for part in (masks, truth) for mask in part)
        generator = np.random.default_rng(self.seed)
        order = generator.permutation(len(masks))
        held, fitting = (np.sort(part) for part in np.split(order, [max(1, round(HELD_OUT * len(order)))]))
        if len(fitting) == 0:
            raise ValueError(f"{train.name}: expected two images at least, one to choose on, found {len(masks)}")
        ious = {}
        for rate in self.learning_rates:
            probe = self._probe(rate, K).fit(train.features[fitting], masks[fitting], grid=self._grid(train))
            _, parts = self._confusions(probe, train.features[held], masks[held], K)
            ious[rate] = mean_iou(parts.sum(0)).mean
        rate = min(ious, key=lambda rate: (-ious[rate], rate))
        probe = self._probe(rate, K).fit(train.features, masks, grid=self._grid(train))
        predictions, parts = self._confusions(probe, test.features, truth, K)
        whole = parts.sum(0)
        values = {
            "miou": mean_iou(whole).mean,
            "dice": dice(whole).mean,
            "pixel_accuracy": float(np.trace(whole) / max(whole.sum(), 1)),
        }
        return Answer(
            scores=[
                resampled(metric, value, statistics(parts, metric), rows=len(parts), seed=self.seed)
                for metric, value in values.items()
            ],
            chosen={"learning_rate": rate},
            arrays={
                "ids": test.ids,
                "rows": test.rows,
                "predictions": predictions,
                "confusion": parts,
            },
            notes=[
                *left_out(train, test),
                *edge_notes([Choice(name="learning rate", value=rate, scores=ious)]),
            ],
        )

    def _probe(self, rate: float, n_classes: int) -> Any:
        from featurebank.probes.dense import DenseLinearProbe

        return DenseLinearProbe(
            n_classes,
            ignore_index=self.ignore_index,
            learning_rate=rate,
            epochs=self.epochs,
            device=self.device,
            random_state=self.seed,
        )

    def _confusions(
        self, probe: Any, tokens: NDArray[Any], truth: NDArray[np.integer], K: int
    ) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
        """Predicted masks (M, H, W) in the smallest integers, and a confusion matrix (M, K, K) for each image."""
        from featurebank.probes.segmentation import confusion_matrix

        found = np.empty(truth.shape, np.min_scalar_type(K - 1))
        for rows, some in probe.predict_batches(tokens, size=truth.shape[1:]):
            found[rows] = some
        parts = [
            confusion_matrix(a, b, classes=K, ignore_index=self.ignore_index) for a, b in zip(truth, found, strict=True)
        ]
        return found, np.stack(parts)

    def _grid(self, split: SplitRows) -> tuple[int, int]:
        if split.features.ndim != 3:
            raise ValueError(
                f"{split.name}: expected patch tokens, (h * w, D) a row, found {split.features.shape[1:]}; "
                "choose another --output"
            )
        tokens = split.features.shape[1]
        side = int(np.sqrt(tokens))
        grid = self.grid or (side, side)
        if len(grid) != 2 or grid[0] * grid[1] != tokens:
            raise ValueError(f"--grid must be h and w with h * w = {tokens}, the tokens of a row; found {list(grid)}")
        return grid[0], grid[1]


def _label_notes(train: SplitRows, *splits: SplitRows | None) -> list[str]:
    """How the labels of other splits were matched, and which only one of the splits has."""
    notes = match_notes(train, *splits)
    for split in splits:
        if split is None or split.match is None:
            continue
        for names, has, lacks, what in (
            (split.match.extra, split, train, "cannot be told"),
            (split.match.missing, train, split, "not scored"),
        ):
            if names:
                notes.append(f"labels of {has.name} that {lacks.name} lacks, {what}: {listed([*map(repr, names)])}")
    return notes


def _held_out(train: SplitRows, validation: SplitRows | None, seed: int) -> tuple[SplitRows, SplitRows]:
    """The rows to fit on while choosing, and the rows to choose on: a fifth of the train rows where there are none."""
    if validation is not None:
        return train, validation
    held = np.zeros(len(train.labels), bool)
    held[np.random.default_rng(seed).permutation(len(held))[: max(1, round(HELD_OUT * len(held)))]] = True
    return train.where(~held), train.where(held)


def _masks(path: Path, split: SplitRows) -> NDArray[np.integer]:
    """The masks of the rows that have features."""
    masks = load_array(path)
    if masks.ndim != 3 or len(masks) != split.total or masks.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: expected integers ({split.total}, H, W), a mask for each row of {split.name}, found "
            f"{masks.dtype} {masks.shape}"
        )
    return masks if len(split.rows) == split.total else np.asarray(masks[split.rows])
