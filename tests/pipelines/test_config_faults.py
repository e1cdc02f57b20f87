"""All that is wrong with a configuration is said at once, each thing once; and its reference page."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import featurebank_
from PIL import Image

from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.extracting.config import RunConfig
from featurebank.pipelines.extracting.run import run_features

GOOD = "backbones: [mobilenetv2]\ndatasets: [{name: mnist_5k, splits: [all]}]\n"


def faults(folder: Path, text: str) -> list[str]:
    path = folder / "run.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as caught:
        RunConfig.read(path)
    first, *lines = str(caught.value).splitlines()
    assert first == f"{path}:"
    return [line.removeprefix("  ") for line in lines]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("backbones: [5]\n", "backbones.0: expected a mapping with keys of name, checkpoint, checkpoint_key"),
        ("backbones: mobilenetv2\n", "backbones: expected a list, found 'mobilenetv2'"),
        ("backbones: []\n", "backbones: expected a list of at least one, found []"),
        ("backbone: [mobilenetv2]\n", "backbone: unknown key; did you mean 'backbones'? known keys: store, backbones"),
        ("backbones: [{nam: x}]\n", "backbones.0.nam: unknown key; did you mean 'name'? known keys: name, checkpoint"),
        ("backbones: [{}]\n", "backbones.0.name: required, and missing"),
    ],
)
def test_d10_one_fault_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    (found,) = faults(tmp_path, text + GOOD.partition("\n")[2])
    assert found.startswith(line)


def test_d10_all_faults_are_said_at_once_with_keys_that_stand_twice(tmp_path: Path) -> None:
    text = (
        GOOD + "backbones: [squeezenet1_1]\nextraction: {dtype: int8, dtype: x, workers: 0}\nquestions: [{of: a/b}]\n"
    )
    assert faults(tmp_path, text) == [
        "line 3: 'backbones' stands in line 1 already; keep one",
        "line 4: 'dtype' stands in line 4 already; keep one",
        "extraction.dtype: Input should be 'float16' or 'float32', found 'x'",
        "extraction.workers: Input should be greater than or equal to 1, found 0",
        "questions.0.question: required, and missing",
    ]


def test_d10_a_merged_mapping_may_say_a_key_again(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    base = "{name: mnist_5k, splits: [all]}"
    path.write_text(
        f"backbones: [mobilenetv2]\ndatasets: [&a {base}, {{<<: *a, label: other, name: mnist}}]\n", "utf-8"
    )
    assert RunConfig.read(path).datasets[1].name == "mnist"


def test_d10_a_question_about_no_split_hides_no_other_fault(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    text = GOOD.replace("mobilenetv2", "mobilenetv2, mobilenetv3x").replace("all", "all, half")
    wrong = "[{question: linear, of: [a/b, mnist_5k/all]}, {question: shift, of: mnist_5k/all, options: {on: [c/d]}}]"
    path.write_text(f"{text}questions: {wrong}\n", "utf-8")
    with pytest.raises(ConfigError) as caught:
        run_features(RunConfig.read(path))
    lines = [line.strip() for line in str(caught.value).splitlines()]
    expected = ("questions.0: 'a/b' is no", "questions.1: 'c/d' is no", "backbones.1: ", "datasets.0: ")
    assert len(lines) == len(expected)
    assert all(line.startswith(start) for line, start in zip(lines, expected, strict=True)), lines
    assert not (tmp_path / "features").exists()


def test_d10_datasets_knows_a_folder(tmp_path: Path) -> None:
    for place in ("train/cat", "train/dog", "test/cat"):
        (tmp_path / "pets" / place).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / "pets" / place / "a.png")
    done = featurebank_("datasets", f"folder:{tmp_path}/pets", "--json")
    assert done.json["splits"] == {"train": 2, "test": 1}
    assert "train: 2 records, 2 classes" in featurebank_("datasets", f"folder:{tmp_path}/pets").out
    assert featurebank_("datasets", f"folder:{tmp_path}/pest").code == 1
    assert "did you mean 'train'" in featurebank_("datasets", f"folder:{tmp_path}/pets", "--split", "tain").err
