"""The MLP and the attentive probe against plain torch, and on tasks that a linear probe of the mean cannot solve."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.metrics import log_loss  # type: ignore[import-untyped]
from sklearn.utils.estimator_checks import parametrize_with_checks  # type: ignore[import-untyped]

from featurebank.probes._holding import held_out
from featurebank.probes._training import cosine_factor, shuffled_batches
from featurebank.probes.tokens import AttentivePool, AttentivePoolProbe, MLPProbe


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """On a busy machine, threads that wait for each other make products as small as these a hundred times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def digits() -> tuple[Any, Any, Any, Any]:
    x, y = load_digits(return_X_y=True)
    return x[:900].astype(np.float16), y[:900], x[900:].astype(np.float16), y[900:]


def marked_tokens(n: int, seed: int) -> tuple[Any, Any]:
    """One token of 12 says the class, at a random place and marked by its first feature; the others say others."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, n)
    tokens = generator.normal(0, 0.3, (n, 12, 16))
    tokens[np.arange(n)[:, None], np.arange(12), 1 + generator.integers(0, 3, (n, 12))] += 2
    place = generator.integers(0, 12, n)
    tokens[np.arange(n), place] = generator.normal(0, 0.3, (n, 16))
    tokens[np.arange(n), place, 0] += 4
    tokens[np.arange(n), place, 1 + labels] += 2
    return tokens.astype(np.float16), labels


def plain_loop(network: torch.nn.Module, x: Any, y: Any, *, epochs: int, batch_size: int, decay: float) -> None:
    adamw = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=decay)
    steps = epochs * -(-len(x) // batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: cosine_factor(step, steps))
    generator = np.random.default_rng((0, 0))
    for _ in range(epochs):
        for batch in shuffled_batches(np.arange(len(x)), batch_size, generator):
            loss = torch.nn.functional.cross_entropy(network(torch.tensor(x[batch]).float()), torch.tensor(y[batch]))
            adamw.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adamw.step()
            schedule.step()
    network.eval()


def test_the_mlp_is_a_plain_torch_loop() -> None:
    x, y, x_test, y_test = digits()
    ours = MLPProbe(32, epochs=3, batch_size=128).fit(x, y, validation=(x_test, y_test))
    assert ours.best_epoch_ == 2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = torch.nn.Linear(64, 32), torch.nn.GELU(), torch.nn.Linear(32, 10)
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(64, affine=False, eps=1e-6), *layers)
    plain_loop(network, x, y, epochs=3, batch_size=128, decay=0.01)
    with torch.no_grad():
        expected = network(torch.tensor(x_test).float()).numpy()
    np.testing.assert_allclose(ours.logits(x_test), expected, atol=1e-5)
    assert ours.validation_loss_[-1] == pytest.approx(log_loss(y_test, ours.predict_proba(x_test)), rel=1e-6)
    assert ours.validation_accuracy_[-1] == ours.score(x_test, y_test)


def test_the_pooling_is_multi_head_attention_with_one_query() -> None:
    torch.manual_seed(0)
    ours = AttentivePool(24, 5, 3, eps=1e-6)
    reference = torch.nn.MultiheadAttention(24, 3, bias=False, batch_first=True)
    tokens = torch.randn(6, 7, 24) * 3 + 1
    with torch.no_grad():
        ours.query.mul_(50)
        reference.in_proj_weight.copy_(torch.cat([torch.eye(24), ours.key.weight, ours.value.weight]))
        reference.out_proj.weight.copy_(torch.eye(24))
        x = torch.nn.BatchNorm1d(24, affine=False, eps=1e-6)(tokens.transpose(1, 2)).transpose(1, 2)
        query = ours.query.flatten().expand(6, 1, 24)
        pooled, attention = reference(query, x, x, average_attn_weights=False)
        torch.testing.assert_close(ours(tokens), ours.head(pooled[:, 0]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.attention(x).transpose(1, 2), attention[:, :, 0], atol=1e-6, rtol=1e-5)
        assert attention.amax() > 0.5


def test_the_attentive_probe_is_a_plain_torch_loop() -> None:
    x, y = marked_tokens(300, 0)
    x_test, y_test = marked_tokens(100, 1)
    ours = AttentivePoolProbe(4, epochs=2, batch_size=64).fit(x, y, validation=(x_test, y_test))
    assert ours.best_epoch_ == 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = AttentivePool(16, 3, 4, eps=1e-6)
    plain_loop(network, x, y, epochs=2, batch_size=64, decay=0.01)
    with torch.no_grad():
        expected = network(torch.tensor(x_test).float()).numpy()
    np.testing.assert_allclose(ours.logits(x_test), expected, atol=1e-5)


def test_attention_finds_the_token_that_matters() -> None:
    x, y = marked_tokens(1500, 0)
    x_test, y_test = marked_tokens(400, 1)
    probe = AttentivePoolProbe(1, learning_rate=0.01, epochs=30).fit(x, y)
    mean = MLPProbe(64, learning_rate=0.01, epochs=30).fit(x.mean(1, dtype=np.float32), y)
    assert probe.score(x_test, y_test) > 0.95
    assert mean.score(x_test.mean(1, dtype=np.float32), y_test) < 0.8
    attention = probe.attention(x_test)
    assert attention.shape == (400, 1, 12)
    np.testing.assert_allclose(attention.sum(2), 1, atol=1e-5)
    assert (attention[:, 0].argmax(1) == x_test[:, :, 0].argmax(1)).mean() > 0.95


def test_training_stops_early_and_keeps_the_best_epoch() -> None:
    x, y, x_test, y_test = digits()
    generator = np.random.default_rng(0)
    noisy = np.where(generator.random(len(y)) < 0.5, generator.integers(0, 10, len(y)), y)
    probe = MLPProbe(256, learning_rate=0.01, patience=3).fit(x, noisy, validation=(x_test, y_test))
    assert len(probe.validation_loss_) == probe.best_epoch_ + 4 < 100
    assert probe.validation_loss_[probe.best_epoch_] == min(probe.validation_loss_)
    assert log_loss(y_test, probe.predict_proba(x_test)) == pytest.approx(min(probe.validation_loss_), rel=1e-6)


def test_without_validation_rows_a_fifth_is_held_out() -> None:
    x, y, *_ = digits()
    fitting, validating = held_out(y, 0.2, np.random.default_rng((0, 1)))
    assert abs(len(validating) - 180) < 6
    given = MLPProbe(32, epochs=2).fit(x[fitting], y[fitting], validation=(x[validating], y[validating]))
    held = MLPProbe(32, epochs=2).fit(x, y)
    np.testing.assert_allclose(held.validation_loss_, given.validation_loss_, rtol=0.1)


@pytest.mark.parametrize("kind", [MLPProbe, AttentivePoolProbe])
def test_it_reproduces_to_the_last_digit_and_leaves_the_global_generator_alone(kind: Any) -> None:
    x, y = marked_tokens(120, 0)
    x = x if kind is AttentivePoolProbe else x[:, 0]
    before = torch.random.get_rng_state()
    first, second, other = (kind(epochs=2, random_state=seed).fit(x, y).logits(x) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 1e-4
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("kind", [MLPProbe, AttentivePoolProbe])
def test_float_types_and_read_only_memory_maps_give_the_same(kind: Any, tmp_path: Path) -> None:
    x, y = marked_tokens(120, 0)
    x = x if kind is AttentivePoolProbe else np.ascontiguousarray(x[:, 0])
    np.save(tmp_path / "x.npy", x)
    expected = kind(epochs=2).fit(x, y).logits(x)
    for same in (np.load(tmp_path / "x.npy", mmap_mode="r"), x.astype(np.float32), x.astype(np.float64)):
        np.testing.assert_array_equal(kind(epochs=2).fit(same, y).logits(same), expected)


def test_it_pickles_and_labels_may_be_words() -> None:
    x, codes = marked_tokens(120, 0)
    y = np.array(["cat", "dog", "eel"])[codes]
    probe = AttentivePoolProbe(epochs=2).fit(x, y)
    again = pickle.loads(pickle.dumps(probe))  # noqa: S301 - our own bytes
    np.testing.assert_array_equal(again.predict_proba(x), probe.predict_proba(x))
    assert set(probe.predict(x)) <= {"cat", "dog", "eel"}


def with_nan(x: Any) -> Any:
    x = x.copy()
    x[7, 3, 2] = np.nan
    return x


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({}, lambda x, y: (x[:, 0], y), r"tokens must be \(N, T, D\) with no axis of length 0; found shape \(60, 16\)"),
        ({}, lambda x, y: (x[:, :0], y), "no axis of length 0"),
        ({}, lambda x, y: (with_nan(x), y), "finite in float32; found NaN or infinity .* in row 7"),
        ({}, lambda x, y: (x, y[:-1]), "labels must be one class per row"),
        ({}, lambda x, y: (x, y * 0), "at least two classes; found one class, 0"),
        ({"n_heads": 5}, None, "n_heads must divide D, 16; found 5"),
        ({"n_heads": 0}, None, "n_heads must be at least 1; found 0"),
        ({"patience": 0}, None, "patience must be at least 1; found 0"),
        ({"learning_rate": float("nan")}, None, "learning_rate must be above 0 and finite; found nan"),
        ({"learning_rate": 1e30}, None, "the loss must stay finite"),
        ({"device": "nowhere"}, None, "device must be one that torch can use here"),
    ],
)
def test_bad_input_is_one_clear_error(settings: dict[str, Any], change: Any, message: str) -> None:
    x, y = marked_tokens(60, 0)
    if change is not None:
        x, y = change(x, y)
    with pytest.raises(ValueError, match=message):
        AttentivePoolProbe(**settings).fit(x, y)


def test_tokens_of_another_width_are_refused() -> None:
    x, y = marked_tokens(60, 0)
    probe = AttentivePoolProbe(epochs=1).fit(x, y)
    with pytest.raises(ValueError, match="tokens must have 16 features, as in fit; found 8"):
        probe.predict(x[:, :, :8])
    assert probe.predict(x[:, :5]).shape == (60,)


@parametrize_with_checks([MLPProbe(32, learning_rate=0.01, epochs=60, batch_size=64)])  # type: ignore[untyped-decorator]
def test_scikit_learn_conventions(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.cuda
def test_a_gpu_gives_the_same() -> None:
    x, y = marked_tokens(300, 0)
    on_cpu, on_gpu, again = (
        AttentivePoolProbe(epochs=3, device=device).fit(x, y).logits(x) for device in ("cpu", "cuda", "cuda")
    )
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-2)
    np.testing.assert_array_equal(on_gpu, again)
