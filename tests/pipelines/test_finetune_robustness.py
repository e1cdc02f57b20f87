"""Attacks, against foolbox's on the same small network, and what they must leave alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from torch import Tensor, nn

from featurebank.extract.preprocessing import Preprocessing
from featurebank.extract.transform import Transform, normalisation
from featurebank.pipelines.jobs.finetune.robustness import InPixels, Norm, apgd_ce, pgd, withstood

with warnings.catch_warnings():  # it imports from a namespace that SciPy has deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    import foolbox

TESTED = 500
RADII: dict[Norm, tuple[float, ...]] = {"linf": (0.03, 0.06, 0.1), "l2": (0.3, 0.6, 1.0)}


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """All digits as images (N, 1, 8, 8) in [0, 1]; the last 500 are not trained on."""
    data = load_digits()
    return torch.tensor(data.images[:, None] / 16, dtype=torch.float32), torch.tensor(data.target)


@pytest.fixture(scope="module")
def network(digits: tuple[Tensor, Tensor]) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(512, 10),
    )  # fmt: skip
    images, labels = (values[:-TESTED] for values in digits)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(6):
        for batch in torch.randperm(len(images)).chunk(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def rows(digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return digits[0][-TESTED:], digits[1][-TESTED:]


def in_batches(rows: tuple[Tensor, Tensor], size: int = 100) -> list[tuple[Tensor, Tensor]]:
    images, labels = rows
    return [(images[at : at + size], labels[at : at + size]) for at in range(0, len(images), size)]


def right(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images).argmax(1) == labels  # type: ignore[no-any-return]


def distances(one: Tensor, other: Tensor, norm: Norm) -> Tensor:
    away = (one - other).flatten(1)
    return away.abs().amax(1) if norm == "linf" else away.square().sum(1).sqrt()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_from_the_centre_is_foolboxs(network: nn.Module, rows: tuple[Tensor, Tensor], norm: Norm) -> None:
    reference = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    images, labels = rows
    model = foolbox.models.pytorch.PyTorchModel(network, bounds=(0, 1), device="cpu")
    for radius in RADII[norm]:
        attack = reference(abs_stepsize=radius / 4, steps=10, random_start=False)
        _, theirs, fell = attack(model, images, labels, epsilons=radius)
        ours = pgd(network, images, labels, norm=norm, radius=radius, steps=10, step_size=radius / 4, start="centre")
        held = right(network, ours, labels)
        assert (held == fell).sum() <= 1
        assert distances(ours, theirs, norm)[held & ~fell].max() < 1e-4
        assert 0.02 < float(fell.float().mean()) < 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_is_as_strong_as_pgd_with_the_same_steps(
    network: nn.Module, rows: tuple[Tensor, Tensor], norm: Norm
) -> None:
    for radius in RADII[norm][:2]:
        simple = partial(pgd, norm=norm, radius=radius, steps=20, step_size=radius / 8)
        auto = partial(apgd_ce, norm=norm, radius=radius, steps=20)
        by_pgd, by_apgd = (withstood(network, in_batches(rows), [attack])[1].mean() for attack in (simple, auto))
        assert by_apgd <= by_pgd + 0.01


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_halves_its_steps_until_it_stands_on_the_highest_loss(norm: Norm) -> None:
    images = torch.full((8, 1, 4, 4), 0.5)
    highest = images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)

    class Peak(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            far = (x - highest).square().sum((1, 2, 3))
            return torch.stack([far, torch.full_like(far, -5)], 1)

    labels = torch.zeros(8, dtype=torch.int64)
    halved = apgd_ce(Peak(), images, labels, norm=norm, radius=0.8, steps=100)
    assert distances(halved, highest, norm).max() < 0.02


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", [partial(pgd, steps=5, step_size=0.5), partial(apgd_ce, steps=5)])
def test_what_comes_out_is_an_image_in_the_ball(
    network: nn.Module, rows: tuple[Tensor, Tensor], attack: Any, norm: Norm
) -> None:
    images, labels = rows
    attacked = attack(network, images, labels, norm=norm, radius=0.4)
    assert distances(attacked, images, norm).max() <= 0.4 + 1e-6
    assert distances(attacked, images, norm).median() > 0.2
    assert 0 <= attacked.min() <= attacked.max() <= 1


def test_an_image_that_is_taken_for_another_takes_no_more_steps(
    network: nn.Module, rows: tuple[Tensor, Tensor]
) -> None:
    images, labels = rows[0][:20], rows[1][:20]
    fell = torch.arange(20) % 2 == 0
    assert right(network, images, labels).all()
    labels = torch.where(fell, (labels + 1) % 10, labels)
    attacked = pgd(network, images, labels, norm="l2", radius=0.01, steps=3, step_size=0.01, start="centre")
    assert torch.equal((attacked != images).flatten(1).any(1), ~fell)


def test_random_starts_fill_the_ball(network: nn.Module) -> None:
    images, labels = torch.full((200, 1, 8, 8), 0.5), torch.zeros(200, dtype=torch.int64)
    start = partial(pgd, network, images, labels, steps=1, step_size=1e-9, seed=3)
    even = start(norm="linf", radius=0.2) - images
    assert torch.allclose(even.std(), torch.tensor(0.4 / 12**0.5), rtol=0.02)
    shares = distances(start(norm="l2", radius=0.2), images, "l2") / 0.2
    assert torch.allclose((shares**64).mean(), torch.tensor(0.5), atol=0.07)


def test_a_row_is_drawn_by_its_number_and_the_seed(network: nn.Module, rows: tuple[Tensor, Tensor]) -> None:
    images, labels = rows[0][:6], rows[1][:6]
    for attack in (partial(pgd, steps=3, step_size=0.02), partial(apgd_ce, steps=3)):
        whole = attack(network, images, labels, norm="linf", radius=0.1, seed=1)
        part = attack(network, images[4:], labels[4:], norm="linf", radius=0.1, seed=1, rows=[4, 5])
        other = attack(network, images, labels, norm="linf", radius=0.1, seed=2)
        torch.testing.assert_close(part, whole[4:], rtol=0, atol=1e-6)
        assert not torch.equal(whole, other)


def test_rows_withstand_fewer_attacks_at_larger_radii_in_any_batches(
    network: nn.Module, rows: tuple[Tensor, Tensor]
) -> None:
    attacks = [partial(pgd, norm="linf", radius=r, steps=5, step_size=r / 2, seed=1) for r in RADII["linf"]]
    held = withstood(network, in_batches(rows), attacks)
    accuracies = held.mean(1)
    assert held.shape == (4, TESTED)
    assert accuracies[0] == right(network, *rows).float().mean()
    assert (np.diff(accuracies) < 0).all()
    alone = [withstood(network, in_batches(rows), [attack])[1].mean() for attack in attacks]
    np.testing.assert_allclose(accuracies[1:], alone, atol=1 / TESTED)
    assert (withstood(network, in_batches(rows, 37), attacks) != held).sum() <= 1


def test_only_rows_that_still_stand_are_attacked(network: nn.Module, rows: tuple[Tensor, Tensor]) -> None:
    seen: list[list[int]] = []

    def breaking(model: nn.Module, images: Tensor, labels: Tensor, *, rows: Sequence[int]) -> Tensor:  # noqa: ARG001
        seen.append(list(rows))
        turned = images.clone()
        turned[0] = 1 - turned[0]
        return turned

    right_at_first = np.flatnonzero(right(network, *rows)).tolist()
    held = withstood(network, in_batches(rows, TESTED), [breaking, breaking])
    assert seen[0] == right_at_first
    assert seen[1] == np.flatnonzero(held[1]).tolist()
    assert seen[1] != seen[0]


def test_the_network_is_left_as_it_was(network: nn.Sequential, rows: tuple[Tensor, Tensor]) -> None:
    network.train()
    network[1].eval()
    network[4].requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = ([m.training for m in network.modules()], [p.requires_grad for p in network.parameters()])
    for parameter in network.parameters():
        parameter.grad = None
    try:
        attacks = [
            partial(pgd, norm="l2", radius=0.3, steps=2, step_size=0.1),
            partial(apgd_ce, norm="linf", radius=0.1, steps=3),
        ]
        with torch.no_grad():
            first, again = (withstood(network, in_batches(rows), attacks) for _ in range(2))
        assert ([m.training for m in network.modules()], [p.requires_grad for p in network.parameters()]) == state
        assert all(parameter.grad is None for parameter in network.parameters())
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        np.testing.assert_array_equal(first, again)  # with dropout on, they would differ
    finally:
        network.requires_grad_(True).eval()


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_pixels_become_what_extraction_makes_of_them(channels: Any) -> None:
    record = Preprocessing(
        height=16, width=16, resize_height=16, resize_width=16, interpolation="bilinear",
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), channels=channels,
    )  # fmt: skip
    pixels = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    scale, shift = normalisation(record)
    extracted = Transform(record).ordered(pixels).astype(np.float32) * scale + shift
    images = torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy()) / 255
    np.testing.assert_array_equal(InPixels(nn.Identity(), record)(images)[0], extracted.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"images": torch.full((2, 1, 8, 8), -1.0)},
            r"images must be in \[0, 1\]; found -1 to -1; leave normalisation",
        ),
        ({"images": torch.full((2, 1, 8, 8), torch.nan)}, "found nan to nan"),
        ({"images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}, "must be float32 .* found torch.uint8"),
        ({"norm": "l1"}, "norm must be one of linf, l2; found 'l1'"),
        ({"radius": 0}, "radius must be positive; found 0"),
        ({"steps": 0}, "steps must be positive; found 0"),
        ({"step_size": float("inf")}, "step_size must be positive; found inf"),
        ({"start": "corner"}, "start must be random or centre; found 'corner'"),
    ],
)
def test_what_cannot_be_attacked_is_told(network: nn.Module, changed: dict[str, Any], message: str) -> None:
    images = {"images": torch.zeros(2, 1, 8, 8), "labels": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(ValueError, match=message):
        pgd(network, **{**images, "norm": "linf", "radius": 0.1, "steps": 1, "step_size": 0.1, **changed})
