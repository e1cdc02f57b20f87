"""``featurebank ood`` on small synthetic stores: numbers, exit codes, what is kept, what is said."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answers import by_score
from command_line import Done, featurebank_, words
from numpy.typing import NDArray
from ood_sets import HEAD, OTHERS, outside, write_backbone, write_ood_set
from probe_sets import clusters
from rich.console import Console
from sklearn.metrics import average_precision_score, roc_auc_score  # type: ignore[import-untyped]

from featurebank.pipelines.asking.results import Results, Row
from featurebank.pipelines.asking.sheet import Sheet
from featurebank.pipelines.asking.table import render_sheet
from featurebank.pipelines.questions.ood.families import architecture_family
from featurebank.pipelines.questions.ood.question import OOD
from featurebank.probes.linear import linear_probe
from featurebank.probes.ood.names import scores
from featurebank.store import FeatureStore

RANDOM = "timm:net@random:0"
FAST: tuple[Any, ...] = ("--resamples", "20")
ACCURACY = ("value", "interval", "interval_kind")


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """A backbone with a head, and a noisier one of random weights without."""
    made = FeatureStore(tmp_path / "features")
    write_backbone(made, "good", head=HEAD)
    write_backbone(made, RANDOM, noise=0.9)
    return made


def ood(store: FeatureStore, *arguments: Any, sets: tuple[str, ...] = OTHERS) -> Done:
    keys = [word for name in sets for word in ("--ood", name)]
    return featurebank_("ood", "pets", *keys, *arguments, "--store", store.root)


def ood_json(
    store: FeatureStore, *arguments: Any, sets: tuple[str, ...] = OTHERS, code: int = 0, draws: int | None = 20
) -> Any:
    some = () if draws is None else ("--resamples", draws)
    done = ood(store, *arguments, *some, "--json", sets=sets)
    assert done.code == code, done.err
    return done.json


def one_of(found: Any, backbone: str = "good") -> dict[str, Any]:
    (one,) = (entry for entry in by_score(found) if entry["backbone"] == backbone)
    return dict(one)


def metrics_of(found: Any, score: str, backbone: str = "good") -> dict[str, dict[str, float]]:
    """Set to metric to value of one score."""
    (own,) = (entry for entry in one_of(found, backbone)["scores"] if entry["score"] == score)
    return {name: {metric: cell["value"] for metric, cell in rows.items()} for name, rows in own["sets"].items()}


def usable(store: FeatureStore, place: str, backbone: str = "good") -> tuple[Any, Any]:
    """Features in float64 and labels of the rows that have not failed."""
    with store.open(place, backbone) as feature_set:
        keep = feature_set.ok
        return feature_set["pooled"][keep].astype(np.float64), feature_set.labels[keep]


def stored_logits(store: FeatureStore, place: str) -> NDArray[Any]:
    """In float64, of the rows that have not failed."""
    with store.open(place, "good") as feature_set:
        return feature_set["logits"][feature_set.ok].astype(np.float64)


def expected(inside: NDArray[Any], out: NDArray[Any]) -> dict[str, float]:
    """The metrics from their definitions and scikit-learn's."""
    truth, values = np.repeat([1, 0], [len(inside), len(out)]), np.concatenate([inside, out])
    threshold = np.sort(inside)[::-1][int(np.ceil(0.95 * len(inside))) - 1]
    return {
        "auroc": roc_auc_score(truth, values),
        "fpr_at_95": float((out >= threshold).mean()),
        "aupr_in": average_precision_score(truth, values),
        "aupr_out": average_precision_score(1 - truth, -values),
    }


def log_sum_exp(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.log(np.exp(logits).sum(1)))


# what it computes


def test_scores_and_metrics_are_their_definitions(store: FeatureStore) -> None:
    found = ood_json(store, "--score", "energy", "--score", "knn")
    rows = {place: usable(store, place)[0] for place in ("pets/train", "pets/test", *OTHERS)}
    unit = {place: x / np.linalg.norm(x, axis=1, keepdims=True) for place, x in rows.items()}
    energy = {place: log_sum_exp(x @ HEAD[0].T.astype(np.float64)) for place, x in rows.items()}
    distance = {
        place: -np.sort(np.linalg.norm(x[:, None] - unit["pets/train"], axis=2), 1)[:, 49] for place, x in unit.items()
    }
    for score, of in (("energy", energy), ("knn", distance)):
        for place in OTHERS:
            assert metrics_of(found, score)[place] == pytest.approx(expected(of["pets/test"], of[place]), abs=1e-9)
    one = one_of(found)
    assert (one["head"], one["train"], one["test"]) == ("own", "pets/train", "pets/test")
    x, labels = usable(store, "pets/test")
    assert one["accuracy"]["value"] == (x[:, :3].argmax(1) == labels).mean()


def test_every_score_is_the_default_and_those_that_cannot_be_are_named(store: FeatureStore) -> None:
    found = ood_json(store)
    for backbone in ("good", RANDOM):
        one = one_of(found, backbone)
        assert {entry["score"] for entry in one["scores"]} == set(scores()) - {"mcm"}
        assert "mcm: not computed: it needs text embeddings of the class names" in one["notes"]
        for entry in one["scores"]:
            for rows in entry["sets"].values():
                cell = rows["auroc"]
                assert cell["interval"][0] <= cell["value"] <= cell["interval"][1]
    assert one_of(ood_json(store, "--score", "all", "--score", "msp"))["known"]


def test_stored_logits_of_the_own_head_are_read(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    write_backbone(store, "good", head=HEAD, logits=True, noise=0.6)
    found = ood_json(store, "--score", "maxlogit")
    of = {place: stored_logits(store, place).max(1) for place in ("pets/test", *OTHERS)}
    for place in OTHERS:
        assert metrics_of(found, "maxlogit")[place] == pytest.approx(expected(of["pets/test"], of[place]), abs=1e-9)
    assert one_of(found)["chosen"][""] == {"head": "own", "logits": "stored"}
    probed = ood_json(store, "--score", "maxlogit", "--head", "probe")
    own = (stored_logits(store, "pets/test").argmax(1) == usable(store, "pets/test")[1]).mean()
    assert one_of(probed)["accuracy"]["value"] != one_of(found)["accuracy"]["value"] == pytest.approx(own)


def test_logits_without_weights_serve_the_scores_that_need_no_weights(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    write_backbone(store, "good", logits=True)
    one = one_of(ood_json(store, "--score", "msp", "--score", "dice", "--score", "mds"))
    assert {entry["score"] for entry in one["scores"]} == {"mds", "msp"}
    assert "dice: not computed: good has logits in the store, and no weights" in one["notes"]


def test_without_a_head_a_probe_of_the_train_rows_takes_its_place(store: FeatureStore) -> None:
    one = one_of(ood_json(store, "--score", "msp"), RANDOM)
    assert (one["head"], one["random_weights"]) == ("probe", True)
    probe = linear_probe(*usable(store, "pets/train", RANDOM), *usable(store, "pets/test", RANDOM))
    assert one["accuracy"]["value"] == pytest.approx(probe.accuracy)
    assert one["chosen"][""]["C"] == probe.C


def test_a_probe_of_two_classes_is_a_head_of_two(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    write_backbone(store, "good", classes=(0, 1), noise=0.6)
    one = one_of(ood_json(store, "--score", "maxlogit", "--score", "nci", "--score", "fdbd"))
    probe = linear_probe(*usable(store, "pets/train"), *usable(store, "pets/test"))
    assert one["accuracy"]["value"] == pytest.approx(probe.accuracy)
    confidence = {}
    for place in ("pets/test", *OTHERS):
        x = usable(store, place)[0]
        fitted = linear_probe(*usable(store, "pets/train"), x, np.zeros(len(x), np.int64))
        raw = fitted.log_probabilities * fitted.temperature
        confidence[place] = np.abs(raw[:, 0] - raw[:, 1])
    found = {entry["score"]: entry["sets"] for entry in one["scores"]}
    for place in OTHERS:
        auroc = expected(confidence["pets/test"], confidence[place])["auroc"]
        assert found["maxlogit"][place]["auroc"]["value"] == pytest.approx(auroc, abs=1e-3)


def test_the_numbers_of_the_classes_do_not_matter(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    write_backbone(store, "plain")
    write_backbone(store, "gaps", classes=(1, 4, 7))
    found = ood_json(store)
    plain, gaps = (one_of(found, backbone) for backbone in ("plain", "gaps"))
    assert [gaps["accuracy"][name] for name in ACCURACY] == [plain["accuracy"][name] for name in ACCURACY]
    assert gaps["scores"] == plain["scores"]
    assert len(gaps["scores"]) == len(scores()) - 1


def test_a_head_of_other_classes_is_used_only_where_it_is_asked_for(store: FeatureStore) -> None:
    weight = np.concatenate([HEAD[0], -HEAD[0]])
    write_backbone(store, "other", head=(weight, np.zeros(6, np.float32)))
    picked = ("--backbone", "other", "--score", "msp", "--score", "mds", "--score", "she")
    probed = one_of(ood_json(store, *picked), "other")
    assert (probed["head"], len(probed["scores"])) == ("probe", 3)
    one = one_of(ood_json(store, *picked, "--head", "own"), "other")
    assert (one["head"], one["accuracy"]) == ("own", None)
    assert {entry["score"] for entry in one["scores"]} == {"msp", "mds"}
    assert "no accuracy: the head's 6 classes are not those of pets/train" in one["notes"]
    assert "she: not computed: the head's 6 classes are not those of pets/train" in one["notes"]


def test_a_validation_split_chooses_the_probe_and_the_temperature(store: FeatureStore) -> None:
    values, labels = clusters(40, noise=0.9, seed=7)
    write_ood_set(store, "pets/val", RANDOM, values, labels)
    found = ood_json(store, "--backbone", RANDOM, "--score", "temperature", "--score", "msp")
    keep = np.arange(40) != 17
    train = usable(store, "pets/train", RANDOM)
    probe = linear_probe(
        *train, *usable(store, "pets/test", RANDOM), validation=(values[keep].astype(np.float64), labels[keep])
    )
    assert one_of(found, RANDOM)["accuracy"]["value"] == pytest.approx(probe.accuracy)
    row = Results(store.root).rows()[0]
    assert len(row.fingerprints) == 5
    assert one_of(found, RANDOM)["sets"]["validation"] == ["pets/val"]


def test_near_and_far_are_means_over_their_sets(store: FeatureStore) -> None:
    write_ood_set(store, "dots/test", "good", outside(50, near=False, seed=9), np.full(50, -1))
    done = ood_json(store, "--near", "shapes/test", "--ood", "dots", "--backbone", "good", "--score", "mds")
    found = metrics_of(done, "mds")
    assert list(found) == ["noise/test", "dots/test", "shapes/test", "near", "far"]
    assert found["near"] == found["shapes/test"]
    for metric, value in found["far"].items():
        assert value == pytest.approx((found["noise/test"][metric] + found["dots/test"][metric]) / 2)
    (own,) = one_of(done)["scores"]
    assert own["sets"]["far"]["auroc"]["interval"] is None
    assert own["mean_auroc"] == pytest.approx(np.mean([found[n]["auroc"] for n in (*OTHERS, "dots/test")]))


def test_near_sets_alone_are_enough(store: FeatureStore) -> None:
    found = ood_json(store, "--near", "shapes", "--score", "msp", sets=())
    assert list(metrics_of(found, "msp")) == ["shapes/test", "near"]


def test_a_dataset_without_a_test_split_is_all_its_splits(store: FeatureStore) -> None:
    for split in ("fog", "snow"):
        write_ood_set(store, f"weather/{split}", "good", outside(50, near=True, seed=5), np.full(50, -1))
    found = ood_json(store, "--score", "msp", sets=("weather",))
    assert list(metrics_of(found, "msp")) == ["weather/fog", "weather/snow"]


def test_without_draws_there_is_no_interval(store: FeatureStore) -> None:
    one = one_of(ood_json(store, "--score", "msp", draws=0))
    assert all(cell["interval"] is None for rows in one["scores"][0]["sets"].values() for cell in rows.values())


# held-out classes, the full spectrum, parameters chosen on validation rows, text


def logits_of(store: FeatureStore, place: str) -> tuple[Any, Any]:
    x, labels = usable(store, place)
    return x @ HEAD[0].T.astype(np.float64), labels


def test_held_out_classes_are_a_near_set_and_nothing_is_fitted_on_them(store: FeatureStore) -> None:
    keys = ("--id-classes", "0,2", "--score", "mds", "--score", "maxlogit")
    one = one_of(ood_json(store, *keys, sets=()))
    held = "pets/test:held-out"
    assert (one["head"], list(one["scores"][0]["sets"])) == ("probe", [held, "near"])
    (x, y), (test, labels) = usable(store, "pets/train"), usable(store, "pets/test")
    x, y, known = x[y != 1], y[y != 1], labels != 1
    centred = np.concatenate([x[y == k] - x[y == k].mean(0) for k in (0, 2)])
    inverse = np.linalg.pinv(centred.T @ centred / len(centred))
    mds = -np.min(
        [np.einsum("nd,de,ne->n", test - m, inverse, test - m) for m in (x[y == 0].mean(0), x[y == 2].mean(0))], 0
    )
    found = {entry["score"]: entry["sets"][held] for entry in one["scores"]}
    wanted = expected(mds[known], mds[~known])
    assert {metric: cell["value"] for metric, cell in found["mds"].items()} == pytest.approx(wanted, abs=1e-9)
    probe = linear_probe(x, y, test[known], labels[known])
    assert one["accuracy"]["value"] == pytest.approx(probe.accuracy)
    mds_row = next(row for row in Results(store.root).rows() if (row.backbone, row.score) == ("good", "mds"))
    assert len(Results(store.root).arrays(mds_row)[held]) == (~known).sum()
    both = one_of(ood_json(store, *keys, sets=OTHERS))["scores"][0]["sets"]
    assert list(both) == [held, *OTHERS, "near", "far"]
    assert both["near"]["auroc"]["value"] == both[held]["auroc"]["value"]


def test_the_full_spectrum_counts_shifted_rows_as_in_distribution(store: FeatureStore) -> None:
    values, labels = clusters(40, noise=0.8, seed=11)
    write_ood_set(store, "pets_c/test", "good", values, labels)
    picked = ("--backbone", "good", "--score", "energy", "--near", "shapes", "--shifted", "pets_c")
    done = ood_json(store, *picked, sets=OTHERS)
    found = metrics_of(done, "energy")
    of = {place: log_sum_exp(logits_of(store, place)[0]) for place in ("pets/test", "pets_c/test", *OTHERS)}
    whole = np.concatenate([of["pets/test"], of["pets_c/test"]])
    for place in OTHERS:
        full = {f"full_spectrum_{name}": value for name, value in expected(whole, of[place]).items()}
        assert found[place] == pytest.approx(expected(of["pets/test"], of[place]) | full, abs=1e-9)
    assert found["near"]["full_spectrum_auroc"] == found["shapes/test"]["full_spectrum_auroc"]
    rows = {row.set: row.value for row in Results(store.root).rows() if row.metric == "accuracy"}
    logits, truth = logits_of(store, "pets_c/test")
    assert rows["pets_c/test"] == pytest.approx((logits.argmax(1) == truth).mean())
    assert one_of(done)["accuracy"]["value"] == rows["pets/test"]
    assert "spectrum" in words(ood(store, *picked, *FAST).out)


@pytest.mark.parametrize("split", [True, False], ids=["val split", "a fifth of the train rows"])
def test_parameters_are_chosen_on_the_validation_set_and_recorded(store: FeatureStore, *, split: bool) -> None:
    write_ood_set(store, "dots/test", "good", outside(50, near=True, seed=9), np.full(50, -1))
    if split:
        values, labels = clusters(40, noise=0.5, seed=7)
        write_ood_set(store, "pets/val", "good", values, labels)
    picked = ("--backbone", "good", "--score", "knn", "--score", "msp", "--validation", "dots")
    one = one_of(ood_json(store, *picked))
    knn, msp = sorted(one["scores"], key=lambda entry: entry["score"])
    selected = knn["selected"]
    assert (selected["inside"], selected["outside"]) == ("pets/val" if split else "pets/train:fifth", "dots/test")
    assert (msp["selected"], msp["parameters"]) == (None, {})
    best = max(selected["tried"], key=lambda one: one["auroc"])
    assert knn["parameters"] == best["parameters"]
    assert [one["parameters"]["k"] for one in selected["tried"]] == [1, 10, 50] + [100] * split
    assert list(knn["sets"]) == list(OTHERS)
    if split:
        unit = {
            n: x / np.linalg.norm(x, axis=1, keepdims=True)
            for n in ("pets/train", "pets/val", "dots/test")
            for x in [usable(store, n)[0]]
        }
        for tried in selected["tried"]:
            k = min(tried["parameters"]["k"], len(unit["pets/train"]))
            of = {
                n: -np.sort(np.linalg.norm(x[:, None] - unit["pets/train"], axis=2), 1)[:, k - 1]
                for n, x in unit.items()
            }
            assert tried["auroc"] == pytest.approx(expected(of["pets/val"], of["dots/test"])["auroc"])
    plain = one_of(ood_json(store, *picked[:-2]))
    assert not plain["known"]


def test_text_features_serve_mcm(store: FeatureStore, tmp_path: Path) -> None:
    text = np.random.default_rng(5).normal(size=(3, 8)).astype(np.float32)
    np.savez(tmp_path / "text.npz", text=text)
    found = ood_json(store, "--backbone", "good", "--score", "mcm", "--text", tmp_path / "text.npz")
    unit = text.astype(np.float64) / np.linalg.norm(text.astype(np.float64), axis=1, keepdims=True)
    of = {}
    for place in ("pets/test", *OTHERS):
        x = usable(store, place)[0]
        cosines = x / np.linalg.norm(x, axis=1, keepdims=True) @ unit.T
        of[place] = cosines.max(1) - np.log(np.exp(cosines).sum(1))
    for place in OTHERS:
        assert metrics_of(found, "mcm")[place] == pytest.approx(expected(of["pets/test"], of[place]), abs=1e-3)
    np.save(tmp_path / "text.npy", text)
    again = ood_json(store, "--backbone", "good", "--score", "mcm", "--text", tmp_path / "text.npy")
    assert one_of(again)["scores"] == one_of(found)["scores"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((3, 7))}, "expected text embeddings (K, 8) of at least two classes, found (3, 7)"),
        ({"a": np.zeros((2, 8))}, "expected a row for each class of pets/train, up to 2; found 2 rows"),
        ({"a": np.zeros((3, 8)), "b": np.zeros(3)}, "expected one array, or one called text; found a, b"),
        ({"a": np.full((3, 8), None)}, "expected a .npz file of numbers, found something else"),
    ],
)
def test_wrong_texts_are_one_clear_error(
    store: FeatureStore, tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "text.npz", **arrays)
    done = ood(store, "--backbone", "good", "--score", "mcm", "--text", tmp_path / "text.npz")
    assert done.code == 1
    assert message in words(done.out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--id-classes", "0,7"), "--id-classes must be classes of pets/train: 0 to 2; found 7"),
        (("--id-classes", "1"), "--id-classes must be at least two classes; found 1"),
        (("--id-classes", "0,1,2"), "pets/test must have rows of other classes, to be held out; found none"),
        (("--id-classes", "0,1", "--head", "own"), "holds out classes that the backbone's own head was trained on"),
    ],
)
def test_classes_that_cannot_be_held_out_are_a_failure(store: FeatureStore, arguments: Any, message: str) -> None:
    done = ood(store, "--backbone", "good", *arguments, sets=())
    assert done.code == 1
    assert message in words(done.out)


def test_classes_may_be_named(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    write_backbone(store, "good", class_names=("cat", "dog", "eel"))
    named = one_of(ood_json(store, "--id-classes", "cat,eel", "--score", "mds", sets=()))
    numbered = one_of(ood_json(store, "--id-classes", "0,2", "--score", "mds", sets=()))
    assert named["scores"] == numbered["scores"]
    done = ood(store, "--id-classes", "cat,bee", sets=())
    assert "must be classes of pets/train: cat, dog, eel; found bee" in words(done.out)


def test_rows_of_the_validation_set_among_the_tested_ones_are_told(store: FeatureStore) -> None:
    hashes = np.random.default_rng(3).integers(0, 256, (50, 16), dtype=np.uint8)
    for name in ("dots", "lines"):
        write_ood_set(store, f"{name}/test", "good", outside(50, near=True, seed=9), np.full(50, -1), hashes=hashes)
    picked = ("--backbone", "good", "--score", "msp", "--validation", "dots")
    one = one_of(ood_json(store, *picked, sets=("lines",)))
    assert "dots/test: 49 of its rows are in the tested sets too; choose on another set" in one["notes"]


def test_families_of_trained_backbones_stand_side_by_side(store: FeatureStore) -> None:
    write_backbone(store, "timm:vit_tiny", noise=0.5)
    picked = ("--score", "msp", "--score", "energy", "--score", "mds")
    found = ood_json(store, *picked)
    means = {
        (one["backbone"], entry["score"]): entry["mean_auroc"] for one in by_score(found) for entry in one["scores"]
    }
    (table,) = (one for one in found["tables"] if one["title"].startswith("families of scores"))
    families = {tuple(line[:2]): line for line in table["lines"]}
    assert set(families) == {(a, s) for a in ("other", "transformer") for s in ("logits", "distances")}
    logits = families["transformer", "logits"]
    values = {score: means["timm:vit_tiny", score] for score in ("msp", "energy")}
    best = max(values, key=lambda score: values[score])
    mean = np.mean(list(values.values()))
    assert logits[2:] == [f"{best} on timm:vit_tiny", "1", f"{values[best]:.3f}", f"{mean:.3f}"]
    assert "families of scores, by architecture" in words(ood(store, *picked, *FAST).out)
    assert len(ood_json(store, *picked, "--backbone", "good")["tables"]) == 1


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("efficientnet_lite0", "convolutional"),
        ("mobilenetv2@random:0", "convolutional"),
        ("torchvision:vit_b_16/IMAGENET1K_V1", "transformer"),
        ("torchvision:resnet50/IMAGENET1K_V1", "convolutional"),
        ("timm:swinv2_tiny_window8_256.ms_in1k", "transformer"),
        ("timm:resnet50_clip.openai", "convolutional"),
        ("timm:convnext_tiny.dinov3_lvd1689m", "convolutional"),
        ("timm:vit_base_patch14_dinov2.lvd142m", "transformer"),
        ("timm:mobilevit_s", "hybrid"),
        ("timm:mixer_b16_224", "mlp"),
        ("hub:facebookresearch/dino/dino_resnet50", "convolutional"),
        ("hub:facebookresearch/moco-v3/vit_small", "transformer"),
        ("good", "other"),
    ],
)
def test_the_architecture_of_a_name(name: str, family: str) -> None:
    assert architecture_family(name) == family


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("timm:convmixer_768_32.in1k", "convolutional"),
        ("timm:convnext_large_mlp.clip_laion2b_augreg", "convolutional"),
        ("timm:resnet50_mlp.gluon_in1k", "convolutional"),
        ("timm:repvit_m1.dist_in1k", "convolutional"),
        ("timm:vit_base_r50_s16_224.orig_in21k", "hybrid"),
        ("timm:gmlp_s16_224", "mlp"),
        ("timm:resmlp_12_224", "mlp"),
        ("timm:gmixer_24_224", "mlp"),
    ],
)
def test_a18_a_part_of_a_name_is_not_its_architecture(name: str, family: str) -> None:
    assert architecture_family(name) == family


# what is kept


def test_d6_a_second_run_computes_nothing_and_says_so(store: FeatureStore) -> None:
    first = ood_json(store, "--score", "msp", "--score", "mds")
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    done = ood(store, "--score", "msp", "--score", "mds", *FAST)
    assert "Answers: 0 computed, 2 known already" in done.out
    assert "ood of good: pets/train -> pets/test: known" in done.err
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before
    again = ood_json(store, "--score", "msp", "--score", "mds")
    assert [one["known"] for one in by_score(first) + by_score(again)] == [False] * 2 + [True] * 2
    assert one_of(first)["scores"] == one_of(again)["scores"]


def test_d6_a_score_that_is_known_of_several_is_not_computed_again_alone(store: FeatureStore) -> None:
    ood_json(store, "--score", "msp", "--score", "mds")
    kept = {path: path.stat().st_mtime_ns for path in (store.root / "results" / "ood").glob("*.json")}
    assert all(one["known"] for one in by_score(ood_json(store, "--score", "mds")))
    ood_json(store, "--score", "mds", "--score", "knn")
    now = {path: path.stat().st_mtime_ns for path in (store.root / "results" / "ood").glob("*.json")}
    assert {path: now[path] for path in kept} == kept
    assert len(now) == len(kept) + 2, "knn alone, of both backbones"


def test_other_settings_are_computed_and_the_same_ones_reproduce_to_the_last_digit(store: FeatureStore) -> None:
    first = ood_json(store, "--score", "msp", "--score", "gmm")
    assert not one_of(ood_json(store, "--score", "msp", "--score", "gmm", "--seed", 1))["known"]
    assert one_of(ood_json(store, "--score", "msp"))["known"]
    for path in (store.root / "results").rglob("*.json"):
        path.unlink()
    again = ood_json(store, "--score", "msp", "--score", "gmm")
    for backbone in ("good", RANDOM):
        assert one_of(again, backbone)["scores"] == one_of(first, backbone)["scores"]


def test_rows_and_the_scores_of_each_row_are_read_back(store: FeatureStore) -> None:
    found = ood_json(store, "--score", "msp")
    results = Results(store.root)
    rows = [row for row in results.rows() if row.backbone == "good"]
    assert {(row.set, row.metric, row.score) for row in rows} == {
        ("pets/test", "accuracy", ""),
        *((place, metric, "msp") for place in OTHERS for metric in ("auroc", "fpr_at_95", "aupr_in", "aupr_out")),
    }
    kept, msp = (results.arrays(next(row for row in rows if row.score == score)) for score in ("", "msp"))
    for place in OTHERS:
        auroc = expected(msp["pets/test"], msp[place])["auroc"]
        assert auroc == pytest.approx(metrics_of(found, "msp")[place]["auroc"])
        assert kept[f"{place} ids"].tolist() == [f"{place}/{row:05}" for row in range(50) if row != 17]
    assert (kept["predictions"] == kept["labels"]).mean() == one_of(found)["accuracy"]["value"]
    assert (store.root / "results" / "results.csv").is_file()


# the table


def test_the_table_has_the_best_score_first_and_marks_random_weights(store: FeatureStore) -> None:
    done = ood(store, "--score", "msp", "--score", "mds", *FAST)
    assert done.code == 0
    assert "ood, shapes/test, noise/test: pets/train -> pets/test" in done.out
    found = ood_json(store, "--score", "msp", "--score", "mds")
    ranked = sorted(
        ((own["mean_auroc"], one["backbone"], own["score"]) for one in by_score(found) for own in one["scores"]),
        reverse=True,
    )
    lines = [line for line in done.out.splitlines() if " msp " in line or " mds " in line]
    assert [line.split()[0][:4] for line in lines] == [backbone[:4] for _, backbone, _ in ranked]
    assert [("msp" if " msp " in line else "mds") for line in lines] == [score for _, _, score in ranked]
    assert "(random weights)" in words(done.out)
    assert f"{ranked[0][0]:.3f}" in lines[0].split()


def test_a_narrow_console_gets_fewer_numbers_and_no_cut_ones() -> None:
    places = [f"set{index}/test" for index in range(3)]
    rows = [
        Row(
            question="ood", backbone="resnet", score="vim", test="pets/test", set=place, metric=metric, value=0.8125,
            low=0.75, high=1.0, details={"head": "own"},
        )
        for place in places
        for metric in ("auroc", "fpr_at_95")
    ]  # fmt: skip
    sheet: Sheet = OOD(ood=("set",)).sheet(rows, "title", {})
    texts = []
    for width in (160, 110, 72):
        out = io.StringIO()
        console = Console(width=width, file=out)
        for table in render_sheet(sheet, console):
            console.print(table)
        texts.append(out.getvalue())
    assert [text.count(".750-1.000") for text in texts] == [6, 0, 0]
    assert [text.count(".812") for text in texts] == [7, 7, 7]
    assert [text.count("FPR@95") for text in texts] == [3, 3, 3]
    assert max(map(len, texts[2].splitlines())) <= 72


# bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pets", "--ood", "noise", "--score", "vin"), "unknown score 'vin'; did you mean 'vim'"),
        (("pets", "--ood", "noize"), "unknown dataset 'noize'; did you mean 'noise'?"),
        (("pets", "--ood", "noise/tets"), "unknown split of noise 'tets'; did you mean 'test'?"),
        (("pest", "--ood", "noise"), "unknown dataset 'pest'; did you mean 'pets'"),
        (("pets/train:val", "--ood", "noise"), "unknown split of pets 'val'"),
        (("pets", "--near", "noize"), "unknown dataset 'noize'; did you mean 'noise'?"),
        (("pets", "--ood", "noise@good"), "--ood must be DATASET or DATASET/SPLIT; found 'noise@good'"),
        (("pets", "--near", "pets/train:test"), "--near must be DATASET or DATASET/SPLIT"),
        (("pets", "--ood", "pets/test"), "must be a set of its own; found pets/test, which is in KEY too"),
        (("pets", "--ood", "noise", "--backbone", "goot"), "unknown backbone of pets 'goot'; did you mean"),
        (("pets", "--ood", "noise", "--output", "poold"), "unknown output 'poold'; did you mean 'pooled'?"),
        (("pets", "--ood", "noise", "--head", "mine"), "--head must be one of own, probe; found 'mine'"),
        (("pets", "--ood", "noise", "--html", "nowhere/page.html"), "--html: expected a folder at nowhere"),
        (("pets",), "ood needs --ood DATASET/SPLIT"),
        (
            ("pets", "--ood", "noise", "--shifted", "noise"),
            "--shifted must be a set of its own; found noise/test",
        ),
        (
            ("pets", "--ood", "noise", "--validation", "noise"),
            "--validation must be a set of its own; found noise",
        ),
        (
            ("pets", "--ood", "noise", "--validation", "pets"),
            "must be a set of its own; found pets/test, which is in KEY too",
        ),
        (("pets", "--ood", "noise", "--text", "nowhere.npz"), "--text: expected a file at nowhere.npz, found none"),
        (("pets", "--ood", "noise", "--images", "pets=folder:/"), "--images must come with --html FILE"),
        (("pets", "--ood", "noise", "--images", "pets"), "--images must come with --html FILE"),
        (("--ood", "noise"), "ood needs KEY, a dataset of the store"),
    ],
)
def test_wrong_use_is_one_message_and_exit_2(store: FeatureStore, arguments: tuple[Any, ...], message: str) -> None:
    done = featurebank_("ood", *arguments, "--store", store.root)
    assert (done.code, done.out) == (2, "")
    assert message in words(done.err)
    assert not (store.root / "results").exists()


def test_a_backbone_without_one_of_the_sets_is_passed_over_unless_it_was_named(store: FeatureStore) -> None:
    write_ood_set(store, "dots/test", "good", outside(50, near=False, seed=9), np.full(50, -1))
    found = ood_json(store, "--score", "msp", sets=("dots",))
    assert [one["backbone"] for one in by_score(found)] == ["good"]
    assert found["passed_over"] == [f"{RANDOM} has no dots/test in {store.root}"]
    done = ood(store, "--backbone", RANDOM, sets=("dots",))
    assert (done.code, done.out) == (2, "")
    assert f"{RANDOM} has no dots/test" in words(done.err)


def test_sets_made_in_different_ways_are_a_failure_of_their_backbone(store: FeatureStore) -> None:
    keys: dict[str, dict[str, Any]] = {"good": {"precision": "float32"}, RANDOM: {}}
    for name, key in keys.items():
        write_ood_set(store, "dots/test", name, outside(50, near=False, seed=9), np.full(50, -1), **key)
    done = ood(store, "--score", "msp", *FAST, sets=("dots",))
    assert done.code == 1
    assert "good on pets/test: the sets of a question must be made the same way" in words(done.out)
    assert "precision: None and 'float32'" in words(done.out)
    assert "Answers: 1 computed, 0 known already, 1 failed" in done.out


def test_failed_rows_are_left_out_and_counted(store: FeatureStore) -> None:
    notes = one_of(ood_json(store, "--score", "msp"))["notes"]
    for name, total in (("pets/train", 120), ("pets/test", 60), ("shapes/test", 50), ("noise/test", 50)):
        assert f"{name}: 1 of {total} rows left out: 1 failed" in notes


def test_in_distribution_images_in_another_set_are_warned_of_with_their_count(store: FeatureStore) -> None:
    with store.open("pets/test", "good") as inside, store.open("pets/train", "good") as train:
        hashes = np.concatenate([inside.content_hash[:3], train.content_hash[20:22], np.zeros((45, 16), np.uint8)])
    write_ood_set(store, "dots/test", "good", outside(50, near=False, seed=9), np.full(50, -1), hashes=hashes)
    notes = one_of(ood_json(store, "--score", "msp", "--ood", "dots"))["notes"]
    shared = [note for note in notes if "content" in note]
    assert len(shared) == 1
    assert shared[0].startswith("dots/test: 5 of 49 rows have the content of rows of pets/train or pets/test")


def test_train_rows_too_few_for_a_score_leave_out_that_score(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    for place, n_rows in (("pets/train", 40), ("pets/test", 40)):
        write_ood_set(store, place, "good", *clusters(n_rows, seed=n_rows))
    write_ood_set(store, "noise/test", "good", outside(40, near=False, seed=1), np.full(40, -1))
    one = one_of(ood_json(store, "--score", "knn", "--score", "msp", sets=("noise",)))
    assert [entry["score"] for entry in one["scores"]] == ["msp"]
    (note,) = (note for note in one["notes"] if note.startswith("knn: not computed: "))
    assert "50" in note
    assert one_of(ood_json(store, "--score", "msp", sets=("noise",)))["known"]
    again = one_of(ood_json(store, "--score", "knn", "--score", "msp", sets=("noise",)))
    assert not again["known"]  # knn is tried again
    failed = one_of(ood_json(store, "--score", "knn", sets=("noise",), code=1))
    assert failed["error"].startswith("nothing could be computed: knn: not computed: ")


@pytest.mark.parametrize(("label", "found"), [(1, "one class"), (-1, "none")])
def test_one_class_or_none_leaves_the_scores_that_need_no_head(tmp_path: Path, label: int, found: str) -> None:
    store = FeatureStore(tmp_path)
    for place, seed in (("pets/train", 0), ("pets/test", 1)):
        write_ood_set(store, place, "good", outside(80, near=True, seed=seed), np.full(80, label))
    write_ood_set(store, "noise/test", "good", outside(50, near=False, seed=2), np.full(50, -1))
    one = one_of(ood_json(store, "--score", "mds", "--score", "knn", "--score", "msp", sets=("noise",)))
    assert (one["head"], one["accuracy"]) == ("", None)
    names = {entry["score"] for entry in one["scores"]}
    assert names == ({"mds", "knn"} if label == 1 else {"knn"})
    reason = f"a probe needs at least two classes in pets/train; found {found}"
    assert f"msp: not computed: {reason}" in one["notes"]
    assert ("mds: not computed: pets/train has no classes" in one["notes"]) == (label == -1)
    assert one_of(ood_json(store, "--head", "probe", sets=("noise",), code=1))["error"] == reason


def test_the_own_head_needs_no_labels(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    write_backbone(store, "good", head=HEAD)
    with store.open("pets/train", "good") as train, store.open("pets/test", "good") as test:
        sets = {"birds/train": train["pooled"].copy(), "birds/test": test["pooled"].copy()}
    for place, values in sets.items():
        write_ood_set(store, place, "good", values, np.full(len(values), -1), head=HEAD)
    done = featurebank_("ood", "birds", "--ood", "noise", "--score", "energy", *FAST, "--json", "--store", store.root)
    one = one_of(done.json)
    assert (one["head"], one["accuracy"]) == ("own", None)
    assert "no accuracy: birds/train has no classes" in one["notes"]
    labelled = metrics_of(ood_json(store, "--score", "energy"), "energy")
    assert metrics_of(done.json, "energy")["noise/test"] == labelled["noise/test"]


def test_an_own_head_that_is_not_there_is_a_failure(store: FeatureStore) -> None:
    done = ood(store, "--head", "own", "--score", "msp", *FAST)
    assert done.code == 1
    assert f"ood of {RANDOM}: {RANDOM} has no classifier of its own for 'pooled' in the store" in words(done.out)
    assert "Answers: 1 computed, 0 known already, 1 failed" in done.out


def test_an_unfinished_set_is_a_failure(store: FeatureStore) -> None:
    write_ood_set(store, "dots/test", "good", outside(50, near=False, seed=1), np.full(50, -1))
    (path,) = (entry.path for entry in store.ls(dataset="dots/test"))
    path.rename(path.with_name(path.name + ".partial"))
    done = ood(store, "--backbone", "good", "--score", "msp", *FAST, sets=("dots",))
    assert done.code == 1
    assert "is unfinished; extract it to the end" in words(done.out)


def test_a10_the_first_score_is_a_choice_on_the_test_rows(store: FeatureStore) -> None:
    write_backbone(store, "other", noise=0.5, head=HEAD)
    note = "the order is by the AUROC shown; what comes first is chosen among 9 on these test rows"
    some = ("--score", "energy", "--score", "knn", "--score", "msp", *FAST)
    done = ood(store, *some)
    assert note in words(done.out)
    assert "the best of a family is chosen on the test rows too" in words(done.out)
    found = ood_json(store, *some[:-2])
    assert any(line.startswith(note) for line in found["tables"][0]["notes"])
    cell = one_of(found)["scores"][0]["sets"][OTHERS[0]]["auroc"]
    assert cell["interval_kind"] == "rows of both sets, DeLong"
    kinds = words(done.out).split("95 % intervals: ")[1]
    assert "rows of both sets, DeLong (" in kinds
    assert "rows of both sets, bootstrap (" in kinds
    assert one_of(found)["accuracy"]["interval_kind"] == "test rows, Wilson"
    alone = ood(store, "--score", "energy", "--backbone", "good", *FAST)
    assert "is chosen among" not in words(alone.out)
