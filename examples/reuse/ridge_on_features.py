"""A ridge classifier on cached features: one pass over the training rows, however many there are.

ridge-on-features STORE DATASET/TRAIN DATASET/TEST BACKBONE
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np

from featurebank.store import FeatureSet, FeatureStore


def fit(train: FeatureSet, output: str, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight (D + 1, C), the bias in its last row, and the classes (C,): least squares onto one-hot labels.

    W = (X'X + penalty I)^-1 X'Y, the sums accumulated in float64 over batches of rows.
    """
    classes = np.unique(train.labels[train.ok])
    width = train.info(output).shape[0] + 1
    gram, targets = np.zeros((width, width)), np.zeros((width, len(classes)))
    for batch in train.batches(4096, outputs=[output]):
        X = with_one(batch[output])
        gram += X.T @ X
        targets += X.T @ (batch["labels"][:, None] == classes)
    return np.linalg.solve(gram + penalty * np.eye(width), targets), classes


def accuracy(test: FeatureSet, output: str, weight: np.ndarray, classes: np.ndarray) -> float:
    """The share of test rows whose largest score is that of their label."""
    right = total = 0
    for batch in test.batches(4096, outputs=[output]):
        predicted = classes[(with_one(batch[output]) @ weight).argmax(axis=1)]
        right += int((predicted == batch["labels"]).sum())
        total += len(predicted)
    return right / total


def with_one(features: np.ndarray) -> np.ndarray:
    """Rows of length one in float64, and a column of ones for the bias."""
    X = features.astype(np.float64)
    X /= np.linalg.norm(X, axis=1, keepdims=True).clip(min=1e-12)
    return np.concatenate([X, np.ones((len(X), 1))], axis=1)


def main() -> None:
    """Trains, tests, prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("store", "train", "test", "backbone"):
        parser.add_argument(name)
    parser.add_argument("--output", default="pooled")
    parser.add_argument("--penalty", type=float, default=1e-3)
    args = parser.parse_args()
    store = FeatureStore(args.store)
    with (
        store.open(args.train, args.backbone, verify="first_touch") as train,
        store.open(args.test, args.backbone, verify="first_touch") as test,
    ):
        weight, classes = fit(train, args.output, args.penalty)
        result = {"accuracy": accuracy(test, args.output, weight, classes), "rows": len(train)}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
