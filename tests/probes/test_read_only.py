"""Arrays of a store are read-only, and so may a caller's be: no probe and no score warns of it or needs another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from featurebank.probes.dense import DenseLinearProbe
from featurebank.probes.heads import LinearHeads
from featurebank.probes.logistic import LogisticProbe, LogisticProbeCV
from featurebank.probes.multilabel import MultiLabelProbe
from featurebank.probes.neighbours import KNNProbe, NearestClassMean
from featurebank.probes.ood.head import Head
from featurebank.probes.ood.names import scores
from featurebank.probes.ood.registry import get, score_all
from featurebank.probes.ood.statistics import TrainingSet
from featurebank.probes.ood.weiper import WeiPerKLD
from featurebank.probes.ridge import RidgeProbe
from featurebank.probes.tokens import AttentivePoolProbe, MLPProbe


@pytest.fixture(autouse=True)
def every_warning() -> Iterator[None]:
    """PyTorch says it once in a process, which test comes first would decide."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


def frozen(values: Any, dtype: Any) -> Any:
    array = np.ascontiguousarray(values, dtype)
    array.setflags(write=False)
    return array


GENERATOR = np.random.default_rng(0)
LABELS = np.arange(60) % 3
ROWS = np.eye(3)[LABELS] @ GENERATOR.normal(size=(3, 8)) + 0.3 * GENERATOR.normal(size=(60, 8))
TOKENS = np.repeat(ROWS[:, None], 4, axis=1)

PROBES: dict[str, tuple[Any, Any, Any]] = {
    "logistic": (LogisticProbe(), ROWS, LABELS),
    "logistic CV": (LogisticProbeCV(), ROWS, LABELS),
    "heads": (LinearHeads(), ROWS, LABELS),
    "ridge": (RidgeProbe(), ROWS, ROWS[:, :2]),
    "knn": (KNNProbe(), ROWS, LABELS),
    "means": (NearestClassMean(), ROWS, LABELS),
    "multi-label": (MultiLabelProbe(), ROWS, np.eye(3)[LABELS]),
    "mlp": (MLPProbe(), ROWS, LABELS),
    "attention": (AttentivePoolProbe(), TOKENS, LABELS),
    "dense": (DenseLinearProbe(), TOKENS, np.repeat(LABELS, 4).reshape(60, 2, 2)),
}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", PROBES)
def test_f10_probes_take_read_only_arrays(name: str, dtype: Any) -> None:
    probe, rows, labels = PROBES[name]
    targets = frozen(labels, np.float64 if name == "ridge" else np.int64)
    grid = {"grid": (2, 2)} if name == "dense" else {}
    probe.fit(frozen(rows, dtype), targets, **grid)
    probe.predict(frozen(rows, dtype))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_f10_scores_take_read_only_arrays(dtype: Any) -> None:
    head = Head(frozen(GENERATOR.normal(size=(3, 8)), np.float32), frozen(np.zeros(3), np.float32))
    rows, labels, logits = frozen(ROWS, dtype), frozen(LABELS, np.int64), frozen(ROWS @ head.weight.T, dtype)
    text = frozen(GENERATOR.normal(size=(3, 8)), np.float32)
    train = TrainingSet(rows, labels, logits=logits, head=head, text=text, validation=(logits, labels))
    chosen = [WeiPerKLD(repeats=2) if name == "weiper+kld" else get(name)() for name in scores()]
    found = score_all(train, {"test": (rows, logits)}, chosen).values["test"]
    assert set(found) == set(scores())
