"""A question is one declaration: verb, YAML form, results, tables, JSON and page follow, with no other file touched."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import json
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml
from command_line import featurebank_, words
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from probe_sets import write_pair
from runs import RESNET, VIT, make_images
from tiny_network import TinyNetwork

from featurebank.extract import backbones
from featurebank.pipelines.asking.answer import Answer
from featurebank.pipelines.asking.cases import Answered
from featurebank.pipelines.asking.images import Album
from featurebank.pipelines.asking.inputs import Rows, class_notes, labelled_splits
from featurebank.pipelines.asking.intervals import mean_score, predicted
from featurebank.pipelines.asking.option import choices_of, flag_of, option, options_of, validated
from featurebank.pipelines.asking.question import Question
from featurebank.pipelines.asking.register import find_question, forget, question_names
from featurebank.pipelines.asking.results import Results
from featurebank.pipelines.cli import _command
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.extracting.config import RunConfig
from featurebank.pipelines.extracting.run import run_features
from featurebank.store import FeatureStore
from featurebank.store.text import html_text


def declare() -> type[Question]:
    """What it takes to add a question."""

    @dataclass(frozen=True, kw_only=True)
    class Majority(Question):
        """The accuracy of always guessing the most frequent class of the train set."""

        name: ClassVar[str] = "majority"
        predicts_classes: ClassVar[bool] = True

        rank: int = option(1, "Which class is guessed: 1 is the most frequent.", least=1)

        def run(self, rows: Rows) -> Answer:
            train, _, test = labelled_splits(rows)
            guess = np.argsort(-np.bincount(train.labels), kind="stable")[self.rank - 1]
            guesses = np.full(len(test.labels), guess)
            return Answer(
                scores=[mean_score("accuracy", test.labels == guesses, seed=self.seed)],
                chosen={"class": int(guess)},
                arrays=predicted(test, guesses),
                notes=class_notes(train, test),
            )

        def section(self, answered: Sequence[Answered], results: Results, album: Album) -> str:
            del results, album  # nothing that was kept and no image is shown
            names = ", ".join(f"{one.case.backbone}: class {one.results[0].chosen['class']}" for one in answered)
            return f"<section><h2>What is guessed</h2><p>{html_text(names)}</p></section>"

    return Majority


def test_the_declaration_is_short() -> None:
    assert len(inspect.getsource(declare).splitlines()) < 40


@pytest.fixture
def majority() -> Iterator[type[Question]]:
    yield declare()
    forget("majority")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    made = FeatureStore(tmp_path_factory.mktemp("questions") / "features")
    for name in ("<b>net", "other"):
        write_pair(made, "pets", name, train=61, test=50)
    return made


def asked(store: FeatureStore, *arguments: Any, verb: str = "majority", code: int = 0) -> Any:
    done = featurebank_(verb, "pets", *arguments, "--store", store.root, "--json")
    assert done.code == code, done.err
    return done.json


@pytest.mark.usefixtures("majority")
def test_it_has_a_verb_with_options_and_help() -> None:
    assert "The accuracy of always guessing" in words(featurebank_("--help").out)
    text = words(featurebank_("majority", "-h").out)
    assert "The accuracy of always guessing the most frequent class of the train set." in text
    assert "Which class is guessed: 1 is the most frequent. [1]" in text
    for name in ("--rank", "--output", "--seed", "--compare", "--html", "--json"):
        assert name in text
    done = featurebank_("majority", "pets", "--rank", "0")
    assert done.code == 2
    assert "'--rank'" in done.err


@pytest.mark.usefixtures("majority")
def test_its_json_is_one_row_a_number(store: FeatureStore) -> None:
    answers = asked(store)["answers"]
    assert [one["backbone"] for one in answers] == ["<b>net", "other"]
    for one in answers:
        (row,) = one["rows"]
        assert (one["question"], one["train"], one["test"], one["error"]) == ("majority", "pets/train", "pets/test", "")
        assert (row["metric"], row["direction"], row["primary"], row["n"]) == ("accuracy", "higher", True, 50)
        assert (row["train"], row["set"], row["interval"]) == ("pets/train", "pets/test", "test rows, Wilson")
        assert row["value"] == pytest.approx(17 / 50)
        assert row["low"] < row["value"] < row["high"]
        assert one["chosen"] == {"": {"class": 0}}
        assert one["options"] == {"output": "pooled", "seed": 0, "rank": 1}


@pytest.mark.usefixtures("majority")
def test_what_is_known_is_not_computed_again(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first = asked(store, "--rank", "2")["answers"]
    monkeypatch.setattr(find_question("majority"), "run", None)
    again = asked(store, "--rank", "2")["answers"]
    assert [one["known"] for one in again] == [True, True]
    assert [(one["results"], one["rows"]) for one in again] == [(one["results"], one["rows"]) for one in first]
    failed = asked(store, "--rank", "3", code=1)["answers"]
    assert all("not callable" in one["error"] for one in failed)


@pytest.mark.usefixtures("majority")
def test_it_has_a_table_and_stands_beside_other_questions(store: FeatureStore) -> None:
    done = featurebank_("majority", "pets", "--store", store.root)
    lines = done.out.splitlines()
    assert words(done.out).startswith("majority: pets/train -> pets/test")
    assert [line.split()[:2] for line in lines if line[:5] in ("<b>ne", "other")] == [
        ["<b>net", ".340"],
        ["other", ".340"],
    ]
    assert "95 % intervals: test rows, Wilson" in done.out
    task = ("--task", "majority", "--task", "knn", "--rank", "1", "--k", "5")
    beside = featurebank_("probe", "pets", *task, "--store", store.root)
    assert beside.code == 0, beside.err
    assert "accuracy: pets/train -> pets/test" in beside.out
    assert "backbone majority knn" in words(beside.out)


@pytest.mark.usefixtures("majority")
def test_its_backbones_are_compared_and_its_rows_grouped(tmp_path: Path) -> None:
    made = FeatureStore(tmp_path)
    for name in ("net", "other"):
        write_pair(made, "pets", name, train=60, test=60, columns={"place": np.array(["north", "south"] * 30)})
    found = asked(made, "--compare", "--group", "place")
    assert {one["rows"][0]["question"] for one in found["analyses"]} == {"compare", "groups"}
    (pair,) = next(one["rows"] for one in found["analyses"] if one["rows"][0]["question"] == "compare")
    assert pair["value"] == 0.0


@pytest.mark.usefixtures("majority")
def test_its_results_are_listed_with_the_others(store: FeatureStore) -> None:
    asked(store, "--rank", "1")
    asked(store, "--k", "5", verb="knn")
    listed = featurebank_("results", "--where", "question=majority", "--store", store.root, "--json").json["rows"]
    assert {row["question"] for row in listed} == {"majority"}
    assert {(row["backbone"], row["value"]) for row in listed} >= {("<b>net", 0.34), ("other", 0.34)}
    rows = [row for row in Results(store.root).rows() if row.question == "majority"]
    kept = Results(store.root).arrays(rows[0])
    assert kept["predictions"].shape == kept["labels"].shape == (50,)


@pytest.mark.usefixtures("majority")
def test_a_page_shows_its_table_and_its_section(store: FeatureStore, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert asked(store, "--html", page)["page"] == str(page)
    text = page.read_text("utf-8")
    assert "<caption>majority:<wbr> pets/" in text
    assert "<section><h2>What is guessed</h2><p>&lt;b&gt;net: class 0, other: class 0</p></section>" in text
    assert "<b>net" not in text


def test_a_run_asks_it(majority: type[Question], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "build", TinyNetwork)
    for seed, split in enumerate(("train", "test")):
        make_images(tmp_path / "pets" / split, 9, seed=seed)
    path = tmp_path / "run.yaml"
    text = """
    backbones: {names}
    datasets: [{{name: "folder:pets", splits: [train, test]}}]
    extraction: {{device: cpu, compile: never, precision: float32, workers: 1}}
    questions: [{{question: majority, of: pets, options: {options}}}]
    """
    path.write_text(text.format(names=json.dumps([RESNET, VIT]), options="{rank: 3}"), "utf-8")
    config = RunConfig.read(path)
    assert config.questions[0].asked() == majority(rank=3)  # type: ignore[call-arg]
    report = run_features(config)
    assert report.ok
    assert [(one.question.name, one.case.backbone) for one in report.answers.asked] == [
        ("majority", RESNET),
        ("majority", VIT),
    ]
    assert all(row.value == pytest.approx(1 / 3) for one in report.answers.asked for row in one.rows)
    assert [one.known for one in run_features(config).answers.asked] == [True, True]
    for options, fault in (
        ("{rnk: 3}", "questions.0: rnk: no option of majority; its options: output, seed, rank"),
        ("{rank: x}", "questions.0: rank: Input should be a valid integer"),
        ("{rank: 0}", "--rank must be at least 1; found 0"),
    ):
        path.write_text(text.format(names=json.dumps([RESNET]), options=options), "utf-8")
        with pytest.raises(ConfigError) as caught:
            RunConfig.read(path)
        assert fault in str(caught.value)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Makes packages have entry points, each a name and what loads it."""

    def install(**points: Callable[[], Any]) -> None:
        own = [SimpleNamespace(name=name, load=load) for name, load in points.items()]
        found = {"featurebank.questions": own}
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: found.get(group, []))

    yield install
    forget("majority")


def test_a_package_may_bring_it(installed: Callable[..., None], store: FeatureStore) -> None:
    assert "majority" not in question_names()
    installed(majority=declare)
    assert "majority" in question_names()
    assert "The accuracy of always guessing" in words(featurebank_("--help").out)
    assert asked(store)["answers"][0]["rows"][0]["value"] == pytest.approx(0.34)


def test_a_package_that_cannot_be_loaded_stops_no_other(installed: Callable[..., None], store: FeatureStore) -> None:
    def broken() -> None:
        raise ImportError("no module named 'gone'")

    installed(majority=declare, broken=broken, empty=lambda: None)
    text = words(featurebank_("--help").out)
    assert "The accuracy of always guessing" in text
    assert "linear" in text
    assert asked(store)["ok"]
    assert asked(store, "--task", "knn", "--k", "5", verb="probe")["ok"]
    for name, fault in (("broken", "no module named 'gone'"), ("empty", "declares no question 'empty'")):
        done = featurebank_(name, "pets", "--store", store.root)
        assert done.code == 2
        assert fault in words(done.err)


# every question


NEEDED: dict[str, dict[str, Any]] = {
    "dense": dict.fromkeys(("train_masks", "test_masks"), Path(__file__)),
    "ood": {"ood": ("a/test",)},
    "shift": {"on": ("a/test",)},
    "zeroshot": {"text": "a/text"},
}
TOGETHER: dict[str, dict[str, Any]] = {  # options of retrieve that others must come with
    "components": {"whiten": "a/test"},
    "depth": {"rerank": "diffusion"},
    "ef_search": {"index": "HNSW8"},
    "ground_truth": {"protocol": "roxford-medium", "ground_truth": Path(__file__)},
    "nprobe": {"index": "IVF4,Flat"},
    "per_class": {"protocol": "bob"},
}


@functools.cache
def base(name: str, of: str) -> Question:
    """A question with what it and one of its options need."""
    return find_question(name).of(TOGETHER.get(of, {}) if name == "retrieve" else NEEDED.get(name, {}))


def values(kind: Any, own: Any) -> st.SearchStrategy[Any]:
    """Values of an option's type, most of them allowed."""
    if allowed := choices_of(kind):
        return st.sampled_from(allowed)
    parts = [part for part in typing.get_args(kind) if part is not type(None)]
    if typing.get_origin(kind) is tuple:
        if own.role:
            return st.just(("b/test",))
        kinds = parts[:1] if parts[-1] is ... else parts
        if choices_of(kinds[0]):
            return st.lists(st.sampled_from(choices_of(kinds[0])), min_size=1, max_size=2, unique=True).map(tuple)
        return st.tuples(*(values(part, own) for part in kinds))
    if parts:
        return values(parts[0], own)
    numbers = {int: st.integers(1, 9), float: st.floats(0.01, 0.99), bool: st.just(True)}
    return numbers.get(kind, st.sampled_from(["mds", "vim", "abc", "1", "2:1.5", "sop"]))


def drawn(data: st.DataObject, name: str, of: str, file: Path) -> Any:
    """Another value of an option than its question has, one that is allowed."""
    kind = typing.get_type_hints(find_question(name))[of]
    value = (
        file if Path in (kind, *typing.get_args(kind)) else data.draw(values(kind, options_of(base(name, of))[of][1]))
    )
    assume(value != getattr(base(name, of), of))
    return value


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "x.json"
    path.write_text("{}")
    return path


@functools.cache
def command(name: str) -> Any:
    return _command(name)


EVERY = [(name, of) for name in question_names() for of in options_of(find_question(name))]


def allowed(name: str, of: str, value: Any) -> Question:
    """The base question with another value; a value that it refuses is drawn again."""
    own = {option: getattr(base(name, of), option) for option in options_of(base(name, of))}
    try:
        return find_question(name).of(own | {of: value})
    except ConfigError:
        assume(False)
        raise


@pytest.mark.parametrize(("name", "of"), EVERY)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_every_option_is_in_the_verb_the_key_and_the_yaml_form(
    data: st.DataObject, file: Path, name: str, of: str
) -> None:
    kind, own = find_question(name), options_of(find_question(name))[of][1]
    value = drawn(data, name, of, file)
    question = allowed(name, of, value)

    assert (question.key() != base(name, of).key()) is (own.hashed and of != kind.methods)
    assert (of in question.settings()) is own.hashed
    if of == kind.methods:
        assert question.parts == ("", *value)

    plain = str(value) if isinstance(value, Path) else [*value] if isinstance(value, tuple) else value
    read = yaml.safe_load(yaml.safe_dump({"options": {of: plain}}))["options"]
    assert validated(kind, read) == {of: value}

    flag = flag_of(kind, of)
    (parameter,) = [one for one in command(name).params if flag in one.opts]
    assert parameter.help.startswith(own.help.partition(" [")[0])
    typed = parameter.nargs > 1 and [flag, *map(str, value)]
    typed = (
        typed
        or [flag] * (value is True)
        or [word for one in (value if isinstance(value, tuple) else (value,)) for word in (flag, str(one))]
    )
    with command(name).make_context(name, ["pets", *typed]) as context:
        got = context.params[of]
    assert (tuple(got) if isinstance(got, list) else got) == value
