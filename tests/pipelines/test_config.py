"""Configurations: what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.extracting.config import RunConfig
from featurebank.pipelines.questions.knn import KNN
from featurebank.pipelines.questions.shift import Shift

GOOD = """
store: out
backbones:
  - efficientnet_lite0
  - {name: "timm:resnet18.a1_in1k", checkpoint: weights/r18.safetensors, outputs: [pooled]}
datasets:
  - name: folder:pets
    splits: [train, {split: test, subset: {size: 10}}]
    root: data
extraction: {dtype: float32, batch_size: 32}
questions:
  - {question: knn, of: pets/train:test, options: {k: [5, 20], temperature: [0.1]}}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_file_is_read_and_its_paths_are_its_own(tmp_path: Path) -> None:
    config = RunConfig.read(write(tmp_path, GOOD))
    assert config.store == tmp_path / "out"
    assert [b.name for b in config.backbones] == ["efficientnet_lite0", "timm:resnet18.a1_in1k"]
    assert config.backbones[1].checkpoint == tmp_path / "weights/r18.safetensors"
    assert config.datasets[0].name == f"folder:{tmp_path / 'pets'}"
    assert config.datasets[0].root == tmp_path / "data"
    assert config.datasets[0].splits[1].subset is not None
    assert config.extraction.dtype == "float32"
    assert config.questions[0].of == ("pets/train:test",)
    assert config.questions[0].asked() == KNN(k=(5, 20), temperature=(0.1,))


def test_only_true_and_false_are_truth_values(tmp_path: Path) -> None:
    shift = "{question: shift, of: pets, options: {on: [off]}}"
    text = GOOD.replace("splits: [train", "splits: [yes").replace("store: out", "store: no") + f"  - {shift}\n"
    config = RunConfig.read(write(tmp_path, text))
    assert config.datasets[0].splits[0].split == "yes"
    assert config.questions[1].asked() == Shift(on=("off",))
    assert config.store == tmp_path / "no"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("batch_size: 32", "batchsize: 32"), "extraction.batchsize: unknown key; did you mean 'batch_size'?"),
        (("backbones:", "backbone:"), "backbone: unknown key; did you mean 'backbones'?"),
        (("outputs: [pooled]", "output: [pooled]"), "backbones.1.output: unknown key; did you mean 'outputs'?"),
        (("dtype: float32", "dtype: int8"), "extraction.dtype: Input should be 'float16' or 'float32', found 'int8'"),
        (("size: 10", "size: 0"), "greater than or equal to 1, found 0"),
        (("of: pets/train:test, ", ""), "questions.0.of: required, and missing"),
        (("k: [5, 20]", "k: [x], kk: 1"), "questions.0: k: Input should be a valid integer"),
        (("k: [5, 20]", "k: [x], kk: 1"), "questions.0: kk: no option of knn; its options: output, seed, k"),
        (("question: knn", "question: knm"), "questions.0.question: unknown question 'knm'; did you mean 'knn'?"),
        (("splits: [train, {split: test, subset: {size: 10}}]", "splits: []"), "datasets.0.splits"),
    ],
)
def test_misfits_are_named_with_what_was_expected(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(ConfigError) as caught:
        RunConfig.read(write(tmp_path, GOOD.replace(*change)))
    assert message in str(caught.value)
    assert str(tmp_path / "run.yaml") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not valid YAML"), ("- a\n- b\n", "expected a mapping"), ("", "expected a mapping")],
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig.read(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: the configuration cannot be read"):
        RunConfig.read(tmp_path / "nowhere.yaml")


def test_yaml_cannot_construct_objects(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        RunConfig.read(write(tmp_path, "store: !!python/object/apply:os.system ['true']\n"))


def test_the_demonstration_is_valid_and_has_what_was_promised() -> None:
    from featurebank import pipelines

    demo = RunConfig.read(Path(pipelines.__path__[0]) / "extracting" / "demo.yaml")
    assert len(demo.backbones) >= 4
    splits = {(d.name, s.split): s.subset.size for d in demo.datasets for s in d.splits if s.subset}
    assert splits["fashion_mnist", "train"] >= 3000
    assert splits["fashion_mnist", "test"] >= 1000
    assert splits["mnist_5k", "all"] == 1000
    assert demo.questions
