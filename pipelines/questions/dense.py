"""Semantic segmentation by a linear classifier of every patch token.

Shapes: N training rows, M test rows, K classes, (H, W) the size of a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.answer import Answer
from featurebank.pipelines.asking.inputs import Rows, SplitRows, left_out, load_array
from featurebank.pipelines.asking.option import option
from featurebank.pipelines.asking.question import Question

__all__ = ["Dense"]

HELD_OUT = 0.2


@dataclass(frozen=True, kw_only=True)
class Dense(Question):
    """Mean IoU, Dice and pixel accuracy of a linear classifier of every patch token: semantic segmentation.

    Stores hold no masks, so they come as files, with one for each row of a set, failed rows included.
    """

    name: ClassVar[str] = "dense"
    version: ClassVar[int] = 2

    output: str = option("tokens", "The output that is read: patch tokens, (h * w, D) a row.", metavar="NAME")
    train_masks: Path = option(help="FILE.npy of integers (N, H, W).", metavar="FILE")
    test_masks: Path = option(help="FILE.npy of integers (M, H, W).", metavar="FILE")
    grid: tuple[int, int] | None = option(None, "h and w of the patches, if they are no square.")
    ignore_index: int = option(255, "The value of pixels that do not count.")
    epochs: int = option(30, "Passes over the training rows.")
    learning_rates: tuple[float, ...] = option(
        (1e-4, 1e-3, 1e-2), "Of AdamW at the beginning, a candidate; repeatable.", flag="--learning-rate"
    )
    device: str = option("cpu", "Of torch, such as cpu or cuda.", hashed=False)

    def run(self, rows: Rows) -> Answer:
        """Mean IoU, mean Dice and pixel accuracy; the learning rate is chosen by mean IoU on held-out images."""
        from featurebank.pipelines.asking.intervals import mask_scores
        from featurebank.probes._holding import held_out
        from featurebank.probes.choice import Choice, edge_notes
        from featurebank.probes.segmentation import mean_iou

        train, test = rows.train, rows.test
        masks, truth = _masks(self.train_masks, train), _masks(self.test_masks, test)
        K = 1 + max(int(mask[mask != self.ignore_index].max(initial=1)) for part in (masks, truth) for mask in part)
        if len(masks) < 2:
            raise ValueError(f"{train.name}: expected two images at least, one to choose on, found {len(masks)}")
        fitting, held = held_out(np.zeros(len(masks), np.int64), HELD_OUT, np.random.default_rng(self.seed))
        ious = {}
        for rate in self.learning_rates:
            probe = self._probe(rate, K).fit(train.features, masks, grid=self._grid(train), rows=fitting)
            _, parts = self._confusions(probe, train.features, masks, K, held)
            ious[rate] = mean_iou(parts.sum(0)).mean
        rate = min(ious, key=lambda rate: (-ious[rate], rate))
        probe = self._probe(rate, K).fit(train.features, masks, grid=self._grid(train))
        predictions, parts = self._confusions(probe, test.features, truth, K, np.arange(len(truth)))
        return Answer(
            scores=mask_scores(parts, seed=self.seed),
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
        self, probe: Any, tokens: NDArray[Any], truth: NDArray[np.integer], K: int, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
        """Of some rows (m,), predicted masks (m, H, W) in the smallest integers and confusion matrices (m, K, K)."""
        from featurebank.probes.segmentation import confusion_matrix

        predicted = np.empty((len(rows), *truth.shape[1:]), np.min_scalar_type(K - 1))
        for part, some in probe.predict_batches(tokens, size=truth.shape[1:], rows=rows):
            predicted[part] = some
        parts = [
            confusion_matrix(truth[row], mask, classes=K, ignore_index=self.ignore_index)
            for row, mask in zip(rows, predicted, strict=True)
        ]
        return predicted, np.stack(parts)

    def _grid(self, split: SplitRows) -> tuple[int, int]:
        if split.features.ndim != 3:
            raise ValueError(
                f"{split.name}: expected patch tokens, (h * w, D) a row, found {split.features.shape[1:]}; "
                "choose another --output"
            )
        tokens = split.features.shape[1]
        side = int(np.sqrt(tokens))
        grid = self.grid or (side, side)
        if grid[0] * grid[1] != tokens:
            raise ValueError(f"--grid must be h and w with h * w = {tokens}, the tokens of a row; found {list(grid)}")
        return grid


def _masks(path: Path, split: SplitRows) -> NDArray[np.integer]:
    """The masks of the rows that have features."""
    masks = load_array(path)
    if masks.ndim != 3 or len(masks) != split.total or masks.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: expected integers ({split.total}, H, W), a mask for each row of {split.name}, found "
            f"{masks.dtype} {masks.shape}"
        )
    return masks if len(split.rows) == split.total else np.asarray(masks[split.rows])
