"""What is made from the records of a configuration: its reference page, and the JSON schema for editors."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from pydantic import BaseModel

from featurebank.pipelines.asking.register import question_names
from featurebank.pipelines.extracting.config import RECORDS, RunConfig

__all__ = ["markdown", "schema"]


def markdown() -> str:
    """``docs/configuration.md``: every key of a configuration."""
    lines = [
        "# Configuration of a run",
        "",
        "Made by `python -m featurebank.pipelines.extracting.reference` from the records in `config.py`. What",
        "`featurebank features FILE.yaml` reads. Relative paths in it are relative to its own folder; in every path,",
        "and in names that are paths, `~` and `$NAME` stand for what they stand for in a shell. Unknown keys, and keys",
        "that stand twice, are refused; all that is wrong is said at once.",
        "",
        "Editors that know JSON schemas complete and check a file whose first line is",
        "`# yaml-language-server: $schema=configuration.schema.json`, with [that file](configuration.schema.json)",
        "beside it, which `python -m featurebank.pipelines.extracting.reference schema` prints.",
        "",
        "```yaml",
        *EXAMPLE.strip().splitlines(),
        "```",
    ]
    for key, record in RECORDS.items():
        lines += ["", f"## {f'`{key}`' if key else 'The file'}", "", str(record.__doc__), ""]
        lines += ["| key | value | without it | what it is |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(cells)} |" for cells in _rows(record)]
    return "\n".join(lines) + "\n"


EXAMPLE = """
store: $HOME/features
backbones:
  - efficientnet_lite0
  - {name: timm:resnet18.a1_in1k, checkpoint: weights/r18.safetensors, outputs: [pooled]}
datasets:
  - name: folder:~/pets
    splits: [train, {split: test, subset: {size: 1000}}]
extraction: {dtype: float32}
questions:
  - {question: linear, of: pets}
  - {question: knn, of: pets/train:test, options: {k: [5, 20]}}
"""


def _rows(record: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    for name, field in record.model_fields.items():
        default = "required" if field.is_required() else _value(field.default)
        yield f"`{name}`", _kind(name, record), default, " ".join(str(field.description).split())


def _value(default: object) -> str:
    empty = default is None or default in ("", (), {}) or isinstance(default, BaseModel)
    return "" if empty else f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _kind(name: str, record: type[BaseModel]) -> str:
    """The values of a key, in words, from the record's JSON schema."""
    schema = record.model_json_schema()["properties"][name]
    schema = next((one for one in schema.get("anyOf", ()) if one.get("type") != "null"), schema)
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if name in RECORDS:
        return f"[a list](#{name})" if schema.get("type") == "array" else f"[a mapping](#{name})"
    words = {
        "object": "a mapping",
        "string": "text",
        "integer": "a whole number",
        "number": "a number",
        "boolean": "`true`, `false`",
    }
    bounds = {"minimum": "from", "exclusiveMinimum": "above"}
    limit = "".join(f" {word} {schema[key]:g}" for key, word in bounds.items() if key in schema)
    kind = "a list of text" if schema.get("type") == "array" else words[schema["type"]]
    return "a path" if schema.get("format") == "path" else kind + limit


def schema() -> str:
    """``docs/configuration.schema.json``: what editors complete and check a configuration with."""
    made = RunConfig.model_json_schema() | {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    made["$defs"]["QuestionConfig"]["properties"]["question"]["examples"] = sorted(question_names())
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema() if sys.argv[1:] == ["schema"] else markdown())
