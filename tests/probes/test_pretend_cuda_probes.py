"""Every probe, score and search on a card finds what it finds on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pretend_cuda import pretend_cuda
from probe_sets import clusters

from featurebank.probes import _lbfgs
from featurebank.probes._design import Design
from featurebank.probes._softmax import KeptLogits
from featurebank.probes.dense import DenseLinearProbe
from featurebank.probes.few_labels import FewLabelsProbe
from featurebank.probes.heads import LinearHeads
from featurebank.probes.linear import fit_linear, linear_probe, protocol_heads
from featurebank.probes.logistic import LogisticProbe, LogisticProbeCV
from featurebank.probes.multilabel import MultiLabelProbe
from featurebank.probes.neighbours import KNNProbe, knn_sweep
from featurebank.probes.ood import statistics
from featurebank.probes.ood.head import Head
from featurebank.probes.ood.names import scores
from featurebank.probes.ood.registry import get
from featurebank.probes.ood.statistics import TrainingSet
from featurebank.probes.ood.weiper import WeiPerKLD
from featurebank.probes.tokens import AttentivePoolProbe, MLPProbe
from featurebank.retrieval import _device
from featurebank.retrieval.search import nearest

X, Y = clusters(90, noise=0.8)
TEST, ANSWERS = clusters(40, noise=0.8, seed=1)
TOKENS = np.random.default_rng(0).normal(size=(24, 9, 8)).astype(np.float16)
MASKS = (TOKENS.reshape(24, 3, 3, 8)[..., 0] > 0).repeat(4, 1).repeat(4, 2).astype(np.uint8)
SEVERAL = (np.stack([Y == 0, Y > 0, X[:, 5] > 0], 1)).astype(np.int64)
HEAD = Head(np.random.default_rng(2).normal(size=(3, 8)).astype(np.float32), np.zeros(3, np.float32))
LABELS = np.arange(24) % 3


def searched(metric: Any) -> Callable[[str], Any]:
    return lambda device: nearest(TEST, X, 7, metric=metric, own=np.arange(40), device=device)


# What takes a device, by its name below the package, and what it answers there.
WALKS: dict[str, tuple[Callable[[str], Any], ...]] = {
    "probes.logistic._Logistic": (
        lambda device: LogisticProbe(0.5, device=device).fit(X, Y).decision_function(TEST),
        lambda device: LogisticProbeCV(device=device, random_state=0).fit(X, Y).decision_function(TEST),
    ),
    "probes.linear.linear_probe": (
        lambda device: linear_probe(X, Y, TEST, ANSWERS, Cs=(0.1, 1.0), device=device).predictions,
    ),
    "probes.linear.fit_linear": (
        lambda device: fit_linear(X, Y, protocol="dinov2", device=device).log_probabilities(TEST),
    ),
    "probes.linear.protocol_heads": (
        lambda device: (
            protocol_heads("bob", device=device).set_params(epochs=2, warmup_epochs=1).fit(X, Y).logits(TEST)
        ),
    ),
    "probes.few_labels.FewLabelsProbe": (
        lambda device: FewLabelsProbe((0.1, 1.0), device=device).fit(X, Y).decision_function(TEST),
        lambda device: FewLabelsProbe((0.1, 1.0), device=device).fit(X[:7], Y[:7]).decision_function(TEST),
    ),
    "probes.heads.LinearHeads": (
        lambda device: LinearHeads([0.1, 0.01], epochs=3, device=device).fit(X, Y).logits(TEST),
        lambda device: LinearHeads([0.1], epochs=3, device=device).fit(X, Y, validation=(TEST, ANSWERS)).logits(TEST),
    ),
    "probes.multilabel.MultiLabelProbe": (
        lambda device: MultiLabelProbe(device=device).fit(X, SEVERAL).decision_function(TEST),
    ),
    "probes.neighbours.KNNProbe": (lambda device: KNNProbe(5, device=device).fit(X, Y).predict_proba(TEST),),
    "probes.neighbours.knn_sweep": (
        lambda device: knn_sweep(X, Y, TEST, ANSWERS, ks=(3, 5), device=device).predictions,
    ),
    "probes.tokens._NetworkProbe": (
        lambda device: MLPProbe(8, epochs=2, device=device).fit(X, Y).logits(TEST),
        lambda device: AttentivePoolProbe(epochs=2, device=device).fit(TOKENS, LABELS).logits(TOKENS),
    ),
    "probes.dense.DenseLinearProbe": (
        lambda device: (
            DenseLinearProbe(epochs=2, device=device).fit(TOKENS, MASKS, grid=(3, 3)).decision_function(TOKENS)
        ),
    ),
    "retrieval.search.nearest": (searched("cosine"), searched("inner_product"), searched("euclidean")),
}


@pytest.mark.parametrize("name", WALKS)
def test_a_probe_or_search_finds_the_same_on_a_card(name: str) -> None:
    for walk in WALKS[name]:
        expected = walk("cpu")
        with pretend_cuda() as card:
            found = walk("cuda")
        assert card.peak > 0
        for one, other in zip(np.atleast_1d(found), np.atleast_1d(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", scores())
def test_a_score_finds_the_same_on_a_card(name: str) -> None:
    text, found = HEAD.weight + 1, []
    for device in ("cpu", "cuda"):
        score = WeiPerKLD(repeats=2) if name == "weiper+kld" else get(name)()
        with pretend_cuda() as card:
            train = TrainingSet(X.astype(np.float32), Y, head=HEAD, text=text, device=device)
            found.append(score.fit(train).score_samples(TEST.astype(np.float32)))
        assert (card.peak > 0) == (device == "cuda")
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-6 * np.abs(found[0]).mean())


def test_gpu8_noise_is_drawn_once_for_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretend_cuda():
        train = TrainingSet(X.astype(np.float32), Y, head=HEAD, device="cuda")
        score = WeiPerKLD(repeats=2).fit(train)
        monkeypatch.setattr(torch, "randn", None)
        assert np.isfinite(score.score_samples(TEST.astype(np.float32))).all()


def with_free(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (free, 8 << 30))


# 90 rows of 8 values take 4,320 bytes as the solver wants them, 1,440 as they come; half of what is free may be kept.
@pytest.mark.parametrize(
    ("free", "prepared", "sent_once"), [(8 << 30, True, True), (4000, False, True), (2000, False, False)]
)
def test_gpu8_features_stay_on_a_card_that_has_room_for_them(
    free: int, prepared: bool, sent_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, before = X.astype(np.float16), 0
    real = Design.__init__

    def noting(design: Design, *arguments: Any, **settings: Any) -> None:
        nonlocal before
        real(design, *arguments, **settings)
        assert design.in_memory == prepared
        before = card.received

    expected = LogisticProbe(0.5, dtype="float32").fit(few, Y).coef_
    monkeypatch.setattr(Design, "__init__", noting)
    with pretend_cuda() as card:
        with_free(free, monkeypatch)
        made = LogisticProbe(0.5, dtype="float32", device="cuda").fit(few, Y).coef_
        assert (card.received - before < few.nbytes) == sent_once
    np.testing.assert_allclose(made, expected, atol=1e-3)


@pytest.mark.parametrize(("free", "kept"), [(8 << 30, True), (15_000, False)])
def test_gpu8_logits_stay_on_a_card_that_has_room_for_them(
    free: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[KeptLogits] = []
    real = KeptLogits.__init__

    def noting(logits: KeptLogits, *arguments: Any) -> None:
        real(logits, *arguments)
        made.append(logits)

    monkeypatch.setattr(_lbfgs, "KEPT", 0 if kept else 2**30)  # of the CPU
    monkeypatch.setattr(KeptLogits, "__init__", noting)
    with pretend_cuda():
        with_free(free, monkeypatch)
        LogisticProbe(0.5, device="cuda").fit(X, Y)
    assert bool(made) == kept


WIDE = np.random.default_rng(3).normal(size=(200, 64)).astype(np.float16)
SORTS = np.arange(200) % 2


@pytest.mark.parametrize(
    "fit",
    [
        lambda: MLPProbe(8, epochs=10, device="cuda").fit(WIDE, SORTS),
        lambda: AttentivePoolProbe(epochs=10, n_heads=2, device="cuda").fit(WIDE.reshape(200, 8, 8), SORTS),
        lambda: LinearHeads([0.01], epochs=10, device="cuda").fit(WIDE, SORTS),
        lambda: DenseLinearProbe(epochs=10, device="cuda").fit(
            WIDE.reshape(200, 4, 16), SORTS.astype(np.uint8).repeat(4).reshape(200, 2, 2), grid=(2, 2)
        ),
    ],
    ids=["mlp", "attentive", "heads", "dense"],
)
def test_gpu8_rows_of_all_epochs_are_sent_once(fit: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    for free in (8 << 30, 2):
        with pretend_cuda() as card:
            with_free(free, monkeypatch)
            fit()
        sent.append(card.received)
    # Ten epochs of at least three quarters of the rows are ten times that, and all rows once.
    assert sent[1] - sent[0] >= 6.5 * WIDE.nbytes


def test_gpu8_training_rows_are_sent_once_for_all_rows_that_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "ROWS", 8)
    rows, few = X.astype(np.float16), TEST.astype(np.float16)
    with pretend_cuda() as card:
        train = TrainingSet(rows, Y, head=HEAD, device="cuda")
        scored = get("nnguide")(k=3).fit(train), get("knn")(k=3).fit(train)
        assert [one.score_samples(few).shape for one in scored] == [(40,), (40,)]
        assert card.received < rows.nbytes + 2 * few.nbytes + 4 * HEAD.weight.nbytes


def test_gpu8_a_search_sends_each_row_once_and_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_device, "GALLERY_ROWS", 16)
    monkeypatch.setattr(_device, "QUERY_ROWS", 8)
    gallery, queries = X.astype(np.float16), TEST.astype(np.float16)
    expected = nearest(queries, gallery, 7)
    with pretend_cuda() as card:
        made = nearest(queries, gallery, 7, device="cuda")
        assert card.received < gallery.nbytes + queries.nbytes + 4 * 40 * (7 + 90 / 16)
    np.testing.assert_array_equal(made[1], expected[1])
    np.testing.assert_allclose(made[0], expected[0], rtol=1e-5)
