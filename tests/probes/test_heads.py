"""Many heads in one pass against torch's own layers and optimizer, a formula of LARS, and themselves one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.utils.estimator_checks import parametrize_with_checks  # type: ignore[import-untyped]

from featurebank.probes._holding import held_out
from featurebank.probes._training import cosine_factor, shuffled_batches
from featurebank.probes.heads import LinearHeads

EPOCHS, BATCH, MOMENTUM, DECAY, RATE = 5, 128, 0.9, 1e-3, 0.05


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


def batches(n_rows: int, seed: int = 0) -> list[Any]:
    generator = np.random.default_rng((seed, 0))
    return [batch for _ in range(EPOCHS) for batch in shuffled_batches(np.arange(n_rows), BATCH, generator)]


def one_head(**changes: Any) -> LinearHeads:
    settings: dict[str, Any] = {"momentum": MOMENTUM, "epochs": EPOCHS, "batch_size": BATCH}
    return LinearHeads([RATE], [DECAY], **(settings | changes))


def test_one_head_is_a_plain_torch_loop() -> None:
    x, y, x_test, y_test = digits()
    ours = one_head(warmup_epochs=2).fit(x, y, validation=(x_test, y_test))
    norm = torch.nn.BatchNorm1d(64, affine=False, eps=1e-6)
    layer = torch.nn.Linear(64, 10)
    torch.nn.init.trunc_normal_(layer.weight, std=0.01, generator=torch.Generator().manual_seed(0))
    torch.nn.init.zeros_(layer.bias)
    sgd = torch.optim.SGD(layer.parameters(), lr=RATE * BATCH / 256, momentum=MOMENTUM, weight_decay=DECAY)
    steps = batches(len(x))
    warmup = 2 * len(steps) // EPOCHS
    schedule = torch.optim.lr_scheduler.LambdaLR(sgd, lambda step: cosine_factor(step, len(steps), warmup))
    for batch in steps:
        loss = torch.nn.functional.cross_entropy(layer(norm(torch.tensor(x[batch]).float())), torch.tensor(y[batch]))
        sgd.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        sgd.step()
        schedule.step()
    norm.eval()
    with torch.no_grad():
        expected = layer(norm(torch.tensor(x_test).float())).numpy()
    np.testing.assert_allclose(ours.logits(x_test), expected, atol=1e-5)
    np.testing.assert_allclose(ours.coef_, layer.weight.detach().numpy(), atol=1e-5)
    assert norm.running_var is not None
    np.testing.assert_allclose(ours.variance_, norm.running_var.numpy(), rtol=1e-5)
    assert ours.validation_accuracy_.item() == (expected.argmax(1) == y_test).mean()


def test_lars_is_the_formula_of_its_paper() -> None:
    x, y, *_ = digits()
    ours = one_head(optimizer="lars").fit(x, y, validation=(x, y))
    start = torch.nn.init.trunc_normal_(torch.empty(10, 64), std=0.01, generator=torch.Generator().manual_seed(0))
    w, b = start.double().numpy(), np.zeros(10)
    v, u = np.zeros_like(w), np.zeros_like(b)
    steps = batches(len(x))
    for step, batch in enumerate(steps):
        z = x[batch].astype(np.float64)
        z = (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-6)
        p = np.exp(z @ w.T + b)
        p = p / p.sum(1, keepdims=True) - np.eye(10)[y[batch]]
        g = p.T @ z / len(z)
        rate = RATE * BATCH / 256 * 0.5 * (1 + np.cos(np.pi * step / len(steps)))
        local = 0.001 * np.linalg.norm(w) / (np.linalg.norm(g) + DECAY * np.linalg.norm(w))
        v = MOMENTUM * v + rate * local * (g + DECAY * w)
        u = MOMENTUM * u + rate * p.mean(0)
        w, b = w - v, b - u
    np.testing.assert_allclose(ours.coef_, w, atol=1e-6)
    np.testing.assert_allclose(ours.intercept_, b, atol=1e-6)
    assert np.abs(ours.coef_ - start.numpy()).max() > 1e-5


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_a_head_among_many_ends_where_it_would_have_ended_alone(optimizer: Any) -> None:
    x, y, x_test, y_test = digits()
    rates, decays = [1e-4, 1e-2, 0.05], [0.0, 1e-2]
    settings: dict[str, Any] = {"optimizer": optimizer, "epochs": EPOCHS, "batch_size": BATCH}
    many = LinearHeads(rates, decays, **settings).fit(x, y, validation=(x_test, y_test))
    accuracy = np.empty((3, 2))
    for i, rate in enumerate(rates):
        for j, decay in enumerate(decays):
            alone = LinearHeads([rate], [decay], **settings).fit(x, y, validation=(x_test, y_test))
            accuracy[i, j] = alone.validation_accuracy_.item()
            if many.best_ == {"learning_rate": rate, "weight_decay": decay}:
                np.testing.assert_allclose(many.logits(x_test), alone.logits(x_test), atol=1e-5)
    np.testing.assert_allclose(many.validation_accuracy_, accuracy, atol=1.5 / len(y_test))
    assert many.validation_accuracy_.max() == many.score(x_test, y_test)


def test_it_comes_close_to_logistic_regression() -> None:
    x, y, x_test, y_test = digits()
    heads = LinearHeads(batch_size=256).fit(x, y)
    reference = LogisticRegression(max_iter=5000).fit(x.astype(float) / 16, y)
    assert heads.score(x_test, y_test) > reference.score(x_test.astype(float) / 16, y_test) - 0.015
    proba = heads.predict_proba(x_test)
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-12)
    assert (heads.classes_[proba.argmax(1)] == heads.predict(x_test)).all()


def test_without_validation_rows_the_best_head_is_trained_again_on_all_rows() -> None:
    x, y, *_ = digits()
    settings: dict[str, Any] = {"epochs": EPOCHS, "batch_size": BATCH}
    heads = LinearHeads([1e-5, RATE], **settings).fit(x, y)
    assert heads.best_ == {"learning_rate": RATE, "weight_decay": 0.0}
    again = LinearHeads([RATE], **settings).fit(x, y, validation=(x[:1], y[:1]))
    np.testing.assert_array_equal(heads.coef_, again.coef_)
    fitting, validating = held_out(y, 0.2, np.random.default_rng((0, 1)))
    part = LinearHeads([1e-5, RATE], **settings).fit(x[fitting], y[fitting], validation=(x[validating], y[validating]))
    np.testing.assert_allclose(part.validation_accuracy_, heads.validation_accuracy_, atol=0.02)


def test_it_reproduces_to_the_last_digit_and_the_seed_matters() -> None:
    x, y, x_test, _ = digits()
    first, second, other = (one_head(random_state=seed).fit(x, y).logits(x_test) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 1e-4


def test_the_global_generators_are_left_alone() -> None:
    x, y, *_ = digits()
    before = torch.random.get_rng_state()
    one_head().fit(x, y)
    assert torch.equal(before, torch.random.get_rng_state())


def test_float_types_and_read_only_memory_maps_give_the_same(tmp_path: Path) -> None:
    x, y, x_test, _ = digits()
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = one_head().fit(x, y).logits(x_test)
    for features in (mapped, x.astype(np.float32), x.astype(np.float64)):
        np.testing.assert_array_equal(one_head().fit(features, y).logits(x_test), expected)


def test_a_head_that_diverges_is_not_chosen_and_harms_no_other() -> None:
    x, y, x_test, y_test = digits()
    heads = LinearHeads([RATE, 1e38], epochs=EPOCHS, batch_size=BATCH).fit(x, y, validation=(x_test, y_test))
    assert np.isnan(heads.validation_accuracy_).tolist() == [[False], [True]]
    assert heads.best_["learning_rate"] == RATE
    assert heads.score(x_test, y_test) > 0.85
    with pytest.raises(ValueError, match="no head stayed finite"):
        LinearHeads([1e38], epochs=EPOCHS).fit(x, y)


def test_constant_features_do_no_harm() -> None:
    x, y, x_test, y_test = digits()
    x, x_test = (np.concatenate([part, np.full((len(part), 1), 3.0, np.float16)], 1) for part in (x, x_test))
    assert one_head(epochs=30).fit(x, y).score(x_test, y_test) > 0.85


def test_no_batch_is_a_single_row() -> None:
    x, y, *_ = digits()
    heads = LinearHeads([RATE], epochs=3, batch_size=2).fit(x[:31], y[:31], validation=(x[:31], y[:31]))
    assert np.isfinite(heads.validation_accuracy_).all()
    sizes = {len(batch) for batch in shuffled_batches(np.arange(31), 2, np.random.default_rng(0))}
    assert sizes == {2, 3}


def with_nan(x: Any) -> Any:
    x = x.copy()
    x[7, 3] = np.nan
    return x


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({}, lambda x, y: (x, y * 0), "at least two classes; found one class, 0"),
        ({}, lambda x, y: (with_nan(x), y), "finite in float32; found NaN or infinity .* in row 7"),
        ({}, lambda x, y: (x[:2], y[:2]), "at least two rows to validate on one"),
        ({"optimizer": "adam"}, None, "optimizer must be one of sgd, lars; found 'adam'"),
        ({"learning_rates": []}, None, "learning_rates must be at least one finite number above 0"),
        ({"learning_rates": [0.0]}, None, r"learning_rates must be at least one finite number above 0; found \[0.0\]"),
        (
            {"weight_decays": [-1.0]},
            None,
            r"weight_decays must be at least one finite number of 0 or more; found \[-1.0\]",
        ),
        ({"epochs": 0}, None, "epochs must be at least 1; found 0"),
        ({"batch_size": 1}, None, "batch_size must be at least 2; found 1"),
        ({"warmup_epochs": 90}, None, "warmup_epochs must be below epochs, 90; found 90"),
        ({"validation_fraction": 1.0}, None, "validation_fraction must be above 0 and below 1; found 1.0"),
        ({"device": "cuda:99"}, None, "device must be one that torch can use here"),
    ],
)
def test_bad_input_is_one_clear_error(settings: dict[str, Any], change: Any, message: str) -> None:
    x, y, *_ = digits()
    if change is not None:
        x, y = change(x, y)
    with pytest.raises(ValueError, match=message):
        LinearHeads(**settings).fit(x, y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, y + 1), "among the 10 classes of the training rows; found also 10"),
        (lambda x, y: (x, y[:-1]), "one class per row"),
        (lambda x, y: (x[:, :5], y), "5 features"),
        (lambda x, y: (with_nan(x), y), "validation features must be finite"),
    ],
)
def test_bad_validation_rows_are_one_clear_error(change: Any, message: str) -> None:
    x, y, x_test, y_test = digits()
    with pytest.raises(ValueError, match=message):
        one_head().fit(x, y, validation=change(x_test, y_test))


@parametrize_with_checks([LinearHeads(epochs=60, batch_size=64)])  # type: ignore[untyped-decorator]
def test_scikit_learn_conventions(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.cuda
def test_a_gpu_gives_the_same() -> None:
    x, y, x_test, _ = digits()
    on_cpu, on_gpu = (one_head(device=device).fit(x, y).logits(x_test) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-3)
