"""What ``--json`` gives, one row a number, in the shapes that tests compare."""

from __future__ import annotations

from typing import Any

__all__ = ["analyses", "by_score", "named", "probes", "values_of"]


def named(row: dict[str, Any], *, test: str = "") -> str:
    """A number's metric, with the number of labels and a set that is not the one scored."""
    shots = row["shots"]
    words = [row["metric"], f"{shots}-shot" if shots.isdigit() else shots, row["set"] if row["set"] != test else ""]
    return " ".join(word for word in words if word)


def probes(found: Any) -> list[dict[str, Any]]:
    """The answers, each number with its interval as a pair, and what was chosen."""
    return [
        one
        | {"rows": [row | {"interval": _ends(row), "interval_kind": row["interval"]} for row in one["rows"]]}
        | {"chosen": one["chosen"].get("")}
        for one in found["answers"]
    ]


def values_of(found: Any, index: int = 0) -> dict[str, float]:
    """Metric to value of one answer; see `named`."""
    one = found["answers"][index]
    scored = one.get("test") or one.get("gallery")
    return {named(row, test=scored): row["value"] for row in one["rows"]}


def analyses(found: Any, question: str) -> list[list[dict[str, Any]]]:
    """The rows of each table of comparisons or groups, with intervals as pairs."""
    return [
        [row | {"interval": _ends(row), "interval_kind": row["interval"]} for row in one["rows"]]
        for one in found["analyses"]
        if one["rows"][0]["question"] == question
    ]


def _ends(row: dict[str, Any]) -> list[float] | None:
    return None if row["low"] is None else [row["low"], row["high"]]


def by_score(found: Any) -> list[dict[str, Any]]:
    """Answers about out-of-distribution scores: of each backbone its scores by set and metric, best mean first."""
    answers = []
    for one in found["answers"]:
        scores: dict[str, dict[str, Any]] = {}
        accuracy = next((row for row in one["rows"] if row["metric"] == "accuracy" and row["set"] == one["test"]), None)
        for row in one["rows"]:
            if not row["score"]:
                continue
            cell = {"value": row["value"], "interval": _ends(row), "interval_kind": row["interval"]}
            details = row["details"]
            entry = scores.setdefault(row["score"], {"score": row["score"], "sets": {}})
            entry |= {"parameters": details["parameters"], "selected": details.get("selected")}
            entry["sets"].setdefault(row["set"], {})[row["metric"]] = cell
        for entry in scores.values():
            areas = [of["auroc"]["value"] for name, of in entry["sets"].items() if name not in ("near", "far")]
            entry["mean_auroc"] = sum(areas) / len(areas)
        heads = {row["details"]["head"] for row in one["rows"]} or {""}
        answers.append(
            one
            | {"scores": sorted(scores.values(), key=lambda entry: -entry["mean_auroc"]), "head": heads.pop()}
            | {"accuracy": accuracy and accuracy | {"interval": _ends(accuracy), "interval_kind": accuracy["interval"]}}
            | {"random_weights": "@random" in one["backbone"]}
        )
    return answers
