"""The command line on small real runs: what it prints where, and its exit codes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import h5py  # type: ignore[import-untyped]
import pytest
from command_line import PATIENCE, Done, featurebank_, subprocess_, words
from runs import RESNET, VIT, make_images

import featurebank
from featurebank.store import FeatureStore

TRAIN, TEST = 30, 12

CONFIG = """
store: features
backbones: ["{backbone}"]
datasets:
  - {{name: "folder:pictures", splits: [train, test]}}
extraction: {{device: cpu, compile: never, precision: float32, batch_size: 8}}
questions:
  - {{question: linear, of: "pictures/train:test"}}
"""


def make_run(folder: Path, *, backbone: str = VIT, train: int = TRAIN, test: int = TEST) -> Path:
    make_images(folder / "pictures" / "train", train)
    make_images(folder / "pictures" / "test", test, seed=1)
    config = folder / "run.yaml"
    config.write_text(CONFIG.format(backbone=backbone), encoding="utf-8")
    return config


def changed(config: Path, old: str, new: str) -> Path:
    text = config.read_text(encoding="utf-8")
    assert old in text
    config.write_text(text.replace(old, new), encoding="utf-8")
    return config


@dataclass(frozen=True)
class First:
    """The first run of a configuration, shared by the tests that only read, or read a copy."""

    config: Path
    done: Done

    @property
    def store(self) -> Path:
        return self.config.parent / "features"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> First:
    config = make_run(tmp_path_factory.mktemp("first"))
    return First(config, featurebank_("features", config))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return make_run(tmp_path, train=15, test=3)


# features


def test_features_makes_the_sets_asks_of_them_and_prints_tables(first: First) -> None:
    assert first.done.code == 0
    assert "Feature sets" in first.done.out
    assert "linear: pictures/train -> pictures/test" in words(first.done.out)
    assert "Feature sets made: 2, in" in first.done.out
    assert VIT in first.done.out
    assert "2 feature sets wanted: 0 sealed already, 2 to make" in first.done.err
    assert [(e.state, e.n_rows) for e in FeatureStore(first.store).ls()] == [("sealed", TEST), ("sealed", TRAIN)]
    assert (first.store / "results" / "results.csv").is_file()


def test_the_answers_of_a_run_are_those_of_the_verb(first: First) -> None:
    (asked,) = featurebank_("linear", "pictures", "--store", first.store, "--json").json["answers"]
    (own,) = featurebank_("features", first.config, "--json").json["answers"]
    assert asked["known"] is own["known"] is True
    assert asked["rows"][0]["metric"] == "accuracy"
    assert asked["rows"] == own["rows"]


def test_a_second_run_computes_nothing_and_says_so(first: First) -> None:
    before = {path: path.stat().st_mtime_ns for path in first.store.rglob("*")}
    done = featurebank_("features", first.config)
    assert done.code == 0
    assert "Everything is sealed already: nothing was computed or fetched" in done.out
    assert {path: path.stat().st_mtime_ns for path in first.store.rglob("*")} == before


def test_json_goes_to_stdout_and_messages_to_stderr(first: First) -> None:
    done = subprocess_("features", first.config, "--json")
    assert done.code == 0, done.err
    assert done.json["ok"] is True
    assert (done.json["device"], done.json["precision"]) == ("cpu", "float32")
    assert [(s["state"], s["n_rows"], len(s["fingerprint"])) for s in done.json["sets"]] == [
        ("present", TRAIN, 64),
        ("present", TEST, 64),
    ]
    assert all(Path(s["path"]).is_file() for s in done.json["sets"])
    (answer,) = done.json["answers"]
    row = answer["rows"][0]
    assert row["metric"] == "accuracy"
    assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
    assert answer["error"] == ""
    assert "2 feature sets wanted: 2 sealed already" in done.err


def test_a_run_with_nothing_to_do_imports_no_torch(tmp_path: Path) -> None:
    # timm itself imports torch, so this is about a packaged architecture.
    config = changed(
        make_run(tmp_path, backbone="mobilenetv2@random:0", train=15, test=3), "batch_size: 8", "workers: 2"
    )
    assert featurebank_("features", config).code == 0
    script = (
        "import sys; from featurebank.pipelines.cli import _run, app; code = _run(app); "
        "print(sorted({'torch', 'torchvision', 'timm', 'sklearn'} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "features", str(config)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0
    assert "Everything is sealed already" in done.stdout
    assert done.stderr.splitlines()[-1] == "[]"


def test_store_option_wins_over_the_configuration(first: First, tmp_path: Path) -> None:
    done = featurebank_("features", first.config, "--store", tmp_path / "elsewhere", "--json")
    assert done.code == 0
    assert {Path(s["path"]).relative_to(tmp_path).parts[0] for s in done.json["sets"]} == {"elsewhere"}


@pytest.mark.parametrize("where", ["reason", "name"])
def test_a_corrupt_image_is_recorded_counted_and_does_not_stop_the_run(config: Path, where: str) -> None:
    name = "00003.png" if where == "reason" else "[red]3[/].png"
    bad = config.parent / "pictures" / "train" / "class0" / "00003.png"
    bad.unlink()
    bad.with_name(name.replace("/", "-")).write_bytes(b"no image at all")
    done = featurebank_("features", config)
    assert done.code == 0
    assert "failed" in done.out
    assert "pictures/train row " in done.out
    report = featurebank_("features", config, "--json").json
    shown = featurebank_("show", "pictures/train", VIT, "--store", config.parent / "features")
    assert report["ok"] is True
    assert name.replace("/", "-") in words(shown.out)
    assert "(14 ok, 1 failed)" in shown.out


def test_d9_a_failed_image_is_named_once_and_again_at_the_next_run(config: Path) -> None:
    bad = config.parent / "pictures" / "train" / "class0" / "00003.png"
    bad.write_bytes(b"no image at all")
    changed(config, "backbones: [", f'backbones: ["{RESNET}", ')
    for _ in range(2):
        text = words(featurebank_("features", config).out)
        assert len(re.findall(r"pictures/train row \d+, class0/00003.png: not a readable image", text)) == 1


def test_d9_what_cannot_be_had_is_told_once_and_its_name_once(config: Path) -> None:
    changed(config, "backbones: [", "backbones: [mobilenetv9, ")
    done = featurebank_("features", config)
    assert (words(done.out) + words(done.err)).count("unknown backbone 'mobilenetv9'") == 1


def test_strict_stops_at_a_corrupt_image_and_names_it(config: Path) -> None:
    bad = config.parent / "pictures" / "train" / "class0" / "00003.png"
    bad.write_bytes(b"no image at all")
    done = featurebank_("features", config, "--strict")
    assert done.code == 1
    assert "class0/00003.png" in done.err
    assert not list((config.parent / "features").rglob("*.h5"))
    bad.unlink()
    assert featurebank_("features", config, "--strict").code == 0


def test_an_unknown_backbone_does_not_stop_the_others(first: First, tmp_path: Path) -> None:
    shutil.copytree(first.config.parent, tmp_path / "run")
    done = featurebank_("features", changed(tmp_path / "run" / "run.yaml", "[", '["mobilenetv3", '))
    assert done.code == 1
    assert "unknown backbone 'mobilenetv3'; did you mean 'mobilenetv2'" in words(done.out)
    assert "sealed already" in done.out


def test_a_question_that_fails_is_said_and_the_features_stay(config: Path) -> None:
    for other in ("class1", "class2"):
        shutil.rmtree(config.parent / "pictures" / "train" / other)
    done = featurebank_("features", config)
    assert done.code == 1
    assert f"linear of {VIT}: a probe needs at least two classes, got only class 0" in words(done.out)
    assert featurebank_("verify", "--store", config.parent / "features").code == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("folder:pictures", "foldr:pictures", "did you mean 'folder:'"),
        ("folder:pictures", "folder:picture", "expected a folder of images, found nothing"),
        ("[train, test]", "[train, test, tset]", "did you mean 'test'"),
        ("questions:", "other: [x]\nquestions:", "other: unknown key"),
    ],
)
def test_what_cannot_be_had_is_named_with_the_nearest_spelling(
    first: First, tmp_path: Path, old: str, new: str, message: str
) -> None:
    shutil.copytree(first.config.parent, tmp_path / "run")
    config = changed(tmp_path / "run" / "run.yaml", old, new)
    if "questions:" in new:
        expected = 2
    else:
        config.write_text(config.read_text().partition("questions:")[0])
        expected = 1
    done = featurebank_("features", config)
    assert done.code == expected
    assert message in words(done.out + done.err)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_size", "batchsize", "extraction.batchsize: unknown key; did you mean 'batch_size'?"),
        ("batch_size: 8", "batch_size: 6", "batch_size must be a power of two"),
        ("device: cpu", "device: gpu", "device must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        ("precision: float32", "precision: float16", "precision float16 needs a CUDA device"),
        (
            "train:test",
            "train:tst",
            "'pictures/train:tst' is no set of this run; its splits: pictures/test, pictures/train",
        ),
        ("linear", "linar", "questions.0.question: unknown question 'linar'; did you mean 'linear'?"),
        ('test"}', 'test", options: {cc: 1}}', "questions.0: cc: no option of linear; its options: output, seed"),
        ("backbones: [", "backbones: ]", "not valid YAML"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_wrong_use(
    first: First, tmp_path: Path, old: str, new: str, message: str
) -> None:
    shutil.copytree(first.config.parent, tmp_path / "run")
    done = featurebank_("features", changed(tmp_path / "run" / "run.yaml", old, new))
    assert done.code == 2
    assert done.out == ""
    assert message in done.err


def test_a_missing_configuration_is_wrong_use(tmp_path: Path) -> None:
    done = featurebank_("features", tmp_path / "nowhere.yaml")
    assert done.code == 2
    assert f"{tmp_path / 'nowhere.yaml'}: the configuration cannot be read" in done.err


def test_a_store_that_cannot_be_made_is_one_message(config: Path) -> None:
    (config.parent / "file").write_text("in the way")
    done = featurebank_("features", config, "--store", config.parent / "file" / "features")
    assert done.code == 1
    assert str(config.parent / "file") in done.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_store_that_cannot_be_written_is_one_message(config: Path) -> None:
    store = config.parent / "features"
    store.mkdir(mode=0o555)
    done = featurebank_("features", config)
    assert done.code == 1
    assert str(store) in done.err


@pytest.mark.slow
def test_ctrl_c_exits_130_and_the_run_goes_on_afterwards(tmp_path: Path) -> None:
    config = changed(make_run(tmp_path, train=400, test=3), "batch_size: 8", "batch_size: 1, workers: 1")
    command = [sys.executable, "-m", "featurebank", "features", str(config)]
    # A shell's background job is told to ignore Ctrl-C, and would hand that on.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        signal.signal(signal.SIGINT, inherited)
        deadline = time.monotonic() + PATIENCE
        while not list(tmp_path.rglob("*.partial")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert out == ""
    assert "interrupted; what was committed is kept, run again to go on" in err
    assert "Traceback" not in err
    listed = featurebank_("ls", "--store", tmp_path / "features", "--json").json
    assert "partial" in {entry["state"] for entry in listed["sets"]}
    assert featurebank_("features", config).code == 0
    assert not list(tmp_path.rglob("*.partial"))
    assert [report.ok for report in FeatureStore(tmp_path / "features").verify()] == [True, True]


def test_d12_a_dry_run_says_what_is_missing_and_writes_nothing(first: First, tmp_path: Path) -> None:
    shutil.copytree(first.config.parent, tmp_path / "run")
    config = changed(tmp_path / "run" / "run.yaml", "batch_size: 8", "batch_size: 8, max_pixels: 1000000")
    shutil.rmtree(tmp_path / "run" / "features" / "results")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    done = featurebank_("features", config, "--dry-run")
    assert done.code == 0, done.err
    report = featurebank_("features", config, "--dry-run", "--json").json
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert report["ok"] is True
    for one, rows in zip(report["sets"], (TRAIN, TEST), strict=True):
        assert (one["state"], one["n_rows"], one["estimate"]["nbytes"]) == ("missing", rows, rows * 1064 * 2)
        assert one["estimate"]["seconds"] > 0
    text = words(done.out)
    assert "to make" in text
    assert "Dry run: nothing was extracted. 2 feature sets to make: features of 87.3 KiB, at most " in text
    assert "not all is known" not in text
    assert "copied" not in text
    unknown = featurebank_("features", config, "--dry-run", "--store", tmp_path / "none")
    assert "2 feature sets to make: size unknown; not all is known of 2." in words(unknown.out)
    assert not (tmp_path / "none").exists()


def test_d12_a_dry_run_says_what_would_be_copied(first: First, tmp_path: Path) -> None:
    shutil.copytree(first.config.parent, tmp_path / "run")
    config = changed(tmp_path / "run" / "run.yaml", "splits: [train, test]", "splits: [train, test], label: again")
    config.write_text(config.read_text("utf-8").partition("questions:")[0], "utf-8")
    plan = [one["estimate"] for one in featurebank_("features", config, "--dry-run", "--json").json["sets"]]
    text = words(featurebank_("features", config, "--dry-run").out)
    made = featurebank_("features", config, "--json").json["sets"]
    assert [one["copied"] for one in plan] == [one["copied"] for one in made]
    assert sum(one["copied"] for one in plan) > 0
    assert f"{sum(one['copied'] for one in plan)} rows copied from sets of the same images" in text


# ls, show, verify


def test_ls_lists_what_is_there(first: First) -> None:
    done = featurebank_("ls", "--store", first.store)
    assert done.code == 0
    assert "pictures/train" in done.out
    assert VIT in done.out
    listed = featurebank_("ls", "--store", first.store, "--json").json["sets"]
    assert [(e["dataset"], e["split"], e["state"]) for e in listed] == [
        ("pictures", "test", "sealed"),
        ("pictures", "train", "sealed"),
    ]
    assert len(listed[0]["fingerprint"]) == 64
    assert listed[0]["outputs"][0]["name"] == "pooled"


def test_ls_takes_a_dataset_a_split_or_a_backbone(first: First) -> None:
    def rows(*filters: str) -> list[int]:
        return [e["n_rows"] for e in featurebank_("ls", "--store", first.store, "--json", *filters).json["sets"]]

    assert rows("--dataset", "pictures") == [TEST, TRAIN]
    assert rows("--dataset", "pictures/train") == [TRAIN]
    assert rows("--backbone", VIT) == [TEST, TRAIN]


def test_ls_shows_what_is_damaged(first: First, tmp_path: Path) -> None:
    shutil.copytree(first.store, tmp_path / "features")
    paths = sorted((tmp_path / "features").rglob("*.h5"))
    paths[0].write_bytes(b"nothing of the kind")
    done = featurebank_("ls", "--store", tmp_path / "features")
    assert done.code == 0
    assert "damaged" in done.out
    states = [e["state"] for e in featurebank_("ls", "--store", tmp_path / "features", "--json").json["sets"]]
    assert states == ["damaged", "sealed"]


def test_an_empty_store_is_listed_as_empty(tmp_path: Path) -> None:
    done = featurebank_("ls", "--store", tmp_path)
    assert done.code == 0
    assert done.out == f"{tmp_path}: no feature sets\n"
    assert featurebank_("ls", "--store", tmp_path, "--json").json == {"sets": []}
    assert featurebank_("verify", "--store", tmp_path) == Done(0, f"{tmp_path}: no sealed feature sets\n", "")


@pytest.mark.parametrize("command", [("ls",), ("verify",), ("show", "a/b", "c")])
def test_a_store_that_is_not_there_is_wrong_use(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = featurebank_(*command, "--store", tmp_path / "nowhere")
    assert done.code == 2
    assert f"{tmp_path / 'nowhere'}: expected a store's folder, found nothing" in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("ls", "--dataset", "picture"), "unknown dataset 'picture'; did you mean 'pictures'"),
        (("ls", "--backbone", VIT[:-1] + "1"), f"did you mean '{VIT}'"),
        (("show", "pictures/tran", VIT), "pictures/train"),
        (("show", "pictures/train", VIT[:-1] + "1"), VIT),
        (("show", "pictures/train", VIT, "--fingerprint", "0123"), "0123"),
        (("show", "pictures", VIT), "must be DATASET/SPLIT"),
    ],
)
def test_unknown_names_are_wrong_use_and_get_the_nearest_spelling(
    first: First, command: tuple[str, ...], message: str
) -> None:
    done = featurebank_(*command, "--store", first.store)
    assert done.code == 2
    assert message in words(done.err)


def test_show_prints_key_outputs_and_provenance(first: First) -> None:
    done = featurebank_("show", "pictures/test", VIT, "--store", first.store)
    assert done.code == 0
    for part in ("fingerprint", "Outputs", "pooled", "Key", "backbone.weights", "Provenance", f"{TEST} ok, 0 failed"):
        assert part in done.out
    shown = featurebank_("show", "pictures/test", VIT, "--store", first.store, "--json").json
    assert shown["outputs"]["pooled"] == {"shape": [TEST, 64], "dtype": "float16", "chunk_rows": mock.ANY}
    assert shown["manifest"]["key"]["dataset"]["split"] == "test"
    assert (shown["n_rows"], shown["n_ok"], shown["failed"]) == (TEST, TEST, {})


def test_verify_passes_what_is_as_it_was_sealed(first: First) -> None:
    done = featurebank_("verify", "--store", first.store)
    assert done.code == 0
    assert done.out.count("as sealed") == 2
    report = featurebank_("verify", "--store", first.store, "--json").json
    assert report["ok"] is True
    reports = report["sets"]
    assert [(r["ok"], r["error"]) for r in reports] == [(True, ""), (True, "")]
    assert all(r["nbytes"] == Path(r["path"]).stat().st_size for r in reports)


def test_verify_finds_one_flipped_byte_and_says_where(first: First, tmp_path: Path) -> None:
    shutil.copytree(first.store, tmp_path / "features")
    path = sorted((tmp_path / "features").rglob("*.h5"))[0]
    with h5py.File(path) as file:
        address = file["outputs/pooled"].id.get_chunk_info(0).byte_offset + 5
    data = bytearray(path.read_bytes())
    data[address] ^= 1
    path.write_bytes(data)
    done = featurebank_("verify", "--store", tmp_path / "features")
    assert done.code == 1
    assert "output 'pooled'" in words(done.out)
    assert done.out.count("as sealed") == 1
    broken, sound = featurebank_("verify", "--store", tmp_path / "features", "--json").json["sets"]
    assert (broken["ok"], sound["ok"]) == (False, True)
    assert "chunk 0, rows 0 to" in broken["error"]


# doctor, help, wrong words


def test_version_and_help() -> None:
    assert featurebank_("--version").out.strip() == featurebank.__version__
    for command in ("features", "probe", "ls", "show", "verify", "doctor"):
        assert command in featurebank_("--help").out
        assert featurebank_(command, "--help").code == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("feature",), "Did you mean 'features'"),
        (("ls", "--stor", "x"), "No such option"),
        (("show", "pictures/train"), "Missing argument"),
    ],
)
def test_wrong_words_are_wrong_use(command: tuple[str, ...], message: str) -> None:
    done = featurebank_(*command)
    assert done.code == 2
    assert message in words(done.err)
    assert done.out == ""


def test_a_process_exits_with_the_code_and_keeps_its_stdout_clean(tmp_path: Path) -> None:
    done = subprocess_("ls", "--store", tmp_path / "nowhere")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err
