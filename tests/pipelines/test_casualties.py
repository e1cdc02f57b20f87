"""One fault, one casualty: whatever one thing raises is that thing's one line, and everything else goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deadly import RaisingSplit
from ood_sets import write_backbone
from runs import RESNET, VIT, make_images
from tiny_network import TinyNetwork

from featurebank.extract import backbones, datasets
from featurebank.extract import decode as decoder
from featurebank.pipelines.asking.answer import Answer
from featurebank.pipelines.asking.inputs import Rows
from featurebank.pipelines.asking.register import find_question
from featurebank.pipelines.asking.roles import select
from featurebank.pipelines.asking.run import ask
from featurebank.pipelines.extracting.config import RunConfig
from featurebank.pipelines.extracting.run import Report, run_features
from featurebank.pipelines.questions.linear import Linear
from featurebank.probes.ood.registry import get
from featurebank.store import FeatureSet, FeatureSetWriter, FeatureStore

IMAGES = 9
ERRORS = [
    MemoryError(),
    RecursionError("maximum recursion depth exceeded"),
    OverflowError("int too large to convert to float"),
    KeyError("label"),
    np.linalg.LinAlgError("Singular matrix"),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700),
    torch.OutOfMemoryError("CUDA out of memory"),
    AssertionError(),
]

Break = Callable[[pytest.MonkeyPatch, Exception], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("casualties")
    for seed, name in enumerate(("cats", "dogs")):
        for split in ("train", "test"):
            make_images(root / name / split, IMAGES, seed=2 * seed + (split == "test"))
    return root


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "build", TinyNetwork)


def config(folder: Path, store: Path, *, asked: bool = False) -> RunConfig:
    return RunConfig.model_validate(
        {
            "store": store,
            "backbones": [{"name": name, "outputs": ["pooled"]} for name in (RESNET, VIT)],
            "datasets": [
                {"name": f"folder:{folder / name}", "label": name, "splits": ["train", "test"] if asked else ["train"]}
                for name in ("cats", "dogs")
            ],
            "extraction": {
                "device": "cpu", "compile": "never", "precision": "float32", "batch_size": 8, "workers": 1,
            },
            "questions": [{"question": "linear", "of": f"{name}/train:test"} for name in ("cats", "dogs") if asked],
        }
    )  # fmt: skip


def of(report: Report, state: str) -> set[tuple[str, str, str]]:
    return {(o.backbone, o.dataset, o.split) for o in report.outcomes if o.state == state}


TRAIN = {(b, d, "train") for b in (RESNET, VIT) for d in ("cats", "dogs")}
EVERY = TRAIN | {(b, d, "test") for b, d, _ in TRAIN}


def opening(patch: pytest.MonkeyPatch, error: Exception) -> None:
    real = datasets.open_split

    def open_split(spec: Any) -> Any:
        if spec.label == "cats":
            raise error
        return real(spec)

    patch.setattr(datasets, "open_split", open_split)


def hashing(patch: pytest.MonkeyPatch, error: Exception) -> None:
    real = datasets.open_split
    patch.setattr(
        datasets, "open_split", lambda s: RaisingSplit(real(s), None, error) if s.label == "cats" else real(s)
    )


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("broken", [opening, hashing])
def test_c9_a_dataset_that_raises_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Break, error: Exception
) -> None:
    broken(monkeypatch, error)
    report = run_features(config(folder, tmp_path))
    assert not report.ok
    assert of(report, "sealed") == {key for key in TRAIN if key[1] == "dogs"}
    assert set(report.unavailable) == {f"folder:{folder / 'cats'}/train"}
    assert all(type(error).__name__ in line or str(error) == line for line in report.unavailable.values())
    assert all("\n" not in line for line in report.unavailable.values())


def resolving(patch: pytest.MonkeyPatch, error: Exception) -> None:
    real = backbones.resolve

    def resolve(name: str, **options: Any) -> Any:
        if name == RESNET:
            raise error
        return real(name, **options)

    patch.setattr(backbones, "resolve", resolve)


def building(patch: pytest.MonkeyPatch, error: Exception) -> None:
    def build(spec: Any) -> Any:
        if spec.name == RESNET:
            raise error
        return TinyNetwork(spec)

    patch.setattr(backbones, "build", build)


def forwarding(patch: pytest.MonkeyPatch, error: Exception) -> None:
    real = TinyNetwork.forward

    def forward(self: TinyNetwork, images: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.spec.name == RESNET and images.std() > 0:
            raise error
        return real(self, images)

    patch.setattr(TinyNetwork, "forward", forward)


def writing(patch: pytest.MonkeyPatch, error: Exception) -> None:
    real = FeatureSetWriter.write_chunk

    def write_chunk(self: FeatureSetWriter, *arguments: Any) -> None:
        if "resnet" in str(self.path):
            raise error
        real(self, *arguments)

    patch.setattr(FeatureSetWriter, "write_chunk", write_chunk)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("broken", [resolving, building, forwarding, writing])
def test_c9_a_backbone_that_raises_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Break, error: Exception
) -> None:
    broken(monkeypatch, error)
    report = run_features(config(folder, tmp_path))
    assert not report.ok
    assert of(report, "sealed") == {key for key in TRAIN if key[0] == VIT}
    lines = [o.error for o in report.outcomes if o.state == "failed"] + list(report.unavailable.values())
    assert len(lines) == (1 if broken is resolving else 2)
    assert all(type(error).__name__ in line or str(error) == line for line in lines)
    assert all("\n" not in line for line in lines)


def reading(patch: pytest.MonkeyPatch, error: Exception) -> None:
    real = datasets.open_split
    patch.setattr(datasets, "open_split", lambda s: RaisingSplit(real(s), 3, error) if s.label == "cats" else real(s))


def decoding(patch: pytest.MonkeyPatch, error: Exception) -> None:
    real, calls = decoder.decoded, iter(range(10**6))

    def decoded(*arguments: Any) -> Any:
        if next(calls) == 3:
            raise error
        return real(*arguments)

    patch.setattr("featurebank.extract.batches.decoded", decoded)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("broken", [reading, decoding])
def test_c9_an_image_that_raises_is_one_row(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Break, error: Exception
) -> None:
    broken(monkeypatch, error)
    report = run_features(config(folder, tmp_path))
    assert of(report, "sealed") == TRAIN
    failed = {(o.dataset, row): reason for o in report.outcomes for row, reason in o.failed.items()}
    (reason,) = failed.values()
    assert type(error).__name__ in reason or str(error) in reason


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_d15_an_answer_that_raises_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    real = Linear.run

    def run(self: Linear, rows: Rows) -> Answer:
        if rows.backbone == RESNET:
            raise error
        return real(self, rows)

    monkeypatch.setattr(Linear, "run", run)
    report = run_features(config(folder, tmp_path, asked=True))
    assert not report.ok
    assert of(report, "sealed") == EVERY
    failed = {one.case.backbone: one.error for one in report.answers.asked if one.error}
    assert set(failed) == {RESNET}
    assert len(report.answers.asked) == 2 * len(failed) * len(("cats", "dogs"))
    assert type(error).__name__ in failed[RESNET] or str(error) == failed[RESNET]
    store = FeatureStore(tmp_path)
    again = ask(store, [(Linear(), select(store, Linear(), ["cats"]))])
    assert {(one.case.backbone, bool(one.error)) for one in again.asked} == {(RESNET, True), (VIT, False)}


def test_f3_a_damaged_partial_and_a_truncated_sealed_set_are_one_line_each(folder: Path, tmp_path: Path) -> None:
    sealed = {
        (o.backbone, o.dataset, o.split): o.path for o in run_features(config(folder, tmp_path, asked=True)).outcomes
    }
    cut = sealed[VIT, "cats", "test"]
    cut.write_bytes(cut.read_bytes()[:5000])
    gone = sealed[VIT, "dogs", "test"]
    gone.with_name(f"{gone.name}.partial").write_bytes(b"\0" * 5000)
    gone.unlink()
    again = sealed[RESNET, "dogs", "test"]
    again.unlink()
    report = run_features(config(folder, tmp_path, asked=True))
    assert not report.ok
    assert of(report, "failed") == {(VIT, "cats", "test"), (VIT, "dogs", "test")}
    assert of(report, "sealed") == {(RESNET, "dogs", "test")}
    errors = {(o.backbone, o.dataset): o.error for o in report.outcomes if o.error}
    assert "its size must be" in errors[VIT, "cats"]
    assert "delete" in errors[VIT, "cats"]
    assert str(gone.with_name(f"{gone.name}.partial")) in errors[VIT, "dogs"]


def test_f4_what_was_unreadable_at_first_and_is_readable_later_is_one_row(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = next((folder / "cats" / "test").rglob("00004.png"))
    real = datasets.dataset_digest

    def digest(split: Any) -> str:
        if split.spec.label != "cats" or split.spec.split != "test":
            return real(split)
        moved.rename(moved.with_suffix(".away"))
        moved.symlink_to("nowhere")
        try:
            return real(split)
        finally:
            moved.unlink()
            moved.with_suffix(".away").rename(moved)

    monkeypatch.setattr(datasets, "dataset_digest", digest)
    monkeypatch.setattr("featurebank.pipelines.extracting.opening.Stamped", ())  # as if nothing told what is known
    report = run_features(config(folder, tmp_path, asked=True))
    assert of(report, "sealed") == EVERY
    failed = {(o.dataset, o.split): o.failed for o in report.outcomes if o.failed}
    assert set(failed) == {("cats", "test")}
    ((row, reason),) = failed["cats", "test"].items()
    assert "could not be when the run began, now it can; run again" in reason
    (made,) = [o.path for o in report.outcomes if (o.backbone, o.dataset, o.split) == (VIT, "cats", "test")]
    with FeatureSet(made) as features:
        assert features.ids[row].endswith("00004.png")
        assert features.ok.sum() == IMAGES - 1


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    store = FeatureStore(tmp_path_factory.mktemp("shapes"))
    write_backbone(store, "net")
    return store


@pytest.mark.parametrize("step", ["_fit", "_score"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_d15_a_score_that_raises_is_one_line(
    shapes: FeatureStore, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    def broken(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(type(get("rmds")()), step, broken, raising=False)
    question = find_question("ood").of({"ood": ("noise/test",), "scores": ("rmds", "mds"), "resamples": 0})
    (one,) = ask(shapes, [(question, select(shapes, question, ["pets"]))], force=True).asked
    assert not one.error
    assert {row.score for row in one.rows} - {""} == {"mds"}
    (note,) = (note for note in one.notes if note.startswith("rmds: "))
    assert type(error).__name__ in note or note.removeprefix("rmds: not computed: ") == str(error)
