"""Extraction on a card: the values of the CPU through the GPU's schedule, whatever runs out of memory on the way."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from pretend_cuda import Card, OnCard, pretend_cards, pretend_cuda
from runs import RESNET, VIT, make_images, open_folder, run
from sealed_arrays import sealed_arrays
from tiny_network import TinyNetwork

from featurebank.extract import backbones, gpu_jpeg, schedule
from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.batches import Batch, Part, Preparer, Reader, batches, pixels_key
from featurebank.extract.compute import Local, Recipe, numerics
from featurebank.extract.datasets.contract import Split
from featurebank.extract.decode import decode
from featurebank.extract.device import Execution, resolve_device, resolve_devices, resolve_precision
from featurebank.extract.engine import extract
from featurebank.extract.forward import PixelsToFeatures, Runner
from featurebank.extract.gpu_jpeg import DeviceTransform, decode_jpegs, recognised
from featurebank.extract.preprocessing import Decode
from featurebank.extract.progress import Clock
from featurebank.extract.schedule import IN_FLIGHT, Line, Pass, run_pass
from featurebank.extract.transform import Transform
from featurebank.extract.wanted import Outcome, Request, want
from featurebank.store import FeatureStore

ON_CARD = Execution(device="cuda", batch_size=8, workers=2, compile="never")
OUTPUTS = ["pooled", "tokens", "blocks.1.tokens", "logits"]


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return open_folder(make_images(tmp_path / "images", 21))


@pytest.fixture
def card() -> Iterator[Card]:
    with pretend_cuda() as card:
        yield card


@pytest.mark.parametrize(("names", "outputs"), [((VIT, RESNET), None), ((VIT,), OUTPUTS)])
def test_what_is_sealed_is_what_the_cpu_seals(
    names: Sequence[str], outputs: Sequence[str] | None, split: Split, tmp_path: Path
) -> None:
    run(tmp_path / "cpu", split, names, outputs=outputs)
    with pretend_cuda() as card:
        run(tmp_path / "card", split, names, outputs=outputs, execution=ON_CARD)
    assert card.peak > 0
    assert sealed_arrays(tmp_path / "card") == sealed_arrays(tmp_path / "cpu") != {}


def test_gpu6_two_cards_share_the_images_of_one_process(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits in its first pass for the other: with one thread neither would go on."""
    run(tmp_path / "cpu", split, [VIT, RESNET])
    both, passing, met = threading.Barrier(2), Runner.__call__, set[str]()

    def together(runner: Runner, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        if threading.current_thread().name.startswith("featurebank-forward") and str(runner.device) not in met:
            met.add(str(runner.device))
            both.wait(60)
        return passing(runner, pixels)

    monkeypatch.setattr(Runner, "__call__", together)
    with pretend_cards(2):
        on_both = replace(ON_CARD, device="cuda:0,cuda:1")
        outcomes = run(tmp_path / "cards", split, [VIT, RESNET], execution=on_both)
    assert [one.error for one in outcomes] == ["", ""]
    assert met == {"cuda:0", "cuda:1"}
    assert sealed_arrays(tmp_path / "cards") == sealed_arrays(tmp_path / "cpu") != {}


def test_gpu6_pixels_that_one_card_has_decoded_come_to_the_other() -> None:
    with pretend_cards(2):
        pixels, stream = torch.arange(3, device="cuda:0"), torch.cuda.Stream("cuda:1")  # type: ignore[no-untyped-call]
        moved = schedule._uploaded(pixels, torch.device("cuda:1"), stream)
        assert (moved.device.index, moved.tolist()) == (1, [0, 1, 2])
        assert schedule._uploaded(pixels, torch.device("cuda:0"), stream) is pixels


def test_gpu6_several_devices_are_different_cards_that_are_there() -> None:
    with pretend_cards(2):
        assert resolve_devices("cuda:0,cuda:1") == "cuda:0,cuda:1"
        for wrong in ("cuda:0,cuda:0", "cuda:0,cpu", "cuda,cuda:1", "cuda:0,"):
            with pytest.raises(ValueError, match="several devices must be GPUs by their numbers"):
                resolve_devices(wrong)
        with pytest.raises(ValueError, match="device must be one of the 2 here"):
            resolve_devices("cuda:0,cuda:2")


def test_a_lower_precision_is_measured_there_too(split: Split, tmp_path: Path) -> None:
    run(tmp_path / "cpu", split, [VIT], precision="bfloat16")
    with pretend_cuda():
        (outcome,) = run(tmp_path / "card", split, [VIT], precision="bfloat16", execution=ON_CARD)
    assert outcome.state == "sealed", outcome.error
    assert sealed_arrays(tmp_path / "card") == sealed_arrays(tmp_path / "cpu")


@pytest.mark.usefixtures("card")
def test_what_the_card_can_is_asked_of_it() -> None:
    assert resolve_device("auto") == "cuda"
    assert resolve_precision("auto", "cuda") == "bfloat16"
    assert resolve_precision("float16", "cuda") == "float16"


@pytest.mark.usefixtures("card")
def test_gpu4_a_card_that_is_not_there_is_refused_at_the_start() -> None:
    assert resolve_device("cuda:0") == "cuda:0"
    with pytest.raises(ValueError, match=r"device must be one of the 1 here, from cuda:0; found 'cuda:7'; use cuda:0"):
        resolve_device("cuda:7")


def test_gpu4_no_timing_chooses_the_kernels_of_an_extraction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with numerics():
        assert not torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark


def test_gpu3_memory_that_runs_out_in_a_pass_halves_the_batch(split: Split, tmp_path: Path) -> None:
    run(tmp_path / "cpu", split, [RESNET])
    spec = backbones.resolve(RESNET)
    with pretend_cuda() as card:
        module = PixelsToFeatures(backbones.build(spec), spec, "float32", "float16").to("cuda")
        # Normalising 8 images takes 4.9 MB, 2 of them 1.2; up to three batches of pixels are there, of .6 MB each.
        card.total = card.allocated + 4_500_000
        del module
        run(tmp_path / "card", split, [RESNET], execution=ON_CARD)
        assert card.emptied > 0
    made, expected = sealed_arrays(tmp_path / "card"), sealed_arrays(tmp_path / "cpu")
    assert made.keys() == expected.keys()
    for place in (place for place in made if place.endswith((" pooled", " logits"))):
        ours, theirs = (np.frombuffer(arrays[place], np.float16) for arrays in (made, expected))
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-3)


def test_gpu3_memory_that_runs_out_while_compiling_halves_the_batch(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    monkeypatch.setattr("torch._inductor.async_compile.shutdown_compile_workers", lambda: None)
    spec = backbones.resolve(RESNET)
    card.total = 40_000_000
    runner = Runner(
        PixelsToFeatures(backbones.build(spec), spec, "float32", "float32"),
        device="cuda",
        batch_size=64,
        compiled=True,
    )
    assert runner.compiled
    assert 1 < runner.batch_size < 64
    pixels = torch.zeros((runner.batch_size + 1, 160, 160, 3), dtype=torch.uint8)
    assert len(runner(pixels)["pooled"]) == runner.batch_size + 1


def test_gpu3_a_network_for_which_there_is_no_room_leaves_nothing_on_the_card(card: Card) -> None:
    card.total = 500_000
    local = Local("cuda", ON_CARD)
    recipe = Recipe(spec=backbones.resolve(RESNET), precision="float32", dtype="float16", batch_size=8, compiled=False)
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            local.facts(recipe, np.zeros((0, 160, 160, 3), np.uint8))
    gc.collect()
    assert card.allocated == 0
    assert card.peak > 0


def test_gpu3_a_network_without_room_beside_another_is_built_when_that_one_is_done(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [RESNET, RESNET.replace(":0", ":1"), RESNET.replace(":0", ":2")]
    run(tmp_path / "cpu", split, names)
    build = Local._build

    def with_room_for_one(local: Local, recipe: Recipe, images: Any) -> Runner:
        if any(isinstance(runner, Runner) for runner in local._runners.values()):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return build(local, recipe, images)

    monkeypatch.setattr(Local, "_build", with_room_for_one)
    with pretend_cuda():
        outcomes = run(tmp_path / "card", split, names, execution=ON_CARD)
    assert [(one.state, one.error) for one in outcomes] == [("sealed", "")] * 3
    assert sealed_arrays(tmp_path / "card") == sealed_arrays(tmp_path / "cpu")


def test_gpu1_pixels_of_one_geometry_are_uploaded_once_for_all_networks(split: Split, tmp_path: Path) -> None:
    with pretend_cuda() as card:
        run(tmp_path / "card", split, [RESNET, RESNET.replace(":0", ":1")], execution=ON_CARD)
    assert card.uploads == 3  # batches of 8, of 21 images


class Unwritten:
    """A sink of which nobody takes anything out."""

    error = None

    def __init__(self) -> None:
        self.fetches: list[Any] = []

    def put(self, *rows: Any) -> None:
        self.fetches.append(rows)


def test_gpu2_what_is_waited_for_is_the_device_of_the_outputs_whatever_device_a_thread_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded: list[Any] = []

    class Event:
        def __init__(self, **_: Any) -> None:
            self.record = recorded.append

        def synchronize(self) -> None:
            recorded.append("waited")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    schedule._passed(cast("Any", None), torch.device("cuda:1"))()
    assert recorded == ["stream of cuda:1", "waited"]


def test_gpu2_batches_are_held_until_the_card_has_passed_them_and_no_longer(split: Split) -> None:
    spec, sink, part = backbones.resolve(RESNET), Unwritten(), Part(split)
    allocated: list[weakref.ref[Any]] = []
    most = 0

    class Counting(Preparer):
        def allocate(self, batch: Batch) -> None:
            nonlocal most
            super().allocate(batch)
            allocated.append(weakref.ref(batch))
            most = max(most, sum(ref() is not None and bool(ref().pixels) for ref in allocated))  # type: ignore[union-attr]

    with pretend_cuda() as card:
        runner = Runner(
            PixelsToFeatures(TinyNetwork(spec), spec, "float32", "float32"), device="cuda", batch_size=1, compiled=False
        )
        clock, target = Clock(), SimpleNamespace(error=None)
        shared = Pass(
            lines=[Line(runner, pixels_key(spec.preprocessing), target)],
            work=batches([(0, 21)], [((0, 21),)], 1),
            read=Reader(part, clock, strict=True),
            prepare=Counting(part, [spec.preprocessing], clock, strict=True, pinned=True),
            sink=sink,  # type: ignore[arg-type]
            clock=clock,
            workers=2,
        )
        run_pass(shared, cuda=True, poll=lambda: None)
        gc.collect()
        assert len(sink.fetches) == len(allocated) == 21
        assert most <= IN_FLIGHT + 2  # and those that the threads just have in their hands
        assert not [ref for ref in allocated if ref() is not None]
        assert card.uploads == 21


# JPEGs that the device decodes; libjpeg takes the place of nvJPEG.


def decoded_there(files: Sequence[bytes], device: torch.device) -> list[torch.Tensor]:
    return [torch.tensor(np.asarray(decode(file, Decode()))).permute(2, 0, 1).to(device) for file in files]


def with_decoder(spec: BackboneSpec) -> BackboneSpec:
    return replace(spec, preprocessing=replace(spec.preprocessing, decode=Decode(library="nvjpeg")))


@pytest.fixture
def jpegs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Split:
    """JPEGs, images that are left to Pillow, and one that is no image."""
    folder = make_images(tmp_path / "mixed", 5)
    for index, path in enumerate(sorted(folder.rglob("*.png"))):
        with Image.open(path) as image:
            image.save(path.with_name(f"{index}.jpg"), quality=90)
    (folder / "class0" / "none.jpg").write_bytes(b"no image")
    monkeypatch.setattr(gpu_jpeg, "_decoded", decoded_there)
    monkeypatch.setattr(gpu_jpeg, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda _: object())))
    return open_folder(folder)


def extracted_jpegs(root: Path, split: Split) -> Outcome:
    request = Request(backbone=with_decoder(backbones.resolve(VIT)), split=0)
    wanted = want([request], [split], FeatureStore(root), precision="float32")
    (outcome,) = extract(wanted, [split], execution=ON_CARD)
    return outcome


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("resize", ["shorter", "longer", "exact", "none"])
def test_the_resize_of_the_card_is_that_of_the_cpu(resize: Any) -> None:
    spec = backbones.resolve(VIT)
    transform = Transform(replace(spec.preprocessing, resize=resize, fill=(1, 2, 3), flip=True))
    image = torch.randint(0, 256, (3, 90, 211), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = DeviceTransform(transform, torch.device("cpu"))(image)
    made = DeviceTransform(transform, torch.device("cuda"))(image.to("cuda"))
    assert isinstance(made, OnCard)
    assert torch.equal(made.cpu(), expected)


def test_images_decoded_on_the_card_give_the_features_of_pillows(jpegs: Split, tmp_path: Path) -> None:
    run(tmp_path / "cpu", jpegs, [VIT])
    with pretend_cuda():
        outcome = extracted_jpegs(tmp_path / "card", jpegs)
    assert (outcome.state, len(outcome.failed)) == ("sealed", 1), outcome.error
    (made,), (expected,) = (
        [array for place, array in sealed_arrays(tmp_path / root).items() if place.endswith(" pooled")]
        for root in ("card", "cpu")
    )
    assert made == expected


def test_gpu3_memory_that_runs_out_while_decoding_halves_what_is_decoded_at_once(jpegs: Split, card: Card) -> None:
    files = [recognised(jpegs.read(row), Decode(library="nvjpeg")) for row in range(len(jpegs))]
    taken = [file for file in files if file is not None]
    expected = [image.cpu() for image in decode_jpegs(taken, torch.device("cuda")) if image is not None]
    card.total = max(image.nbytes for image in expected) * 5 // 2
    del files
    made = [image.cpu() for image in decode_jpegs(taken, torch.device("cuda")) if image is not None]
    assert card.emptied > 0
    assert len(made) == len(expected) == 5
    assert all(torch.equal(one, other) for one, other in zip(made, expected, strict=True))
    card.total = 1000
    with pytest.raises(torch.OutOfMemoryError):
        next(decode_jpegs(taken, torch.device("cuda")))


def test_gpu3_a_card_that_is_full_is_no_fault_of_an_image(
    jpegs: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(DeviceTransform, "__call__", refuse)
    with pretend_cuda():
        outcome = extracted_jpegs(tmp_path / "card", jpegs)
    assert outcome.state == "failed"
    assert "CUDA out of memory" in outcome.error
