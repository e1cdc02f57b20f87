"""``featurebank texts``: text features beside a dataset's image features, by the command line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip  # type: ignore[import-untyped]
import pytest
import torch
from command_line import Done, featurebank_, words
from PIL import Image
from probe_sets import write_set
from tiny_clip import in_hub, save_hugging_face, saved, tiny_zoo

from featurebank.extract.backbones import resolve
from featurebank.extract.texts import make_texts
from featurebank.pipelines.asking.roles import named_splits
from featurebank.pipelines.extracting.config import ConfigError
from featurebank.pipelines.extracting.prompts import make_prompts
from featurebank.probes.prompts import IMAGENET_TEMPLATES, readable
from featurebank.probes.zeroshot import ZeroShotClassifier
from featurebank.store import FeatureStore

TINY, VISION = "open_clip:fb-vit/tiny", "mobilenetv2@random"
CLASSES = ("great_white_shark", "tench", "vélo")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return tiny_zoo(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with image features of a backbone with a text tower."""
    folder = tmp_path_factory.mktemp("extracted")
    with pytest.MonkeyPatch.context() as patch:
        in_hub(tiny_zoo(folder, patch), "fb-vit", folder / "made")
        return extract(folder, TINY).root


@pytest.fixture
def store(hub: Path, extracted: Path, tmp_path: Path) -> FeatureStore:
    """The same beside features of a backbone without texts."""
    in_hub(hub, "fb-vit", tmp_path / "made")
    store = FeatureStore(shutil.copytree(extracted, tmp_path / "features"))
    for split in ("train", "test"):
        write_set(store, f"pets/{split}", VISION, np.eye(9, 4, dtype=np.float16), np.arange(9) % 3, class_names=CLASSES)
    return store


def pictures(folder: Path, classes: Sequence[str] = CLASSES) -> Path:
    for split in ("train", "test"):
        for number in range(9):
            place = folder / split / classes[number % 3] / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((40, 40), 20 + 20 * (number % 3)).convert("RGB").save(place)
    return folder


def run(folder: Path, *backbones: str, more: str = "", classes: Sequence[str] = CLASSES) -> Done:
    pets = folder / "pets"
    pets = pets if pets.is_dir() else pictures(pets, classes)
    names = "".join(f"  - {name if name.startswith('{') else repr(name)}\n" for name in backbones)
    text = (
        f"store: features\nbackbones:\n{names}datasets:\n  - {{name: 'folder:{pets}', splits: [train, test]}}\n"
        f"extraction: {{device: cpu, precision: float32}}\n{more}"
    )
    (folder / "run.yaml").write_text(text)
    return featurebank_("features", folder / "run.yaml", "--json")


def extract(folder: Path, *backbones: str, more: str = "", classes: Sequence[str] = CLASSES) -> FeatureStore:
    done = run(folder, *backbones, more=more, classes=classes)
    assert done.code == 0, done.err + done.out
    return FeatureStore(folder / "features")


def texts(store: FeatureStore, *arguments: Any) -> Done:
    return featurebank_("texts", *arguments, "--store", store.root, "--device", "cpu")


def test_every_backbone_with_a_text_tower_gets_its_texts_once(store: FeatureStore) -> None:
    done = texts(store, "pets", "--json")
    assert done.code == 0, done.err
    (one,) = done.json["sets"]
    assert (one["backbone"], one["dataset"], one["split"], one["state"]) == (TINY, "pets", "texts-simple", "sealed")
    with store.open("pets/texts-simple", TINY) as fs:
        assert fs.columns["prompt"].tolist() == [
            f"a photo of a {name}." for name in ("great white shark", "tench", "vélo")
        ]
        assert fs.class_names == list(CLASSES)
        assert "underscores" in fs.provenance["class_texts"]
    assert texts(store, "pets", "--json").json["sets"][0]["state"] == "present"
    assert "pets/texts-simple" in words(texts(store, "pets").out)
    listed = featurebank_("ls", "--store", store.root, "--json").json["sets"]
    assert [entry["n_rows"] for entry in listed if entry["split"] == "texts-simple"] == [3]
    assert featurebank_("verify", "--store", store.root).code == 0


def test_templates_and_classes_of_files_lie_beside_the_others(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "my words.txt").write_text("\ufeffa shark\r\n\r\na fish\nbicycle \n")
    (tmp_path / "sketch.txt").write_text("a sketch of {c}.\nart of the {}\n")
    for arguments in (
        ("pets", TINY, "--templates", "ensemble"),
        ("pets/train", "--templates", "openai"),
        ("pets", TINY, "--templates", tmp_path / "sketch.txt", "--class-names", tmp_path / "my words.txt"),
    ):
        done = texts(store, *arguments)
        assert done.code == 0, done.err
    rows = {entry.split: entry.n_rows for entry in store if entry.split.startswith("texts")}
    assert rows == {"texts-ensemble": 21, "texts-openai": 240, "texts-sketch-my_words": 6}
    with store.open("pets/texts-sketch-my_words", TINY) as fs:
        assert fs.columns["prompt"].tolist()[:3] == [
            "a sketch of a shark.",
            "art of the a shark",
            "a sketch of a fish.",
        ]
        assert fs.key["texts"]["templates"] == ["a sketch of {}.", "art of the {}"]
        assert "those of a file" in fs.provenance["class_texts"]


def test_checkpoints_of_files_must_be_named_and_the_same(hub: Path, tmp_path: Path) -> None:
    saved("fb-vit", tmp_path / "run_a.bin")
    store = extract(tmp_path, f"{{name: '{TINY}', checkpoint: {tmp_path / 'run_a.bin'}, label: mine}}")
    done = texts(store, "pets")
    assert done.code == 1
    assert "expected featurebank/fb-vit in the hub's local cache" in words(done.out)
    in_hub(hub, "fb-vit", tmp_path / "made")
    done = texts(store, "pets")
    assert "name their file with --checkpoint" in words(done.out)
    done = texts(store, "pets", f"{TINY}[mine]", "--checkpoint", tmp_path / "run_a.bin", "--json")
    assert done.code == 0, done.err
    assert done.json["sets"][0]["backbone"] == f"{TINY}[mine]"
    assert {entry.name for entry in store} == {f"{TINY}[mine]"}


def test_folders_are_named_again_for_their_texts(tmp_path: Path) -> None:
    save_hugging_face(tmp_path / "tiny", "siglip")
    save_hugging_face(tmp_path / "other" / "tiny", "siglip", seed=1)
    store = extract(tmp_path, f"{{name: 'hf:{tmp_path / 'tiny'}', outputs: [embedding]}}")
    done = texts(store, "pets")
    assert (done.code, "hf:tiny: a store does not say where the folder is; name it: hf:PATH" in words(done.out)) == (
        1,
        True,
    )
    done = texts(store, "pets", f"hf:{tmp_path / 'other' / 'tiny'}")
    assert (done.code, "expected the weights of its sets" in words(done.out)) == (1, True)
    done = texts(store, "pets", f"hf:{tmp_path / 'tiny'}", "--json")
    assert done.code == 0, done.err
    assert done.json["sets"][0]["backbone"] == "hf:tiny"
    with store.open("pets/texts-simple", "hf:tiny") as fs:
        assert fs.provenance["logit_bias"] == -12.5
    (answer,) = zeroshot(store, "pets", "--json").json["answers"]
    assert answer["chosen"][""] == {"logit_scale": pytest.approx(1.0), "logit_bias": -12.5}
    assert 0 < numbers(answer)["nll"] < 3


def test_what_cannot_be_done_is_one_line(store: FeatureStore, tmp_path: Path) -> None:
    for arguments, code, message in (
        (("petz",), 2, "unknown dataset 'petz'; did you mean 'pets'?"),
        (
            ("pets", "open_clip:fb-vit/tinny"),
            2,
            f"unknown backbone of pets 'open_clip:fb-vit/tinny'; did you mean '{TINY}'?",
        ),
        (
            ("pets", VISION),
            2,
            "texts are for backbones with a text tower, whose sets have the output embedding",
        ),
        (("pets", "--templates", "simpel"), 2, "templates must be one of simple, ensemble, openai, or a file"),
        (("pets/texts-simple",), 2, "unknown dataset 'pets/texts-simple'"),
    ):
        done = texts(store, *arguments)
        assert (done.code, message in words(done.err)) == (code, True), done.err
        assert len(done.err.strip().splitlines()) == 1
    (tmp_path / "two.txt").write_text("a\nb\n")
    done = texts(store, "pets", "--class-names", tmp_path / "two.txt")
    assert "expected a line for each of the 3 classes, in their order; found 2" in words(done.err)
    assert not [entry for entry in store if entry.split.startswith("texts")]


def test_names_of_classes_do_nothing_to_a_terminal(hub: Path, tmp_path: Path) -> None:
    in_hub(hub, "fb-vit", tmp_path / "made")
    hostile = ("a\x1b[31mb", "[bold]c", "=1+1")
    store = extract(tmp_path, TINY, classes=hostile)
    done = texts(store, "pets")
    assert done.code == 0
    shown = [done, zeroshot(store, "pets"), featurebank_("show", "pets/texts-simple", TINY, "--store", store.root)]
    assert not [text for one in shown for text in (one.out, one.err) if "\x1b" in text]
    with store.open("pets/texts-simple", TINY) as fs:
        called = sorted(["a [31mb", "[bold]c", "=1+1"])
        assert sorted(fs.columns["prompt"]) == [f"a photo of a {name}." for name in called]


BAD: list[tuple[bytes, str]] = [
    (b"", "found no line"),
    (b" \n\n", "found no line"),
    (b"a photo", "exactly one {} for the class"),
    (b"{} and {}", "found '{} and {}' as number 1"),
    (b"{} and {c}", "exactly one {}"),
    (b"a {}\nb {0}", "found 'b {0}' as number 2"),
    (b"a {}\na {}", "each once; found 2, 1 of them different"),
    (b"a {}\0", "found binary data"),
    (b"\xff\xfea\0", "expected a text file in UTF-8"),
    (b"{}" + b"x" * 600, "at most 500 characters"),
    (b"".join(b"%d {}\n" % n for n in range(1001)), "expected at most 1,000 templates"),
    (b"{}" + b"\n" * (5 << 20), "more than"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_a_file_of_templates_that_is_none(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"file\.txt") as caught:
        make_prompts(CLASSES, templates=str(tmp_path / "file.txt"))
    assert message in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigError, match="expected a text file in UTF-8"):
            make_prompts(CLASSES, templates=str(place))


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (["a_b", "c"], "a b"),
        (["__a__b__", "c"], "a b"),
        (["日本_語", "c"], "日本 語"),
        (["a\x1b[31mb\x00\n\u2028c", "c"], "a [31mb c"),
        (["{}", "c"], "{}"),
        (["a {} b", "c"], "a {} b"),
        (["n01440764", "tench"], "n01440764"),
        (["\U0001f988", "c"], "\U0001f988"),
    ],
)
def test_class_names_are_made_readable(names: list[str], called: str) -> None:
    prompts = make_prompts(names, templates="ensemble")
    assert prompts.texts[0] == tuple(template.replace("{}", called) for template in IMAGENET_TEMPLATES)
    assert prompts.class_names == tuple(names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "the dataset names no classes"),
        (["a", ""], "a class must be called something; found ''"),
        (["a", "___"], "found '___'"),
        (["a", "\x07"], r"found '\x07'"),
        (["n01440764", "n01443537"], "found WordNet's numbers, such as 'n01440764'"),
        (["a", "b" * 501], "at most 500 characters; found 501"),
    ],
)
def test_class_names_that_no_text_can_be_made_of(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_prompts(names)
    assert message in str(caught.value)


def zeroshot(store: FeatureStore, *arguments: Any) -> Done:
    return featurebank_("zeroshot", *arguments, "--store", store.root)


def numbers(answer: Any) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in answer["rows"]}


def test_the_zero_shot_question_finds_them_and_answers_as_open_clip(store: FeatureStore, tmp_path: Path) -> None:
    model = saved("fb-vit", tmp_path / "again.bin")
    assert texts(store, "pets", "--templates", "ensemble").code == 0
    done = zeroshot(store, "pets", "--json")
    assert done.code == 0, done.err
    (answer,) = done.json["answers"]
    called = [readable(name) for name in CLASSES]
    tokens = open_clip.get_tokenizer("fb-vit")
    weights = open_clip.build_zero_shot_classifier(model, tokens, called, IMAGENET_TEMPLATES)
    with store.open("pets/test", TINY) as fs, torch.no_grad():
        features = torch.nn.functional.normalize(torch.from_numpy(fs["embedding"].astype(np.float32)), dim=-1)
        logits = model.logit_scale.exp() * features @ weights
        labels = torch.from_numpy(np.array(fs.labels))
    found = numbers(answer)
    assert found["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert found["nll"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    assert {"brier", "ece"} <= found.keys()
    assert [reason for reason in done.json["passed_over"] if VISION in reason and "no text features of pets" in reason]
    assert zeroshot(store, "pets", "--json").json["answers"][0]["known"]
    named = zeroshot(store, "pets", "--text", "pets/texts-ensemble", "--json").json["answers"][0]
    assert numbers(named) == found


def test_without_texts_the_command_that_makes_them_is_named(store: FeatureStore) -> None:
    done = zeroshot(store, "pets")
    assert done.code == 2
    assert f"{TINY} has no text features of pets; make them: featurebank texts pets {TINY}" in words(done.err)
    done = zeroshot(store, f"pets@{TINY}")
    assert (done.code, len(done.err.strip().splitlines())) == (2, 1)


def test_of_several_texts_one_is_chosen(store: FeatureStore) -> None:
    texts(store, "pets")
    texts(store, "pets", "--templates", "ensemble")
    done = zeroshot(store, "pets")
    assert done.code == 1
    several = "several text features of pets are there; choose one: --text pets/texts-ensemble or pets/texts-simple"
    assert several in words(done.out + done.err)
    chosen = [zeroshot(store, "pets", "--text", f"pets/texts-{name}", "--json") for name in ("simple", "ensemble")]
    assert [done.code for done in chosen] == [0, 0]
    told = [(row["train"], row["test"]) for done in chosen for row in done.json["answers"][0]["rows"]]
    assert {*told} == {(f"pets/texts-{name}", "pets/test") for name in ("simple", "ensemble")}
    simple = next(entry for entry in store if entry.split == "texts-simple")
    by_fingerprint = zeroshot(store, "pets", "--fingerprint", simple.fingerprint[:12], "--json")
    assert numbers(by_fingerprint.json["answers"][0]) == numbers(chosen[0].json["answers"][0])


def test_texts_are_read_where_they_are_named_alone(store: FeatureStore) -> None:
    texts(store, "pets")
    entries = [entry for entry in store if entry.split != "test"]
    assert named_splits(entries, "pets") == ("pets", ["train"])
    assert named_splits(entries, "pets/texts-simple") == ("pets", ["texts-simple"])


def test_out_of_distribution_scores_take_them(store: FeatureStore, tmp_path: Path) -> None:
    texts(store, "pets", "--templates", "ensemble")
    asked = ("ood", f"pets@{TINY}", "--id-classes", "great_white_shark,tench", "--score", "mcm", "--store", store.root)
    done = featurebank_(*asked, "--text", "pets/texts-ensemble", "--output", "embedding", "--json")
    assert done.code == 0, done.err
    with store.open("pets/texts-ensemble", TINY) as fs:
        np.save(tmp_path / "text.npy", ZeroShotClassifier().fit(fs["embedding"].reshape(3, 7, -1)).weights_)
    by_file = featurebank_(*asked, "--text", tmp_path / "text.npy", "--output", "embedding", "--json")
    found, expected = (
        [row["value"] for row in one.json["answers"][0]["rows"] if row["score"] == "mcm"] for one in (done, by_file)
    )
    assert found == pytest.approx(expected)
    assert len(found) > 2
    done = featurebank_(*asked, "--text", "pets/texts-ensemble")
    assert done.code == 2
    assert "pets/texts-ensemble lies in the space of embedding: --output embedding; found pooled" in words(done.err)


def test_texts_are_queries_of_images(store: FeatureStore) -> None:
    texts(store, "pets")
    asked = ("retrieve", f"pets/texts-simple:test@{TINY}", "--store", store.root)
    done = featurebank_(*asked, "--output", "embedding", "--json")
    assert done.code == 0, done.err
    (answer,) = done.json["answers"]
    assert answer["sets"] == {"queries": ["pets/texts-simple"], "gallery": ["pets/test"]}
    with store.open("pets/texts-simple", TINY) as queries, store.open("pets/test", TINY) as gallery:
        sides = [fs["embedding"].astype(np.float64) for fs in (queries, gallery)]
        unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]
        first = gallery.labels[(unit[0] @ unit[1].T).argmax(1)]
        assert numbers(answer)["hit_rate@1"] == pytest.approx((first == queries.labels).mean())
    other = ("retrieve", f"pets/texts-simple@{TINY}", "--gallery", "pets/test", "--store", store.root)
    done = featurebank_(*other, "--output", "embedding", "--json")
    assert numbers(done.json["answers"][0]) == numbers(answer)
    assert "unknown output 'pooled'; known: embedding" in words(featurebank_(*asked).out)


def test_texts_of_other_weights_are_not_taken(store: FeatureStore) -> None:
    spec = resolve(f"{TINY}@random:5")
    prompts = make_prompts(CLASSES)
    (made,) = make_texts([replace(spec, name=TINY)], [("pets", prompts)], store)
    assert made.state == "sealed"
    done = zeroshot(store, "pets")
    assert done.code == 2
    assert "no text features of pets" in words(done.err)


QUESTION = "questions:\n  - {question: zeroshot, of: pets}\n"


def test_a_batch_run_makes_texts_and_asks_by_them(hub: Path, tmp_path: Path) -> None:
    in_hub(hub, "fb-vit", tmp_path / "made")
    done = run(tmp_path, TINY, more=f"texts: ensemble\n{QUESTION}")
    assert done.code == 0, done.err
    states = {f"{one['dataset']}/{one['split']}": one["state"] for one in done.json["sets"]}
    assert states == {"pets/train": "sealed", "pets/test": "sealed", "pets/texts-ensemble": "sealed"}
    (answer,) = done.json["answers"]
    assert answer["sets"] == {"test": ["pets/test"], "text": ["pets/texts-ensemble"]}
    assert {"accuracy", "nll"} <= numbers(answer).keys()
    by_verb = zeroshot(FeatureStore(tmp_path / "features"), "pets", "--json").json["answers"][0]
    assert (by_verb["known"], numbers(by_verb)) == (True, numbers(answer))
    again = texts(FeatureStore(tmp_path / "features"), "pets", "--templates", "ensemble", "--json")
    assert again.json["sets"][0]["state"] == "present"
    (tmp_path / "mine.txt").write_text("a drawing of a {}\n")
    asked = "{question: zeroshot, of: pets, options: {text: pets/texts-mine}}"
    done = run(tmp_path, TINY, more=f"texts: [simple, {{templates: mine.txt, dataset: pets}}]\nquestions: [{asked}]\n")
    assert done.code == 0, done.err
    assert done.json["answers"][0]["sets"]["text"] == ["pets/texts-mine"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("texts: simpel", "texts.0.templates: templates must be one of simple, ensemble, openai, or a file"),
        ("texts: [{dataset: petz}]", "texts.0.dataset: 'petz' is none of this run's datasets: pets"),
        ("texts: [simple, simple]", "texts.1: pets/texts-simple is made by another of the texts"),
        ("texts: [{template: simple}]", "texts.0.template: unknown key; did you mean 'templates'?"),
        ("texts: 3", "texts: expected a list, found 3"),
        ("questions: [{question: zeroshot, of: pets, options: {text: pets/texts-simple}}]", "is no set of this run"),
    ],
)
def test_texts_that_a_run_cannot_make_are_said_before_it_begins(
    more: str, message: str, hub: Path, tmp_path: Path
) -> None:
    in_hub(hub, "fb-vit", tmp_path / "made")
    done = run(tmp_path, TINY, more=f"{more}\n")
    assert (done.code, message in words(done.err)) == (2, True), done.err
    assert not (tmp_path / "features").exists()


def test_classes_that_give_no_texts_stop_nothing_else(hub: Path, tmp_path: Path) -> None:
    in_hub(hub, "fb-vit", tmp_path / "made")
    (tmp_path / "two.txt").write_text("a\nb\n")
    done = run(tmp_path, TINY, more="texts: [{class_names: two.txt}, simple]\n")
    assert done.code == 1
    assert "two.txt: expected a line for each of the 3 classes" in done.json["unavailable"]["texts of pets"]
    assert {one["state"] for one in done.json["sets"]} == {"sealed"}
    assert [one["split"] for one in done.json["sets"]] == ["train", "test", "texts-simple"]
