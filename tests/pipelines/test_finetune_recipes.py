"""Recipes: published values, faults told all at once; losses and mixing against formulas in float64."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.jobs.finetune.augment import AUGMENTATIONS, Augmentation
from featurebank.pipelines.jobs.finetune.mixing import Mixing
from featurebank.pipelines.jobs.finetune.objective import objective, targets
from featurebank.pipelines.jobs.finetune.recipe import Recipe, load_recipe, plain_recipe, recipe_names
from featurebank.pipelines.training.phase import Phase

SHORT = Recipe(name="short", phases=(Phase(),))


def recipe_file(folder: Path, text: str) -> str:
    file = folder / "own.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("name", "rates", "epochs", "rows", "rest"),
    [
        ("lp_ft", [3e-4], [5], 32, {"head": "probe", "batch_norm": "eval", "layer_decay": 0.75, "smoothing": 0.1}),
        ("bob", [1e-3], [100], 1024, {"layer_decay": 0.75, "drop_path": 0.1, "mixup": 0.8, "cutmix": 1.0}),
        ("mae", [2e-3], [100], 1024, {"layer_decay": 0.65, "drop_path": 0.1, "smoothing": 0.1}),
        ("mae_large", [4e-3], [50], 1024, {"layer_decay": 0.75, "drop_path": 0.2, "mixup": 0.8}),
        ("chexpert", [1e-3], [100], 1024, {"loss": "bce", "drop_path": 0.2, "unknown": "zero"}),
        ("semi", [2.5e-4], [60], 512, {"layer_decay": 0.65, "label_fraction": 0.01, "mixup": 0.8}),
        ("two_phase", [1e-3, 1e-3], [100, 100], 32, {"layer_decay": 1.0, "augmentation": None, "smoothing": 0.0}),
        ("visda", [1e-4], [10], 128, {"head": "probe", "mixup": 0.8}),
    ],
)
def test_recipes_hold_the_published_values(
    name: str, rates: list[float], epochs: list[int], rows: int, rest: dict[str, object]
) -> None:
    recipe = load_recipe(name)
    assert [phase.rate for phase in recipe.phases] == pytest.approx(rates)
    assert ([phase.epochs for phase in recipe.phases], recipe.batch_size) == (epochs, rows)
    assert {field: getattr(recipe, field) for field in rest} == rest


def test_published_rates_begin_and_end_where_they_should() -> None:
    assert recipe_names() == sorted(["bob", "chexpert", "lp_ft", "mae", "mae_large", "semi", "two_phase", "visda"])
    ends = {name: load_recipe(name).phases[0] for name in ("bob", "mae", "mae_large", "chexpert")}
    assert {name: phase.floor * phase.rate for name, phase in ends.items()} == pytest.approx(
        {"bob": 1e-6, "mae": 1e-6, "mae_large": 1e-6, "chexpert": 1e-5}
    )
    assert ends["bob"].warmup_rate * ends["bob"].rate == pytest.approx(1e-4)
    first, second = load_recipe("two_phase").phases
    assert (first.optimizer, first.patience, second.optimizer, second.patience) == ("adamw", 10, "sgd", 10)
    assert (first.schedule, second.momentum) == ("constant", 0.9)


def test_all_faults_of_a_recipe_are_told_at_once(tmp_path: Path) -> None:
    text = """
    haed: probe
    head: linear
    layer_decay: 0
    augmentation: {extends: light, flop: 0, erase: 2}
    phases:
      - {rate: -1, epochs: many}
      - {rats: 1, betas: [0.9, 1.0]}
    """
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe_file(tmp_path, text))
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert lines[0] == f"recipe {tmp_path / 'own.yaml'}:"
    known = "optimizer, rate, momentum, betas, weight_decay, epochs, patience"
    for line in (
        "haed: unknown key; did you mean 'head'? known keys: extends, scaled, phases, rates",
        "head: Input should be 'probe' or 'random'; found 'linear'",
        "augmentation.flop: unknown key; did you mean 'flip'? known keys: scale, ratio",
        "phases.0.epochs: Input should be a valid integer",
        f"phases.1.rats: unknown key; did you mean 'rate'? known keys: {known}",
        "layer_decay: it must be above 0 and at most 1; found 0",
        "augmentation.erase: it must be from 0 to 1; found 2",
        "phases.0.rate: it must be above 0; found -1",
        "phases.1.betas.1: it must be at least 0 and below 1; found 1.0",
    ):
        assert [found for found in lines[1:] if found.startswith(line)], line
    assert len(lines) == 10


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("phases: [{}]\nphases: [{}]", "line 2: 'phases' stands in line 1 already; keep one"),
        ("a: [", "it must be YAML"),
        ("- 1", "it must be a mapping with keys of extends, scaled, phases"),
        ("phases: !!python/object/apply:os.getcwd []", "it must be YAML"),
        ("phases: []", "phases: there must be at least one"),
        ("head: probe", "phases: required, and missing"),
        ("extends: nothing", "extends must be one of bob, chexpert"),
        ("extends: bob\naugmentation: strong", "it must be one of none, flip, light, crop, bob"),
        ("extends: bob\nbatch_size: 15", "batch_size: it must be even where images are mixed in pairs; found 15"),
        ("extends: bob\nlabel_fraction: .1\nshots: 4", "found both: leave one out"),
        ("extends: lp_ft\nphases: [{epochs: 1, warmup_epochs: 2}]", "warmup_epochs: at most epochs, 1; found 2"),
        ("extends: lp_ft\naugmentation: {scale: [1, .5]}", "the smaller number must stand first; found [1.0, 0.5]"),
        ("extends: lp_ft\naugmentation: {auto_augment: rand-m-9}", "rand-m9-mstd0.5-inc1; found 'rand-m-9'"),
        ("extends: lp_ft\nclip: .nan", "clip: it must be at least 0; found nan"),
        ("extends: mae\nscaled: 256", "scaled must be true or false; found 256"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe_file(tmp_path, text))
    assert told in str(caught.value)


def test_a_name_that_is_not_known_is_answered_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="found 'two_fase'; did you mean 'two_phase'"):
        load_recipe("two_fase")
    with pytest.raises(ConfigError, match="expected a YAML file, which cannot be read"):
        load_recipe("missing.yaml")


def test_values_given_with_a_name_stand_in_place_of_the_recipes() -> None:
    short = load_recipe("lp_ft", epochs=2, flip=0.0, weight_decay=0.1)
    assert (short.phases[0].epochs, short.phases[0].warmup_epochs, short.phases[0].weight_decay) == (2, 0.2, 0.1)
    assert short.augmentation == Augmentation(scale=(0.7, 1.0))
    small = load_recipe("mae", batch_size=64)
    assert small.phases[0].rate == pytest.approx(5e-4 * 64 / 256)
    grid = load_recipe("mae", batch_size=64, rate=1e-3, rates=(1e-4, 1e-3))
    assert (grid.phases[0].rate, grid.rates) == (1e-3, (1e-4, 1e-3))
    with pytest.raises(ConfigError, match="epoch: unknown key; did you mean 'epochs'"):
        load_recipe("lp_ft", epoch=3)
    with pytest.raises(ConfigError, match=r"phases\.1\.epochs: it must be at least 1; found 0"):
        load_recipe("two_phase", epochs=0)


def test_yaml_without_a_dot_is_a_number_and_files_extend_recipes(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file(tmp_path, "extends: bob\nrates: [1e-4, 1e-3]\nflip: 0\nepochs: 50"))
    bob = AUGMENTATIONS["bob"]
    assert bob is not None
    phase = replace(load_recipe("bob").phases[0], epochs=50, warmup_epochs=2.5)
    images = replace(bob, flip=0.0)
    assert recipe == replace(load_recipe("bob"), phases=(phase,), rates=(1e-4, 1e-3), augmentation=images)
    assert recipe.name == "own"


def test_a_rate_of_the_grid_moves_all_phases_in_proportion() -> None:
    phases = (Phase(rate=1e-3), Phase(rate=2e-4))
    recipe = replace(SHORT, phases=phases, rates=(1e-2, 1e-1)).at_rate(1e-2)
    assert [phase.rate for phase in recipe.phases] == pytest.approx([1e-2, 2e-3])
    assert recipe.rates == ()


def test_every_value_but_the_name_is_part_of_what_a_recipe_is() -> None:
    others: dict[str, Any] = {
        "phases": (Phase(rate=0.1),),
        "rates": (0.1,),
        "head": "random",
        "layer_decay": 0.5,
        "decay_steps": 12.0,
        "drop_path": 0.1,
        "batch_norm": "train",
        "frozen_blocks": 2,
        "augmentation": Augmentation(flip=0.5),
        "mixup": 0.8,
        "cutmix": 1.0,
        "mix_prob": 0.5,
        "mix_switch": 0.1,
        "smoothing": 0.1,
        "loss": "bce",
        "unknown": "zero",
        "unknown_ones": ("edema",),
        "ema": 0.99,
        "clip": 1.0,
        "batch_size": 8,
        "label_fraction": 0.1,
        "shots": 3,
    }
    assert others.keys() == Recipe.__dataclass_fields__.keys() - {"name", "__pydantic_config__"}
    plain = [plain_recipe(replace(SHORT, **{name: value})) for name, value in others.items()]
    assert all(one != other for one in plain for other in [plain_recipe(SHORT), *(p for p in plain if p is not one)])
    assert plain_recipe(replace(SHORT, name="other")) == plain_recipe(SHORT)


def test_recipes_are_read_without_torch() -> None:
    script = (
        "import sys; from featurebank.pipelines.jobs.finetune.recipe import load_recipe; load_recipe('bob'); "
        "print(*{'torch', 'timm', 'torchvision'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr


# Losses.

LOGITS = np.random.default_rng(0).normal(0, 3, (5, 4))
CLASSES = np.array([0, 3, 1, 1, 2])
SEVERAL = np.array([[1, 0, -1, 1], [0, 0, 0, 1], [-1, -1, -1, -1], [1, -1, -1, -1], [0, 1, 1, 0]])
SOFT = np.random.default_rng(1).dirichlet(np.ones(4), 5)


def losses_of(recipe: Recipe, wanted: NDArray[Any]) -> NDArray[np.float32]:
    logits = torch.from_numpy(LOGITS.astype(np.float32))
    given = torch.from_numpy(wanted if wanted.dtype == np.int64 else wanted.astype(np.float32))
    found = objective(recipe)(logits, given)
    assert found.dtype == torch.float32
    return found.numpy()


def cross_entropy(wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    losses: NDArray[np.float64] = -(wanted * (LOGITS - np.log(np.exp(LOGITS).sum(1, keepdims=True)))).sum(1)
    return losses


def binary(wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    positive = 1 / (1 + np.exp(-LOGITS))
    return -(wanted * np.log(positive) + (1 - wanted) * np.log(1 - positive))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_losses_are_those_of_their_formulas(smoothing: float) -> None:
    ce, bce = replace(SHORT, smoothing=smoothing), replace(SHORT, smoothing=smoothing, loss="bce")
    smooth = np.eye(4)[CLASSES] * (1 - smoothing) + smoothing / 4
    np.testing.assert_allclose(losses_of(ce, CLASSES), cross_entropy(smooth), rtol=1e-5)
    np.testing.assert_allclose(losses_of(ce, SOFT), cross_entropy(SOFT), rtol=1e-5)
    np.testing.assert_allclose(losses_of(bce, CLASSES), binary(smooth).mean(1), rtol=1e-5)
    np.testing.assert_allclose(losses_of(bce, SOFT), binary(SOFT).mean(1), rtol=1e-5)
    every = binary(SEVERAL * (1 - smoothing) + smoothing / 2)
    known = SEVERAL >= 0
    expected = [row[mask].mean() if mask.any() else 0.0 for row, mask in zip(every, known, strict=True)]
    np.testing.assert_allclose(losses_of(bce, SEVERAL), expected, rtol=1e-5)


def test_unknown_labels_become_what_the_recipe_says() -> None:
    names, labels = ("Edema", "Cardiomegaly", "Atelectasis"), np.array([[-1, -1, 0], [1, 0, -1]])
    several = replace(SHORT, loss="bce")
    assert targets(labels, several, names).tolist() == labels.tolist()
    assert targets(labels, replace(several, unknown="one"), names).tolist() == [[1, 1, 0], [1, 0, 1]]
    assert targets(labels, load_recipe("chexpert"), names).tolist() == [[1, 0, 0], [1, 0, 1]]
    assert targets(labels, load_recipe("chexpert")).tolist() == [[0, 0, 0], [1, 0, 0]]
    with pytest.raises(ValueError, match="must be bce; found ce"):
        targets(labels, SHORT, names)
    with pytest.raises(ValueError, match="every row must have a class; found 1 without"):
        targets(np.array([0, -1, 2]), SHORT)


# Mixing.

MIXED = replace(SHORT, mixup=0.8, cutmix=1.0, smoothing=0.1)


def flat(rows: int) -> torch.Tensor:
    """Images whose pixels are all their row's number."""
    return torch.arange(rows, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 16, 16).clone()


@pytest.mark.parametrize("recipe", [replace(MIXED, cutmix=0.0), replace(MIXED, mixup=0.0), MIXED])
def test_targets_are_mixed_as_the_pixels_are(recipe: Recipe) -> None:
    mixing, labels = Mixing(recipe, classes=6), torch.tensor([4, 0, 2, 5])
    one_hot = np.eye(6)[labels.numpy()] * 0.9 + 0.1 / 6
    shares = []
    for step in range(6):
        images, wanted = mixing(flat(4), labels, 0, step)
        share = 1 - float(images[0].mean()) / 3  # of row 0, whose pixels are 0, beside those of row 3
        assert images[1].mean() == pytest.approx(2 - share, abs=1e-5)
        np.testing.assert_allclose(wanted.numpy(), share * one_hot + (1 - share) * one_hot[::-1], atol=1e-6)
        shares.append(share)
    assert len(set(shares)) > 3


def test_mixing_is_a_function_of_seed_and_step() -> None:
    def mixed(seed: int, step: int) -> torch.Tensor:
        return Mixing(MIXED, classes=4)(flat(4), torch.tensor([0, 1, 2, 3]), seed, step)[0]

    first = mixed(0, 3)
    np.random.rand()  # noqa: NPY002
    assert torch.equal(mixed(0, 3), first)
    assert not torch.equal(mixed(0, 4), first)
    assert not torch.equal(mixed(1, 3), first)


def test_labels_unknown_in_either_of_two_mixed_rows_stay_unknown() -> None:
    recipe = replace(MIXED, cutmix=0.0, smoothing=0.0, loss="bce")
    labels = torch.tensor([[1, -1, 0], [0, 1, 1], [0, 0, 1], [0, 1, 1]])
    images, wanted = Mixing(recipe, classes=3)(flat(4), labels, 0, 1)
    share = 1 - float(images[0].mean()) / 3
    assert wanted[0].tolist() == pytest.approx([share, -1, 1 - share])
    assert wanted[3].tolist() == pytest.approx([1 - share, -1, share])
    assert wanted[1].tolist() == pytest.approx([0, share, 1])
    with pytest.raises(ValueError, match="even number of rows; found 3"):
        Mixing(recipe, classes=3)(flat(3), labels[:3], 0, 1)
