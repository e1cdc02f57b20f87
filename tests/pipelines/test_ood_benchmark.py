"""``featurebank ood --benchmark`` on tiny images in OpenOOD's layout: what is extracted, dealt out and chosen."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answers import by_score
from command_line import Done, featurebank_, words
from ood_sets import write_ood_set
from openood import CLASSES, ROWS, make_openood
from probe_sets import clusters
from runs import RESNET

from featurebank.extract.datasets._named import manifest
from featurebank.pipelines.asking.results import Results
from featurebank.pipelines.questions.ood.benchmark import BENCHMARKS, CLASSIC, LARGE
from featurebank.pipelines.questions.ood.published import PUBLISHED, published
from featurebank.probes.ood.names import scores
from featurebank.store import FeatureStore

SOME = ("--score", "msp", "--score", "react", "--score", "mds", "--resamples", 0)
OWN = (*SOME, "--head", "own")  # of a random network, whose classes the rows do not tell


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_openood(tmp_path_factory.mktemp("openood"))


def run(store: Path, *arguments: Any) -> Done:
    return featurebank_("ood", "--benchmark", "imagenet1k", *arguments, "--store", store)


def test_imagenet_1k_end_to_end(data: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "--backbone", RESNET, "--data", data, *OWN, "--json")
    assert done.code == 0, done.err
    (one,) = by_score(done.json)
    assert (one["train"], one["test"]) == ("openood:imagenet1k/train", "openood:imagenet1k/test")
    assert one["head"] == "own"
    places = ["inaturalist", "textures", "openimage_o", "ssb_hard", "ninco"]
    for entry in one["scores"]:
        assert list(entry["sets"]) == [*(f"openood:imagenet1k/{place}" for place in places), "near", "far"]
        cells = entry["sets"]
        for metric in ("auroc", "full_spectrum_auroc"):
            near = np.mean([cells[f"openood:imagenet1k/{place}"][metric]["value"] for place in places[3:]])
            assert cells["near"][metric]["value"] == pytest.approx(near)
    store = FeatureStore(tmp_path)
    for name, (_, _, known, n_rows) in ROWS.items():
        split = {"val_openimage_o": "openimage_o_val", "train_imagenet": "train", "val_imagenet": "val"}.get(
            name.removesuffix(".txt"), name.removesuffix(".txt").removeprefix("test_")
        )
        with store.open(
            f"openood:imagenet1k/{'test' if name == 'test_imagenet.txt' else split}", RESNET
        ) as feature_set:
            assert feature_set.n_rows == n_rows
            assert set(feature_set.labels.tolist()) == (set(CLASSES) if known else {-1})
            assert feature_set.ids[0].endswith("_000.png")
    rows = [row for row in Results(store.root).rows() if (row.score, row.metric) == ("react", "auroc")]
    selected = rows[0].details["selected"]
    assert (selected["inside"], selected["outside"]) == ("openood:imagenet1k/val", "openood:imagenet1k/openimage_o_val")
    assert one["sets"]["shifted"] == [f"openood:imagenet1k/imagenet_{kind}" for kind in ("v2", "c", "r")]
    page = tmp_path / "page.html"
    again = run(tmp_path, "--backbone", RESNET, "--data", data, *OWN, "--json", "--html", page)
    assert page.read_text(encoding="utf-8").count("<img ") == 8 + 6 + 5 + 6 + 6 + 5
    assert again.json["answers"][0]["known"]
    assert run(tmp_path, *OWN, "--json").json["answers"][0]["known"]


def test_a_shifted_set_without_images_is_passed_over_and_another_is_not(data: Path, tmp_path: Path) -> None:
    some = tmp_path / "some"
    shutil.copytree(data, some)
    shutil.rmtree(some / "images_largescale" / "imagenet_c")
    (some / "benchmark_imglist" / "imagenet" / "test_imagenet_r.txt").unlink()
    done = run(tmp_path / "store", "--backbone", RESNET, "--data", some, *OWN, "--json")
    assert done.code == 0, done.err
    assert words(done.err).count("is passed over") == 2
    assert done.json["answers"][0]["sets"]["shifted"] == ["openood:imagenet1k/imagenet_v2"]
    shutil.rmtree(some / "images_largescale" / "ninco")
    done = run(tmp_path / "other", "--backbone", RESNET, "--data", some, *OWN)
    assert (done.code, done.out) == (1, "")
    assert "5 of them missing: ninco/NINCO_OOD_classes/test_ninco_000.png" in words(done.err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--benchmark", "imagenet"), "unknown benchmark 'imagenet'; did you mean"),
        (("--benchmark", "cifar10"), "has no features of openood:cifar10; extract them with --backbone and --data"),
        (("pets", "--benchmark", "cifar10"), "--benchmark has its own sets; leave out KEY"),
        (("--benchmark", "cifar10", "--near", "pets"), "--benchmark has its own sets; leave out KEY"),
        (("--benchmark", "cifar10", "--data", "."), "--benchmark with --data needs --backbone"),
        (("--benchmark", "cifar10", "--lists", "."), "--lists must come with --data"),
        (("pets", "--data", "."), "--data and --lists are for --benchmark NAME"),
    ],
)
def test_wrong_use_is_one_message_and_exit_2(tmp_path: Path, arguments: tuple[Any, ...], message: str) -> None:
    done = featurebank_("ood", *arguments, "--store", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert message in words(done.err)


def test_every_benchmark_has_each_set_in_one_part() -> None:
    for benchmark in BENCHMARKS.values():
        parts = ["train", "val", "test", *benchmark.near, *benchmark.far, *benchmark.shifted, benchmark.tuning]
        assert sorted(parts) == sorted(benchmark.lists)
        assert len(set(benchmark.lists.values())) == len(parts)
        assert benchmark.large <= set(parts)
    assert {f"{BENCHMARKS['imagenet1k'].folder}/{file}" for file in BENCHMARKS["imagenet1k"].lists.values()} == {
        f"imagenet/{name}" for name in ROWS
    }


def test_measured_values_stand_beside_the_published_ones(tmp_path: Path) -> None:
    name = "torchvision:resnet50/IMAGENET1K_V1"
    store = FeatureStore(tmp_path)
    for split in ("train", "test", "ssb_hard", "ninco", "inaturalist", "textures", "openimage_o"):
        values, labels = clusters(40, seed=len(split), noise=0.9)
        write_ood_set(store, f"openood:imagenet1k/{split}", name, values, labels)
    found = run(tmp_path, *SOME, "--json").json
    (table,) = (one for one in found["tables"] if one["title"].startswith("beside OpenOOD"))
    ((near, far),) = ((line[2:5], line[5:]) for line in table["lines"] if line[1] == "mds")
    (measured,) = (one["sets"] for one in by_score(found)[0]["scores"] if one["score"] == "mds")
    for cells, group, told in ((near, "near", "55.44"), (far, "far", "74.25")):
        value = 100 * measured[group]["auroc"]["value"]
        assert cells == [f"{value:.2f}", told, f"{value - float(told):+.2f}"]
    text = words(run(tmp_path, *SOME).out)
    assert "beside OpenOOD v1.5's leaderboard" in text
    assert " ".join(near) in text


def test_published_values_are_of_scores_that_exist_and_stand_beside_this_benchmark_only() -> None:
    for backbone, values in PUBLISHED.items():
        assert set(values) <= set(scores())
        assert published("openood:imagenet1k", backbone)["msp"] == pytest.approx([v / 100 for v in values["msp"]])
        assert published("openood:imagenet200", backbone) == {}
    assert published("openood:imagenet1k", "mobilenetv2") == {}


def test_datasets_of_the_zoo_take_the_lists_and_the_images_of_the_benchmarks() -> None:
    folders = {
        f"{benchmark.folder}/{file}": LARGE if split in benchmark.large else CLASSIC
        for benchmark in BENCHMARKS.values()
        for split, file in benchmark.lists.items()
    }
    rows = [row.arguments for row in manifest().values() if repr(row.loader) == "openood.listed"]
    taken = {file: row["images"] for row in rows for file in row["lists"].values()}
    assert len(taken) == 9
    assert taken == {file: folders.get(file) for file in taken}
