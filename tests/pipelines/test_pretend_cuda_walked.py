"""Whatever takes a device is walked on the pretended card: what is new is named by this test until it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import featurebank_
from pretend_cuda import pretend_cuda
from probe_sets import write_pair

import featurebank
from featurebank.store import FeatureStore

TESTS = Path(__file__).parents[1]
ENGINE, NETWORKS = "extract/test_pretend_cuda_engine.py", "extract/backbones/test_pretend_cuda_networks.py"
PROBES, TRAINING = "probes/test_pretend_cuda_probes.py", "pipelines/test_pretend_cuda_training.py"
OWN = "pipelines/test_pretend_cuda_walked.py"

# What takes a device, and the test that walks it there, by itself or beneath what it calls.
WALKED = {
    "extract.backbones.hf_source.HuggingFaceSource": NETWORKS,
    "extract.backbones.hf_text.build_text_tower": NETWORKS,
    "extract.backbones.open_clip_source.OpenClipSource": NETWORKS,
    "extract.backbones.text_tower": NETWORKS,
    "extract.backbones.text_tower.TextSource": NETWORKS,
    "extract.backbones.text_tower.TextTower": NETWORKS,
    "extract.batches.Preparer": ENGINE,
    "extract.compute.Local": ENGINE,
    "extract.device.Execution": ENGINE,
    "extract.device.has_bfloat16": ENGINE,
    "extract.device.resolve_precision": ENGINE,
    "extract.forward.Runner": ENGINE,
    "extract.gpu_jpeg.DeviceTransform": ENGINE,
    "extract.gpu_jpeg.check_decoder": ENGINE,
    "extract.gpu_jpeg.decode_jpegs": ENGINE,
    "extract.provenance.provenance": ENGINE,
    "pipelines.extracting.config.ExtractionConfig": TRAINING,
    "pipelines.extracting.run.Report": TRAINING,
    "pipelines.questions.fewshot.FewShot": OWN,
    "pipelines.questions.knn.KNN": OWN,
    "pipelines.questions.linear.Linear": OWN,
    "pipelines.questions.linear.fit_rows": OWN,
    "pipelines.training.trial.Numerics": TRAINING,
    "probes.dense.DenseLinearProbe": PROBES,
    "probes.few_labels.FewLabelsProbe": PROBES,
    "probes.heads.LinearHeads": PROBES,
    "probes.linear.fit_linear": PROBES,
    "probes.linear.linear_probe": PROBES,
    "probes.linear.protocol_heads": PROBES,
    "probes.multilabel.MultiLabelProbe": PROBES,
    "probes.neighbours.KNNProbe": PROBES,
    "probes.neighbours.knn_sweep": PROBES,
    "probes.ood.statistics.TrainingSet": PROBES,
    "retrieval.search.nearest": PROBES,
}
# What takes a device and is not walked, with the reason.
LEFT = {
    "extract.forward.can_pack": "asks for oneDNN, which is for CPUs",
    "extract.provenance.text_provenance": "names the device in a manifest",
    "extract.texts.make_texts": "passes it to TextTower",
    "pipelines.extracting.estimate.Estimate": "a name in a report",
    "pipelines.extracting.run_texts.make_run_texts": "passes it to TextTower",
    "pipelines.extracting.scale.cluster.Cluster": "other machines'",
    "pipelines.extracting.scale.start.started": "refuses a card",
    "pipelines.extracting.scale.worker.Extraction": "passes it to Local, in other processes",
    "pipelines.extracting.texts.texts": "passes it to TextTower",
    "pipelines.jobs.choose.command.choose": "starts processes",
    "pipelines.jobs.choose.field.candidates": "a part of a key",
    "pipelines.jobs.choose.finals.Held": "passes it to a Workshop",
    "pipelines.jobs.choose.running.Race": "starts processes",
    "pipelines.jobs.efficiency.command.efficiency": "starts processes",
    "pipelines.jobs.efficiency.energy.Meter": "asks the driver",
    "pipelines.jobs.efficiency.record.Wish": "times, in a process of its own",
    "pipelines.jobs.efficiency.rounds.Setting": "starts processes",
    "pipelines.jobs.efficiency.rounds.processor": "a name in a report",
    "pipelines.questions.dense.Dense": "passes it to DenseLinearProbe",
    "pipelines.questions.mlp.MLP": "passes it to MLPProbe",
    "pipelines.questions.multilabel.MultiLabel": "passes it to MultiLabelProbe",
    "pipelines.questions.ood.benchmark.extracted": "passes it to an extraction",
    "pipelines.questions.ood.classifier.find_classifier": "passes it to fit_linear",
    "pipelines.questions.ood.classifier.training_sets": "passes it to TrainingSet",
    "pipelines.questions.ood.question.OOD": "passes it to TrainingSet",
    "pipelines.questions.shift.Shift": "passes it to fit_rows",
    "pipelines.summaries.report.holdings.Held": "a name in a report",
    "pipelines.training.ranks.started": "NCCL's processes, one a card",
    "retrieval.index.FeatureIndex": "FAISS has a CUDA build of its own",
}


def takers() -> Iterator[str]:
    """Public functions with an argument ``device``, classes with such a field, or a method that takes one."""
    root = Path(featurebank.__file__).parent
    for room in ("extract", "probes", "retrieval", "pipelines"):
        for path in sorted((root / room).rglob("*.py")):
            module = ".".join([room, *path.relative_to(root / room).with_suffix("").parts]).removesuffix(".__init__")
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if not isinstance(node, ast.ClassDef | ast.FunctionDef) or "._" in f"{module}.{node.name}":
                    continue
                own = node.body if isinstance(node, ast.ClassDef) else [node]
                fields = [one.target for one in own if isinstance(one, ast.AnnAssign)]
                called = [one.args for one in own if isinstance(one, ast.FunctionDef)]
                names = [one.id for one in fields if isinstance(one, ast.Name)]
                if "device" in [*names, *(one.arg for args in called for one in (*args.args, *args.kwonlyargs))]:
                    yield f"{module}.{node.name}"


def test_all_that_takes_a_device_is_walked_or_says_why_not() -> None:
    assert set(takers()) == WALKED.keys() | LEFT.keys()
    assert not WALKED.keys() & LEFT.keys()
    for name, file in WALKED.items():
        assert (TESTS / file).exists(), name


@pytest.mark.parametrize("verb", ["knn", "linear", "fewshot"])
def test_a_question_answers_the_same_on_a_card(verb: str, tmp_path: Path) -> None:
    for root in ("plain", "card"):
        write_pair(FeatureStore(tmp_path / root), "pets", "timm:resnet18")
    plain = featurebank_(verb, "pets", "--store", tmp_path / "plain", "--json")
    with pretend_cuda() as card:
        made = featurebank_(verb, "pets", "--store", tmp_path / "card", "--json", "--device", "cuda")
    assert (plain.code, made.code) == (0, 0), made.err
    assert card.peak > 0
    ours, theirs = (
        [(row["metric"], row["score"], row["value"]) for answer in run.json["answers"] for row in answer["rows"]]
        for run in (made, plain)
    )
    assert [row[:2] for row in ours] == [row[:2] for row in theirs]
    assert [row[2] for row in ours] == pytest.approx([row[2] for row in theirs], abs=1e-3, nan_ok=True)
