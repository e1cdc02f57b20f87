"""One grammar for all verbs: a name means one thing wherever it stands, and every store is named alike."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
from command_line import featurebank_
from typer.main import get_command

from featurebank.pipelines.asking.register import is_question
from featurebank.pipelines.cli import app
from featurebank.store import FeatureStore
from featurebank.store.places import STORE_VARIABLE

ROOT: Any = get_command(app)
CONTEXT: Any = ROOT.make_context("featurebank", [], resilient_parsing=True)
VERBS: dict[str, Any] = {name: ROOT.get_command(CONTEXT, name) for name in ROOT.list_commands(CONTEXT)}
JSON_PAGE = Path(__file__).parents[2] / "docs" / "json.md"
NO_STORE = {"backbones", "datasets"}  # they say what there is elsewhere


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    made = FeatureStore(tmp_path / "store")
    rows = np.eye(6, 8)
    contents = np.arange(96, dtype=np.uint8).reshape(6, 16) + 1
    labels = [0, 1, 2, 0, 1, 2]
    for place, hashes in (("pets/train", contents), ("pets/test", contents[::-1] + 100), ("dogs/all", contents)):
        made.add(place, "net@random", rows, labels=labels, content_hash=hashes)
    return made


def options() -> dict[str, dict[str, Any]]:
    """Every option by its flag, of each verb that has it."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for verb, command in VERBS.items():
        for parameter in command.params:
            for flag in parameter.opts:
                if flag.startswith("-"):
                    found[flag][verb] = parameter
    return found


def meaning(text: str) -> str:
    """What a help says before it goes into details of one verb."""
    return re.split(r"[.,:;\[]", text, maxsplit=1)[0].strip()


def kind(option: Any) -> str:
    """The type of one value; that of words which are listed is text."""
    kinds = option.type_descriptor.annotation
    while leaves := [one for one in get_args(kinds) if one not in (NoneType, Ellipsis)]:
        if get_origin(kinds) is Literal:
            return "str"
        kinds = leaves[0]
    return str(kinds.__name__)


@pytest.mark.parametrize("flag", sorted(options()))
def test_d12_an_option_means_one_thing_in_every_verb(flag: str) -> None:
    of = options()[flag]
    assert len({meaning(one.help) for one in of.values()}) == 1, {verb: one.help for verb, one in of.items()}
    # A sentence that says so may allow several values in one verb and a single one in another.
    assert len({(one.nargs, one.is_flag, kind(one)) for one in of.values()}) == 1, flag
    for verb, one in of.items():
        assert not one.multiple or "repeatable" in one.help.lower(), (verb, flag)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_d12_every_verb_has_the_same_ways(verb: str) -> None:
    command, flags = VERBS[verb], options()
    assert featurebank_(verb, "-h") == featurebank_(verb, "--help")
    assert verb in flags["--json"]
    assert (verb in flags["--store"]) == (verb not in NO_STORE)
    if verb not in NO_STORE:
        assert flags["--store"][verb].envvar == STORE_VARIABLE
    assert command.help
    assert featurebank_("--help").out.count(f"\n│ {verb} ") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("ls",),
        ("show", "pets/test", "net@random"),
        ("show", "pets/test", "net@random", "--diff", "{other}"),
        ("verify",),
        ("gc",),
        ("doctor",),
        ("backbones",),
        ("backbones", "mobilenetv2"),
        ("datasets",),
        ("datasets", "cub200"),
        ("results",),
        ("report", "--html", "{folder}/report.html"),
        ("efficiency", "mobilenetv2", "--counts-only"),
        ("duplicates", "pets/test"),
        ("export", "pets/test", "net@random", "{folder}/out"),
        ("pack", "{folder}/packed"),
        ("unpack", "{folder}/unpacked"),
        ("merge", "{folder}/store", "--store", "{folder}/merged"),
    ],
    ids=" ".join,
)
def test_d12_json_is_one_object_as_documented(store: FeatureStore, words: tuple[str, ...], tmp_path: Path) -> None:
    if words[0] in ("pack", "unpack"):
        pytest.importorskip("hdf5plugin")
    other = store.open("pets/train", "net@random").fingerprint
    given = [word.format(folder=tmp_path, other=other) for word in words]
    place: list[str | Path] = [] if words[0] in NO_STORE or "--store" in words else ["--store", store.root]
    found = featurebank_(*given, *place, "--json").json
    assert isinstance(found, dict)
    keys = documented(words)
    assert keys <= found.keys() if len(words) == 2 and words[0] in NO_STORE else keys == found.keys()


def documented(words: Sequence[str]) -> set[str]:
    """The keys that ``docs/json.md`` has for a command."""
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", JSON_PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    page = {name: {*re.findall("`(.+?)`", keys)} for names, keys in rows[1:] for name in names.split(", ")}
    several = len(words) == 2 and words[0] in NO_STORE
    name = f"{words[0]} NAME" if several else f"{words[0]} --diff" if "--diff" in words else words[0]
    return page["a question" if is_question(name) else f"`{name}`"]


def test_d12_sets_are_named_alike(store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORE_VARIABLE, str(store.root))
    apart, together = ("pets/test", "net@random"), ("pets/test@net@random",)
    assert featurebank_("show", *apart, "--json") == featurebank_("show", *together, "--json")
    assert featurebank_("verify", *apart, "--json") == featurebank_("verify", *together, "--json")
    assert len(featurebank_("verify", *together, "--json").json["sets"]) == 1
    assert len(featurebank_("verify", "pets", "--json").json["sets"]) == 2
    for number, words in enumerate((apart, together)):
        done = featurebank_("export", *words, tmp_path / f"{number}.safetensors")
        assert done.code == 0, done.err
    assert (tmp_path / "0.safetensors").read_bytes() == (tmp_path / "1.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "pets/test"), "Missing argument BACKBONE"),
        (("export", "pets/test", "net@random"), "Missing argument TARGET"),
        (("export", "pets@net@random", "out"), "must be DATASET/SPLIT"),
        (("verify", "pets/tst"), "did you mean 'pets/test'"),
        (("verify", "pets/test@net@randm"), "did you mean 'net@random'"),
        (("ls", "--backbone", "net@randm"), "did you mean 'net@random'"),
        (("pack", "elsewhere", "--dataset", "pts"), "did you mean 'pets'"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, tuple) else "",
)
def test_d12_a_set_that_is_named_wrongly_is_wrong_use(
    store: FeatureStore, words: tuple[str, ...], message: str
) -> None:
    done = featurebank_(*words, "--store", store.root)
    assert (done.code, done.out) == (2, "")
    assert message in " ".join(done.err.replace("│", " ").split())


def test_d12_the_same_bytes_are_duplicates_too(store: FeatureStore) -> None:
    place = ("--exact", "--store", store.root, "--json")
    done = featurebank_("duplicates", "pets/train", "--gallery", "dogs/all", "--limit", "100", *place)
    assert done.code == 0, done.err
    rows = {row["metric"]: row for row in done.json["answers"][0]["rows"]}
    assert {name: row["value"] for name, row in rows.items()} == {"images": 6, "pairs": 6, "same_bytes": 6}
    pairs = rows["images"]["details"]["pairs"]
    shared = store.same_content("dogs/all", "pets/train")
    assert sorted((pair["first"], pair["second"]) for pair in pairs) == sorted(shared)
    assert {(row["train"], row["test"]) for row in rows.values()} == {("dogs/all", "pets/train")}
    for words in (("pets/test",), ("pets/test", "--gallery", "pets/test")):
        (alone,) = featurebank_("duplicates", *words, *place).json["answers"]
        assert {row["metric"]: row["value"] for row in alone["rows"]} == {"images": 0, "pairs": 0, "same_bytes": 0}
    both = featurebank_("duplicates", "pets/train:test", "--gallery", "dogs/all", *place)
    assert (both.code, "--gallery is for a KEY of one set" in both.out) == (1, True)
    assert featurebank_("duplicates", "pets/train", "--gallery", "dogs/al", *place).code == 2
