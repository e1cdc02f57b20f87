"""Classes of two sets meet by name: every question answers as if the sets had been numbered alike."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import featurebank_
from numpy.typing import NDArray
from PIL import Image
from probe_sets import clusters, write_set

from featurebank.extract.datasets import DatasetSpec, Split, open_split
from featurebank.pipelines.asking.answer import Score
from featurebank.pipelines.asking.classes import AMBIGUOUS, match_classes
from featurebank.pipelines.asking.inputs import SplitRows, matched
from featurebank.pipelines.asking.register import find_question, question_names
from featurebank.pipelines.asking.roles import select
from featurebank.pipelines.asking.run import read_case
from featurebank.probes.numbering import doubt
from featurebank.store import FeatureStore

NET = "net"
PETS = ("ant", "bee", "cat")


# the names alone


def test_classes_meet_by_their_exact_names() -> None:
    match = match_classes(PETS, ["cat", "ant", "dog"])
    assert (match.by, match.numbers, match.names) == ("name", (2, 0, 3), (*PETS, "dog"))
    assert (match.missing, match.extra, match.renumbers) == (("bee",), ("dog",), True)
    assert match.notes("b", "a") == ["b numbers its classes otherwise than a: they are matched by name"]
    same = match_classes(PETS, PETS)
    assert (same.numbers, same.renumbers, same.notes("b", "a")) == ((0, 1, 2), False, [])
    numbers = match_classes(["0", "1", "10", "2"], ["0", "1", "2", "10"])
    assert numbers.numbers == (0, 1, 3, 2)


def test_numbers_alone_are_said_to_be_taken_as_they_are() -> None:
    both, one, other = match_classes([], []), match_classes(PETS, []), match_classes([], PETS)
    assert [match.by for match in (both, one, other)] == ["number"] * 3
    assert both.notes("b", "a") == ["b and a name no classes: their numbers are taken to mean the same"]
    assert one.notes("b", "a") == ["b names no classes: its numbers are taken to be those of a"]
    assert other.notes("b", "a") == ["a names no classes: its numbers are taken to be those of b"]


@pytest.mark.parametrize("name", ["Bee", " bee", "be e", "BEE ", "\uff42ee"])
def test_names_that_are_only_alike_are_two_classes_and_named(name: str) -> None:
    match = match_classes(PETS, ["ant", name])
    assert (match.numbers, match.extra, match.near) == ((0, 3), (name,), ((name, "bee"),))
    (note,) = (note for note in match.notes("b", "a") if "only alike" in note)
    assert note.endswith(f"{name!r} and 'bee'")


def rows(labels: Any, names: Sequence[str], name: str = "pets/test") -> SplitRows:
    array = np.asarray(labels, np.int64)
    return SplitRows(
        name=name,
        path=Path(),
        features=np.ones((len(array), 2)),
        labels=array,
        class_names=tuple(names),
        rows=np.arange(len(array)),
        failed=0,
        total=len(array),
    )


def test_a_name_of_several_classes_is_an_error_where_a_row_has_one_of_them() -> None:
    twice = ("crane", "dog", "crane")
    assert match_classes(twice, ["dog", "crane"]).numbers == (1, AMBIGUOUS)
    train = rows([0, 1, 2], twice, "pets/train")
    assert matched(rows([0, 0], ["dog", "crane"]), train).labels.tolist() == [1, 1]
    for names, labels in ((["dog", "crane"], [0, 1]), ([*twice, "eel"], [0, 1])):
        with pytest.raises(ValueError, match="several classes called 'crane'"):
            matched(rows(labels, names), train)
    assert matched(rows([0, 2], twice), train).labels.tolist() == [0, 2]
    with pytest.raises(ValueError, match="expected a class name for each label up to 3, found 2"):
        matched(rows([0, 3], ["a", "b"]), train)


def test_sets_without_a_common_class_are_an_error() -> None:
    with pytest.raises(ValueError, match="pets/test and pets/train must share classes by name; found 'x' and 'ant'"):
        matched(rows([0], ["x"]), rows([0, 1, 2], PETS, "pets/train"))
    nothing = rows([-1, -1], ["x"])
    assert matched(nothing, rows([0], PETS)) is nothing


@pytest.mark.parametrize("seed", range(4))
def test_rows_keep_their_class_under_any_numbering(seed: int) -> None:
    generator = np.random.default_rng(seed)
    every = np.array([f"class {k}" for k in range(9)])
    ours, theirs = (generator.permutation(every)[: generator.integers(5, 10)] for _ in range(2))
    labels = generator.integers(-1, len(theirs), 50)
    reference = rows(np.arange(len(ours)), ours.tolist(), "pets/train")
    found = matched(rows(labels, theirs.tolist()), reference)
    assert found.class_names[: len(ours)] == tuple(ours)
    assert [found.class_name(k) for k in found.labels] == ["-1" if k < 0 else repr(str(theirs[k])) for k in labels]
    several = np.where(generator.random((50, len(theirs))) < 0.5, 1, 0)
    columns = matched(rows(several, theirs.tolist()), rows(np.ones((4, len(ours))), ours.tolist(), "pets/train"))
    for k, name in enumerate(columns.class_names):
        own = several[:, np.flatnonzero(theirs == name)]
        assert (columns.labels[:, [k]] == (own if own.size else -1)).all()


# every question: the train set's classes are ant, bee and cat; what the test set calls them differs


@dataclass(frozen=True, kw_only=True)
class Pets:
    """Rows that are the same whatever the numbers of their classes, and these; sets without any are not there."""

    train: tuple[str, ...] = PETS
    test: tuple[str, ...] = PETS
    validation: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    rows: tuple[str, ...] = PETS
    named: tuple[str, ...] = ("train", "test", "validation", "moved", "wild", "text")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a question answers, that of its methods included, each number behind the method that gave it."""

    scores: Sequence[tuple[str, Score]]
    notes: Sequence[str]
    chosen: Mapping[str, Mapping[str, Any]]


EVERY = (*PETS, "dog")
ALIKE = {
    "permuted": Pets(),
    "missing": Pets(rows=("ant", "cat")),
    "extra": Pets(train=EVERY, test=EVERY, rows=EVERY),
}
OTHERWISE = {
    "permuted": Pets(test=("cat", "ant", "bee")),
    "missing": Pets(test=("ant", "cat"), rows=("ant", "cat")),
    "extra": Pets(test=("dog", "cat", "bee", "ant"), rows=EVERY),
}
WILD, TRIED = ("wild/test",), {"cs": (1e-4, 0.01, 1.0)}
QUESTIONS: Mapping[str, Mapping[str, Any]] = {
    "linear": {"cs": (1.0,)},
    "mlp": {"hidden": 64, "learning_rate": 0.01},
    "knn": {"k": (5,), "temperature": (0.1,)},
    "fewshot": {"shots": (5,), "draws": 2, "protocol": "ncm"},
    "zeroshot": {"text": "prompts/text"},
    "multilabel": {"cs": (1.0,)},
    "shift": {"on": WILD, "cs": (1.0,)},
    "retrieve": {},
    "ood": {"ood": WILD, "scores": ("msp",), "resamples": 0},
}
CHOOSING: Mapping[str, Mapping[str, Any]] = {
    "linear that chooses": TRIED,
    "knn that chooses": {"k": (1, 5, 40), "temperature": (0.1,)},
    "multilabel that chooses": TRIED,
    "shift that chooses": {"on": WILD, **TRIED},
    "ood that chooses": {"ood": WILD, "scores": ("temperature", "klm"), "resamples": 0},
}
SHIFTED = {**QUESTIONS["ood"], "shifted": ("moved/test",)}
ASKED = {**QUESTIONS, **CHOOSING, "ood of a shifted set": SHIFTED}
OF_NO_CLASS = {"attentive", "dense", "duplicates", "regression"}  # of tokens, or they read no class of a row


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Pets, str], Found]:
    """The answer of a question about pets; stores and answers are made once."""

    @functools.cache
    def store(pets: Pets, several: bool) -> FeatureStore:
        made = FeatureStore(tmp_path_factory.mktemp("pets"))
        for split, n_rows, seed in (("train", 60, 0), ("test", 48, 1), ("validation", 40, 3), ("moved", 52, 4)):
            if not (own := getattr(pets, split)):
                continue
            x, kinds = clusters(n_rows, classes=4, noise=0.4, seed=seed)
            keep = np.isin(np.array(EVERY)[kinds], pets.rows if split == "test" else PETS)
            places = {name.lower(): number for number, name in enumerate(own)}
            labels = np.array([places.get(EVERY[k], -1) for k in kinds])[keep]
            if several:
                labels = (labels[:, None] == np.arange(len(own))).astype(np.int64)
                labels |= (x[keep][:, [7]] > 0.4) & (np.array(own) == "cat")
            place = "moved/test" if split == "moved" else f"pets/{split}"
            write_set(made, place, NET, x[keep], labels, class_names=own if split in pets.named else ())
        prompts = np.eye(3, 8, dtype=np.float16)
        write_set(made, "prompts/text", NET, prompts, np.arange(3), class_names=PETS if "text" in pets.named else ())
        wild = clusters(30, noise=0.4, seed=2)
        write_set(made, "wild/test", NET, *wild, class_names=pets.train if "wild" in pets.named else ())
        return made

    @functools.cache
    def answer(pets: Pets, name: str) -> Found:
        own = store(pets, several="multilabel" in name)
        question = find_question(name.partition(" ")[0]).of(ASKED[name])
        (case,) = select(own, question, ["pets/train:test"]).cases
        answer = question.run(read_case(question, case))
        every = {part: answer if not part else answer.parts[part] for part in question.parts}
        return Found(
            scores=[(part, score) for part, one in every.items() for score in one.scores],
            notes=[note for one in every.values() for note in one.notes],
            chosen={part: one.chosen for part, one in every.items()},
        )

    return answer


def numbers(answer: Found) -> list[tuple[Any, ...]]:
    return [(part or s.score, s.metric, s.shots, s.set, s.value, s.low, s.high) for part, s in answer.scores]


def test_every_question_about_classes_is_asked_here() -> None:
    assert {*QUESTIONS} == {*question_names()} - OF_NO_CLASS


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("case", ALIKE)
def test_a1_splits_that_number_classes_otherwise_answer_like_aligned_ones(
    answered: Callable[[Pets, str], Found], name: str, case: str
) -> None:
    alike, otherwise = answered(ALIKE[case], name), answered(OTHERWISE[case], name)
    assert numbers(otherwise) == numbers(alike)
    assert alike.scores[0][1].value > 0.6
    assert any("matched by name" in note for note in otherwise.notes)
    assert not any("matched by name" in note for note in alike.notes)
    if case == "extra" and name != "retrieve":
        assert any("'dog'" in note for note in otherwise.notes)


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("named", [("train", "wild"), ()])
@pytest.mark.parametrize("case", ["missing", "extra"])
def test_a1_without_names_numbers_are_taken_and_that_is_said(
    answered: Callable[[Pets, str], Found], name: str, named: tuple[str, ...], case: str
) -> None:
    alike, without = answered(ALIKE[case], name), answered(replace(ALIKE[case], named=named), name)
    assert numbers(without) == numbers(alike)
    assert any("numbers are taken to" in note for note in without.notes)
    assert not any("numbers are taken to" in note for note in alike.notes)


@pytest.mark.parametrize(
    "name", ["linear", "knn", "fewshot", "mlp", "multilabel", "shift", "retrieve", "ood", "zeroshot"]
)
def test_a1_splits_that_share_no_class_are_an_error(answered: Callable[[Pets, str], Found], name: str) -> None:
    with pytest.raises(ValueError, match="must share classes by name"):
        answered(Pets(test=("Ant", "Bee", "Cat")), name)


@pytest.mark.parametrize("name", CHOOSING)
def test_validation_rows_that_number_classes_otherwise_choose_alike(
    answered: Callable[[Pets, str], Found], name: str
) -> None:
    alike, otherwise = (answered(Pets(validation=own), name) for own in (PETS, ("cat", "ant", "bee")))
    assert numbers(otherwise) == numbers(alike)
    assert (otherwise.chosen, [score.details for _, score in otherwise.scores]) == (
        alike.chosen,
        [score.details for _, score in alike.scores],
    )
    assert {*otherwise.notes} - {*alike.notes} == {
        "pets/validation numbers its classes otherwise than pets/train: they are matched by name"
    }


def test_a_shifted_set_that_numbers_classes_otherwise_answers_like_an_aligned_one(
    answered: Callable[[Pets, str], Found],
) -> None:
    owns = (PETS, ("cat", "ant", "bee"), ("Ant", "Bee", "Cat"))
    alike, otherwise, strange = (answered(Pets(moved=own), "ood of a shifted set") for own in owns)
    assert numbers(otherwise) == numbers(alike)
    (accuracy,) = (s.value for _, s in alike.scores if (s.metric, s.set) == ("accuracy", "moved/test"))
    assert accuracy > 0.6
    assert {*otherwise.notes} - {*alike.notes} == {
        "moved/test numbers its classes otherwise than pets/train: they are matched by name"
    }
    assert numbers(strange) == [row for row in numbers(alike) if (row[1], row[3]) != ("accuracy", "moved/test")]
    assert any(note.startswith("moved/test counts as having no classes: ") for note in strange.notes)


# files without names, and names that are numbers too


def noted(verb: str, store: FeatureStore, *arguments: str) -> list[str]:
    """What one answer of a command says beside its numbers."""
    done = featurebank_(verb, *arguments, "--store", str(store.root), "--json")
    assert done.code == 0, done.err
    (one,) = done.json["answers"]
    notes: list[str] = one["notes"]
    return notes


@pytest.mark.parametrize("names", [PETS, ()])
def test_rows_of_a_file_are_said_to_be_taken_in_the_order_of_the_classes(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    store, file = FeatureStore(tmp_path / "store"), tmp_path / "x.npy"
    np.save(file, np.eye(3, 8, dtype=np.float32))
    for split, n_rows, seed in (("train", 60, 0), ("test", 48, 1)):
        x, labels = clusters(n_rows, seed=seed)
        write_set(store, f"pets/{split}", NET, x, labels, class_names=names, columns={"kind": labels})
    write_set(store, "noise/test", NET, np.full((30, 8), 0.5, np.float16), np.full(30, -1))
    said = "x.npy names no classes: its rows are taken in the order of those of"
    assert noted("retrieve", store, "pets/test", "--queries", str(file)) == [f"{said} pets/test"]
    ood = ("pets", "--ood", "noise", "--resamples", "0", "--score")
    assert f"{said} pets/train" in noted("ood", store, *ood, "mcm", "--text", str(file))
    assert not any(said in note for note in noted("ood", store, *ood, "msp"))
    named = tmp_path / "x.npz"
    np.savez(named, features=np.eye(3, 8), labels=[0, 1, 2], kind=[0, 1, 2])
    for more in ((), ("--by", "kind")):
        assert noted("retrieve", store, "pets/test", "--queries", str(named), *more) == []


def test_a_class_named_like_the_number_of_another_is_told(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    for split, n_rows, seed in (("train", 80, 0), ("test", 64, 1)):
        x, labels = clusters(n_rows, classes=4, seed=seed)
        write_set(store, f"digits/{split}", NET, x, labels, class_names=("2", "1", "0", "ant"))
    notes = noted("ood", store, "digits", "--id-classes", "1,2,3", "--score", "mds", "--resamples", "0")
    assert [note for note in notes if "--id-classes" in note] == [
        "--id-classes 2 is the class of that name, number 0; class number 2 is '0'"
    ]


# the sources that give the names, and a backbone's own classes


def stored(store: FeatureStore, place: str, split: Split) -> None:
    """Features that tell the classes of an opened split apart, whatever their numbers."""
    names = np.array(split.class_names)[split.labels]
    x = 8 * np.array([[name == other for other in (*PETS, *"abcde")] for name in names], np.float16)
    x += np.random.default_rng(len(names)).normal(size=x.shape, scale=0.3).astype(np.float16)
    write_set(store, place, NET, x, split.labels, class_names=split.class_names)


def accuracies(root: Path) -> dict[str, float]:
    done = featurebank_(
        "probe", "pets", "--store", str(root), "--task", "linear", "--task", "knn", "--k", "3", "--json"
    )
    assert done.code == 0, done.err
    return {one["question"]: one["rows"][0]["value"] for one in done.json["answers"]}


def test_a1_folders_of_two_splits_meet_by_name(tmp_path: Path) -> None:
    for split, kinds in (("train", PETS), ("test", ("ant", "cat"))):
        for k in range(24):
            path = tmp_path / "pets" / split / kinds[k % len(kinds)] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (2, 2), k).save(path)
        opened = open_split(DatasetSpec(name=f"folder:{tmp_path / 'pets'}", split=split))
        stored(FeatureStore(tmp_path / "store"), f"pets/{split}", opened)
    assert accuracies(tmp_path / "store") == {"linear": 1.0, "knn": 1.0}


def test_a2_class_labels_in_another_order_meet_by_name(tmp_path: Path) -> None:
    hub = pytest.importorskip("datasets")
    for split, kinds in (("train", list(PETS)), ("test", ["cat", "ant", "bee"])):
        features = hub.Features({"image": hub.Image(), "label": hub.ClassLabel(names=kinds)})
        images = [Image.new("L", (2, 2), k) for k in range(24)]
        rows = {"image": images, "label": [k % 3 for k in range(24)]}
        (tmp_path / "hub").mkdir(exist_ok=True)
        path = tmp_path / "hub" / f"{split}-00000-of-00001.parquet"
        hub.Dataset.from_dict(rows, features=features).to_parquet(path)
    for split in ("train", "test"):
        opened = open_split(DatasetSpec(name=f"hf:{tmp_path / 'hub'}", split=split))
        stored(FeatureStore(tmp_path / "store"), f"pets/{split}", opened)
    assert accuracies(tmp_path / "store") == {"linear": 1.0, "knn": 1.0}


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (np.eye(3, 8), ""),
        (np.eye(8), ""),
        (np.eye(3, 8)[[1, 0, 2]], "it is right on"),
        (np.eye(3, 8)[[2, 0, 1]], "it is right on"),
        (np.random.default_rng(5).normal(size=(3, 8)), "it is right on"),
        (np.eye(8)[[1, 0, *range(2, 8)]], "with other numbers for some classes it is right on"),
    ],
    ids=["its classes", "its eight classes", "two permuted", "all permuted", "a stranger's", "two of eight permuted"],
)
def test_a3_a_head_of_as_many_classes_is_its_own_only_where_it_is_right(
    tmp_path: Path, head: NDArray[np.float64], reason: str
) -> None:
    store, names, taken = FeatureStore(tmp_path), (*PETS, *"defgh")[: len(head)], not reason
    own = (4 * head.astype(np.float32), np.zeros(len(head), np.float32))
    for split, n_rows, seed in (("train", 96, 0), ("test", 60, 1)):
        x, labels = clusters(n_rows, classes=len(head), noise=0.2, seed=seed)
        write_set(store, f"pets/{split}", NET, x, labels, class_names=names, head=own)
    write_set(store, "noise/all", NET, np.full((30, 8), 0.5, np.float16), np.full(30, -1))
    words = ("pets", "--ood", "noise", "--score", "msp", "--resamples", "0", "--store", str(tmp_path), "--json")
    done = featurebank_("ood", *words)
    assert done.code == 0, done.err
    (one,) = done.json["answers"]
    assert one["chosen"][""]["head"] == ("own" if taken else "probe")
    assert {row["value"] for row in one["rows"] if row["metric"] == "accuracy"} == {1.0}
    assert any(f"as many classes as pets/train, but {reason or 'it is right on'}" in note for note in one["notes"]) is (
        not taken
    )
    asked = featurebank_("ood", *words, "--head", "own")
    (one,) = asked.json["answers"]
    assert one["chosen"][""]["head"] == "own"
    assert any(note.startswith("the head was asked for: ") for note in one["notes"]) is not taken


@pytest.mark.parametrize("seed", range(3))
def test_a_head_is_doubted_where_another_numbering_explains_the_labels_better(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 10, 600)
    predictions = np.where(generator.random(600) < 0.2, generator.integers(0, 10, 600), labels)
    confused = np.where((labels == 7) & (generator.random(600) < 0.5), 8, predictions)
    for right in (predictions, confused):
        assert not doubt(labels, right, 10)
    for order in ([1, 0, *range(2, 10)], [1, 2, 0, *range(3, 10)]):
        assert doubt(labels, np.array(order)[predictions], 10).startswith("with other numbers for some classes")
