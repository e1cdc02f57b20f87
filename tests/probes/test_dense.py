"""The dense linear probe against plain torch, and on images whose patches say their class."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone  # type: ignore[import-untyped]
from sklearn.metrics import accuracy_score  # type: ignore[import-untyped]

from featurebank.probes import _rows
from featurebank.probes._training import cosine_factor, shuffled_batches
from featurebank.probes.dense import DenseLinearProbe, _bilinear, _cross_entropy, _enlarged

GRID, SIZE, WIDTH, IGNORE = (4, 6), (32, 48), 12, 255


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """On a busy machine, threads that wait for each other make products as small as these a hundred times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scenes(n: int, seed: int = 0) -> tuple[Any, Any]:
    """Patches of three classes; a mask is the classes of its patches, 8 x 8 pixels each, with an ignored border."""
    directions = np.random.default_rng(9).normal(size=(3, WIDTH))
    generator = np.random.default_rng(seed)
    classes = generator.integers(0, 3, (n, *GRID))
    tokens = directions[classes].reshape(n, -1, WIDTH) + generator.normal(0, 0.2, (n, GRID[0] * GRID[1], WIDTH))
    masks = classes.repeat(8, 1).repeat(8, 2).astype(np.uint8)
    masks[:, :2] = IGNORE
    return tokens.astype(np.float16), masks


def test_it_is_a_plain_torch_loop() -> None:
    tokens, masks = scenes(20)
    ours = DenseLinearProbe(epochs=3, batch_size=8, learning_rate=0.01).fit(tokens, masks, grid=GRID)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = torch.nn.Linear(WIDTH, 3)
    norm = torch.nn.BatchNorm2d(WIDTH, affine=False, eps=1e-6)
    convolution = torch.nn.Conv2d(WIDTH, 3, 1)
    convolution.load_state_dict({"weight": layer.weight.data[:, :, None, None], "bias": layer.bias.data})

    def logits(rows: Any) -> torch.Tensor:
        maps = torch.tensor(tokens[rows]).float().transpose(1, 2).reshape(-1, WIDTH, *GRID)
        return convolution(norm(maps))  # type: ignore[no-any-return]

    adamw = torch.optim.AdamW(convolution.parameters(), lr=0.01, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: cosine_factor(step, 9))
    generator = np.random.default_rng(0)
    for _ in range(3):
        for batch in shuffled_batches(np.arange(20), 8, generator):
            enlarged = torch.nn.functional.interpolate(logits(batch), SIZE, mode="bilinear", align_corners=False)
            truth = torch.tensor(masks[batch].astype(np.int64))
            loss = torch.nn.functional.cross_entropy(enlarged, truth, ignore_index=IGNORE)
            adamw.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adamw.step()
            schedule.step()
    norm.eval()
    with torch.no_grad():
        expected = logits(slice(None))
        enlarged = torch.nn.functional.interpolate(expected, SIZE, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(ours.decision_function(tokens), expected.numpy(), atol=1e-5)
    assert (ours.predict(tokens) == enlarged.argmax(1).numpy()).mean() > 0.9999


@pytest.mark.parametrize(("old", "new"), [((4, 6), (32, 48)), ((5, 3), (7, 11)), ((16, 16), (8, 9)), ((1, 1), (3, 2))])
def test_enlarging_is_torchs_bilinear_interpolation(old: tuple[int, int], new: tuple[int, int]) -> None:
    logits = torch.randn(2, 3, *old, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.nn.functional.interpolate(logits, new, mode="bilinear", align_corners=False)
    torch.testing.assert_close(_enlarged(logits, new), expected)
    torch.testing.assert_close(_bilinear(old[0], new[0], logits).sum(1), torch.ones(new[0], dtype=torch.float64))


def test_the_loss_is_torchs_and_0_where_every_pixel_is_ignored() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator)
    pixels = torch.randint(0, 4, (2, 5, 6), generator=generator)
    pixels[0, :3] = IGNORE
    expected = torch.nn.functional.cross_entropy(logits, pixels, ignore_index=IGNORE)
    torch.testing.assert_close(_cross_entropy(logits, pixels, IGNORE), expected)
    assert _cross_entropy(logits, torch.full_like(pixels, IGNORE), IGNORE) == 0


def test_it_learns_the_classes_of_patches_and_carries_over_to_other_images() -> None:
    tokens, masks = scenes(60)
    other, other_masks = scenes(20, seed=1)
    probe = DenseLinearProbe(learning_rate=0.01).fit(tokens, masks, grid=GRID)
    predicted = probe.predict(other)
    counts = other_masks != IGNORE
    assert predicted.shape == other_masks.shape
    assert probe.score(other, other_masks) == accuracy_score(other_masks[counts], predicted[counts])
    assert (probe.decision_function(other).argmax(1).repeat(8, 1).repeat(8, 2) == other_masks)[counts].mean() > 0.99
    assert probe.loss_[-1] < probe.loss_[0]
    assert probe.predict(other, size=(64, 96)).shape == (20, 64, 96)


def test_batches_are_the_prediction_in_parts() -> None:
    tokens, masks = scenes(10)
    probe = DenseLinearProbe(epochs=1, batch_size=4).fit(tokens, masks, grid=GRID)
    parts = list(probe.predict_batches(tokens))
    assert [(rows.start, rows.stop) for rows, _ in parts] == [(0, 4), (4, 8), (8, 10)]
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), probe.predict(tokens))


def test_rows_by_their_numbers_are_those_rows_and_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rows, "SLICE_VALUES", 4096)
    tokens, masks = scenes(2000)
    rows = np.random.default_rng(0).permutation(2000)[:1600]
    probe = DenseLinearProbe(epochs=1, n_classes=int(masks[masks != IGNORE].max()) + 1)
    copied = clone(probe).fit(tokens[rows], masks[rows], grid=GRID)  # first: what it imports is not measured
    tracemalloc.start()
    ours = probe.fit(tokens, masks, grid=GRID, rows=rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    parts = [part for _, part in ours.predict_batches(tokens, rows=rows[:40])]
    # Where arrays lie in memory decides in which order some kernels add up.
    assert ours.loss_ == pytest.approx(copied.loss_, rel=1e-5)
    assert (np.concatenate(parts) == copied.predict(tokens[rows[:40]])).mean() > 0.999
    assert peak < tokens.nbytes / 2


def test_a_row_that_was_not_chosen_is_not_looked_at() -> None:
    tokens, masks = scenes(12)
    tokens[3, 0, 0] = np.nan
    DenseLinearProbe(epochs=1).fit(tokens, masks, grid=GRID, rows=np.array([0, 1, 2, 4, 5, 6]))
    with pytest.raises(ValueError, match=r"NaN or infinity .* in row 3"):
        DenseLinearProbe(epochs=1).fit(tokens, masks, grid=GRID, rows=np.array([5, 3]))


def test_ignored_pixels_and_images_do_not_matter() -> None:
    tokens, masks = scenes(10)
    empty = masks.copy()
    empty[3] = IGNORE
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 16}
    expected = DenseLinearProbe(**settings).fit(tokens, empty, grid=GRID).decision_function(tokens)
    moved = empty.astype(np.int64)
    moved[moved == IGNORE] = -1
    found = DenseLinearProbe(**settings, ignore_index=-1).fit(tokens, moved, grid=GRID).decision_function(tokens)
    np.testing.assert_array_equal(found, expected)
    other = np.where(empty == IGNORE, 0, empty)
    assert (
        np.abs(DenseLinearProbe(**settings).fit(tokens, other, grid=GRID).decision_function(tokens) - expected).max()
        > 1e-4
    )


def test_it_reproduces_to_the_last_digit_and_the_seed_matters() -> None:
    tokens, masks = scenes(10)
    before = torch.random.get_rng_state()
    first, second, other = (
        DenseLinearProbe(epochs=2, random_state=seed).fit(tokens, masks, grid=GRID).decision_function(tokens)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 1e-4
    assert torch.equal(before, torch.random.get_rng_state())


def test_float_types_memory_maps_and_pickles_give_the_same(tmp_path: Path) -> None:
    tokens, masks = scenes(10)
    np.save(tmp_path / "tokens.npy", tokens)
    probe = DenseLinearProbe(epochs=2).fit(tokens, masks, grid=GRID)
    expected = probe.decision_function(tokens)
    for same in (np.load(tmp_path / "tokens.npy", mmap_mode="r"), tokens.astype(np.float64)):
        found = DenseLinearProbe(epochs=2).fit(same, masks.astype(np.int32), grid=GRID).decision_function(same)
        np.testing.assert_array_equal(found, expected)
    again = pickle.loads(pickle.dumps(probe))  # noqa: S301 - our own bytes
    np.testing.assert_array_equal(again.decision_function(tokens), expected)
    assert again.get_params()["epochs"] == 2


def with_nan(tokens: Any) -> Any:
    tokens = tokens.copy()
    tokens[7, 3, 2] = np.nan
    return tokens


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({}, lambda t, m: (t, m, (5, 5)), r"grid must be \(h, w\) with h \* w = 24, .* found \(5, 5\)"),
        ({}, lambda t, m: (t[:, :, 0], m, GRID), r"tokens must be \(N, h \* w, D\)"),
        ({}, lambda t, m: (with_nan(t), m, GRID), "tokens must be finite in float32; .* in row 7"),
        ({}, lambda t, m: (t, m[:-1], GRID), r"masks must be \(N, H, W\) for 10 images; found shape \(9, 32, 48\)"),
        ({}, lambda t, m: (t, m / 2, GRID), "masks must be integers; found float64"),
        ({}, lambda t, m: (t, m * 0 + IGNORE, GRID), "masks must have pixels other than ignore_index, 255; found none"),
        ({}, lambda t, m: (t, m * 0, GRID), "at least two classes; found one class, 0"),
        ({"n_classes": 2}, None, "classes 0 to 1 or ignore_index, 255; found classes from 0 to 2"),
        ({"ignore_index": -1, "n_classes": 3}, None, "found classes from 0 to 255; set n_classes or ignore_index"),
        ({"n_classes": 1}, None, "n_classes must be at least 2; found 1"),
        ({"epochs": 0}, None, "epochs must be at least 1; found 0"),
        ({"learning_rate": 1e30}, None, "the loss must stay finite"),
        ({"device": "nowhere"}, None, "device must be one that torch can use here"),
    ],
)
def test_bad_input_is_one_clear_error(settings: dict[str, Any], change: Any, message: str) -> None:
    tokens, masks = scenes(10)
    tokens, masks, grid = (tokens, masks, GRID) if change is None else change(tokens, masks)
    with pytest.raises(ValueError, match=message):
        DenseLinearProbe(**settings).fit(tokens, masks, grid=grid)


def test_tokens_unlike_those_of_fit_are_refused() -> None:
    from sklearn.exceptions import NotFittedError  # type: ignore[import-untyped]

    tokens, masks = scenes(10)
    with pytest.raises(NotFittedError):
        DenseLinearProbe().predict(tokens)
    probe = DenseLinearProbe(epochs=1).fit(tokens, masks, grid=GRID)
    with pytest.raises(ValueError, match=r"tokens must be \(M, 24, 12\), as in fit; found shape \(10, 24, 11\)"):
        probe.predict(tokens[:, :, 1:])
    with pytest.raises(ValueError, match="masks must have pixels other than ignore_index"):
        probe.score(tokens, np.full_like(masks, IGNORE))


@pytest.mark.cuda
def test_a_gpu_gives_the_same_and_repeats() -> None:
    tokens, masks = scenes(20)
    on_cpu, on_gpu, again = (
        DenseLinearProbe(epochs=3, device=device).fit(tokens, masks, grid=GRID).decision_function(tokens)
        for device in ("cpu", "cuda", "cuda")
    )
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-3)
    np.testing.assert_array_equal(on_gpu, again)
