"""What is made from the records of a configuration: its reference page, and the JSON schema for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fastjsonschema
import pytest
import yaml
from pydantic import ValidationError

from featurebank.pipelines.asking.register import question_names
from featurebank.pipelines.extracting.config import RunConfig
from featurebank.pipelines.extracting.reference import markdown, schema

ROOT = Path(__file__).parents[2]
MODULE = "featurebank.pipelines.extracting.reference"
GOOD: dict[str, Any] = {"backbones": ["mobilenetv2"], "datasets": [{"name": "mnist_5k", "splits": ["all"]}]}


def test_d10_the_reference_page_is_that_of_the_records() -> None:
    page = ROOT / "docs" / "configuration.md"
    assert page.read_text("utf-8") == markdown(), f"run: python -m {MODULE} > docs/configuration.md"
    assert "|  |\n" not in markdown()  # every key says what it is


def test_d10_the_example_of_the_page_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "run.yaml"
    path.write_text(markdown().split("```yaml\n")[1].split("```")[0], "utf-8")
    assert RunConfig.read(path).store == tmp_path / "features"


def test_the_schema_is_that_of_the_records() -> None:
    path = ROOT / "docs" / "configuration.schema.json"
    assert path.read_text("utf-8") == schema(), f"run: python -m {MODULE} schema > {path.relative_to(ROOT)}"
    known = json.loads(schema())["$defs"]["QuestionConfig"]["properties"]["question"]["examples"]
    assert known == sorted(question_names())


@pytest.mark.parametrize(
    "file", ["pipelines/extracting/demo.yaml", ".ci/packaged.yaml", "examples/finetune/which_backbone.yaml", "page"]
)
def test_the_schema_takes_what_a_run_takes(file: str) -> None:
    text = markdown().split("```yaml\n")[1].split("```")[0] if file == "page" else (ROOT / file).read_text("utf-8")
    fastjsonschema.validate(json.loads(schema()), yaml.safe_load(text))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"backbones": [5]}, "data.backbones"),
        ({"datasets": [{"name": "mnist_5k", "splits": []}]}, "data.datasets"),
        ({"extraction": {"dtype": "int8"}}, "data.extraction.dtype"),
        ({"extraktion": {}}, "extraktion"),
        ({"questions": [{"question": "knn"}]}, "data.questions"),
    ],
)
def test_the_schema_refuses_what_a_run_refuses(change: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError):
        RunConfig.model_validate(GOOD | change)
    with pytest.raises(fastjsonschema.JsonSchemaException, match=place):
        fastjsonschema.validate(json.loads(schema()), GOOD | change)
