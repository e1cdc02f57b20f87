"""JPEGs on the device. Without a GPU the same code runs on the CPU, where the decoder is Pillow's own library."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from runs import RESNET, VIT, make_images, open_folder
from sealed_arrays import sealed_arrays

from featurebank.extract import backbones, datasets, gpu_jpeg
from featurebank.extract.assets import cached
from featurebank.extract.batches import Preparer, Reader, batches
from featurebank.extract.compute import numerics
from featurebank.extract.datasets._packaged_files import IMAGENET_20
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.decode import decode
from featurebank.extract.device import Execution
from featurebank.extract.engine import extract
from featurebank.extract.gpu_jpeg import DeviceTransform, check_decoder, decode_jpegs, recognised
from featurebank.extract.preprocessing import Decode, Interpolation, Preprocessing
from featurebank.extract.progress import Clock
from featurebank.extract.resampling import bands, resampling
from featurebank.extract.transform import Transform
from featurebank.extract.wanted import Outcome, Request, want
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.extracting.config import RunConfig
from featurebank.pipelines.extracting.run import run_features
from featurebank.store import FeatureSet, FeatureStore

CPU = torch.device("cpu")
RECORD = Decode(library="nvjpeg")
INTERPOLATIONS: tuple[Interpolation, ...] = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")

needs_torchcodec = pytest.mark.skipif(importlib.util.find_spec("torchcodec") is None, reason="needs torchcodec")


def photo(width: int = 61, height: int = 47, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90} | settings)
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def geometry(**changes: Any) -> Preprocessing:
    return replace(
        Preprocessing(
            height=224,
            width=224,
            resize_height=256,
            resize_width=256,
            interpolation="bicubic",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            decode=RECORD,
        ),
        **changes,
    )


def photographs() -> list[bytes]:
    if cached(IMAGENET_20) is None:
        pytest.skip(f"{IMAGENET_20.package} {IMAGENET_20.version} is not in the asset cache")
    split = datasets.open_split(DatasetSpec(name="imagenet_20", split="all"))
    return [data for data in (split.read(row) for row in range(len(split))) if isinstance(data, bytes)]


def decoded(files: Sequence[bytes], device: torch.device, record: Decode = RECORD) -> list[NDArray[np.uint8]]:
    """(H, W, 3) of files that the device must take."""
    jpegs = [jpeg for jpeg in (recognised(file, record) for file in files) if jpeg is not None]
    images = [image for image in decode_jpegs(jpegs, device) if image is not None]
    assert len(images) == len(files)
    return [image.cpu().permute(1, 2, 0).numpy() for image in images]


def by_pillow(file: bytes, record: Decode = RECORD) -> NDArray[np.uint8]:
    return np.asarray(decode(file, record))


# What is left to Pillow.


def with_second(marker: int, data: bytes) -> bytes:
    """The frame's marker replaced."""
    at = next(first for found, first, _ in gpu_jpeg._segments(data) if found in gpu_jpeg.FRAMES)
    return data[: at + 1] + bytes([marker]) + data[at + 2 :]


JPEG = encoded(photo())
LEFT: dict[str, bytes | NDArray[np.uint8]] = {
    "raw pixels": np.zeros((8, 8, 3), np.uint8),
    "nothing": b"",
    "text": b"no image",
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "CMYK": encoded(photo().convert("CMYK")),
    "RGB components": encoded(photo(), keep_rgb=True),
    "cut off": JPEG[:-200],
    "without its end": JPEG[:-2],
    "headers alone": JPEG[:200] + JPEG[-2:],
    "arithmetic coding": with_second(0xC9, JPEG),
    "lossless": with_second(0xC3, JPEG),
    "a length that leads outside": JPEG[:4] + b"\xff\xff" + JPEG[6:],
    "two ends": b"\xff\xd8\xff\xd9",
}
TAKEN: dict[str, bytes] = {
    "baseline": JPEG,
    "progressive": encoded(photo(), progressive=True),
    "grey": encoded(photo().convert("L")),
    "4:4:4": encoded(photo(), subsampling=0),
    "4:2:2": encoded(photo(), subsampling=1),
    "4:2:0": encoded(photo(), subsampling=2),
    "restart markers": encoded(photo(), restart_marker_blocks=2),
    "one pixel": encoded(photo(1, 1)),
    "a colour profile and a comment": encoded(photo(), icc_profile=bytes(70000), comment=b"a comment"),
    "EXIF": encoded(photo(), exif=turned(6)),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_the_device_does_not_take(name: str) -> None:
    assert recognised(LEFT[name], RECORD) is None


def test_images_that_are_too_large_are_left() -> None:
    assert recognised(JPEG, replace(RECORD, max_pixels=61 * 47)) is not None
    assert recognised(JPEG, replace(RECORD, max_pixels=61 * 47 - 1)) is None


def test_any_cut_and_any_damage_is_recognised_or_left() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(TAKEN["EXIF"])
        for at in generator.integers(0, 700, 3):
            data[at] = generator.integers(256)
        recognised(bytes(data), RECORD)
        recognised(bytes(data[: generator.integers(len(data))]) + b"\xff\xd9", RECORD)


# The decoder, on the CPU.


@needs_torchcodec
@pytest.mark.parametrize("name", TAKEN)
def test_on_the_cpu_the_pixels_are_pillow_s(name: str) -> None:
    np.testing.assert_array_equal(decoded([TAKEN[name]], CPU)[0], by_pillow(TAKEN[name]))


@needs_torchcodec
@pytest.mark.parametrize("exif", [True, False])
@pytest.mark.parametrize("orientation", range(10))
def test_orientation_is_applied_as_the_record_says(orientation: int, exif: bool) -> None:
    record = replace(RECORD, exif=exif)
    file = encoded(photo(), exif=turned(orientation))
    np.testing.assert_array_equal(decoded([file], CPU, record)[0], by_pillow(file, record))


@needs_torchcodec
def test_photographs_decode_to_pillow_s_pixels_however_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    files = photographs()
    expected = [by_pillow(file) for file in files]
    for limit in (gpu_jpeg.PIXELS_AT_ONCE, 600_000, 1):
        monkeypatch.setattr(gpu_jpeg, "PIXELS_AT_ONCE", limit)
        for image, other in zip(decoded(files, CPU), expected, strict=True):
            np.testing.assert_array_equal(image, other)


@needs_torchcodec
def test_an_image_that_fails_takes_no_other_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = gpu_jpeg._decoded
    bad = TAKEN["4:4:4"]

    def failing(files: Sequence[bytes], device: torch.device) -> list[torch.Tensor]:
        if bad in files:
            raise RuntimeError("Failed to decode batch")
        return real(files, device)

    monkeypatch.setattr(gpu_jpeg, "_decoded", failing)
    jpegs = [jpeg for jpeg in (recognised(file, RECORD) for file in (JPEG, bad, TAKEN["grey"])) if jpeg]
    images = list(decode_jpegs(jpegs, CPU))
    assert [image is None for image in images] == [False, True, False]


# Resizing.


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("length", "size"), [(500, 256), (375, 256), (7, 64), (64, 64), (300, 1), (1, 9), (97, 96)])
def test_weights_are_pillow_s(interpolation: Interpolation, length: int, size: int) -> None:
    """Of float images, which Pillow resizes without rounding."""
    values = np.random.default_rng(length).random((1, length)).astype(np.float32)
    image = Image.fromarray(values).resize((size, 1), Image.Resampling[interpolation.upper()])
    weights = resampling(length, size, interpolation)
    np.testing.assert_allclose(weights @ values[0], np.asarray(image)[0], atol=2e-6)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(
        resampling(length, size, interpolation, first=size // 3, kept=1)[0], weights[size // 3]
    )


def dense_weights(length: int, size: int, support: float, value: Callable[[float], float]) -> NDArray[np.float64]:
    """A filter at every pixel of the source, pixel by pixel, as Pillow's C code says."""
    scale = length / size
    wider = max(scale, 1.0)
    weights = np.zeros((size, length))
    for row in range(size):
        centre, reach = (row + 0.5) * scale, support * wider
        for pixel in range(max(0, int(centre - reach + 0.5)), min(length, int(centre + reach + 0.5))):
            weights[row, pixel] = value((pixel - centre + 0.5) / wider)
    weights /= weights.sum(1, keepdims=True)
    return weights


@pytest.mark.parametrize(("length", "size"), [(500, 37), (40, 97), (64, 64), (311, 1)])
def test_gpu7_weights_in_bands_are_the_dense_ones(length: int, size: int) -> None:
    expected = dense_weights(length, size, 1.0, lambda x: max(1 - abs(x), 0.0))
    band = bands(length, size, "bilinear")
    assert band.weights.size < 4 * max(length, size)  # two pixels in reach of each, or two of the reduction's factor
    np.testing.assert_allclose(resampling(length, size, "bilinear"), expected, rtol=0, atol=1e-12)
    for row, (first, stop) in enumerate(zip(band.first, band.stop, strict=True)):
        np.testing.assert_allclose(band.weights[row, : stop - first], expected[row, first:stop], rtol=0, atol=1e-12)


def on_device(image: NDArray[np.uint8], record: Preprocessing, device: torch.device = CPU) -> NDArray[np.uint8]:
    values = torch.from_numpy(image.copy()).permute(2, 0, 1).to(device)
    with numerics():
        return DeviceTransform(Transform(record), device)(values).cpu().numpy()


def in_two_passes(image: NDArray[np.uint8], record: Preprocessing) -> NDArray[np.uint8]:
    """By Pillow, one axis after the other."""
    rows, columns = Transform(record).placement(image.shape[1], image.shape[0])
    method = Image.Resampling[record.interpolation.upper()]
    wide = Image.fromarray(image).resize((columns.size, image.shape[0]), method)
    return Transform(replace(record, resize="none"))(wide.resize((columns.size, rows.size), method))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_photographs_are_resized_to_pillow_s_pixels(interpolation: Interpolation) -> None:
    for file in photographs():
        record = geometry(interpolation=interpolation)
        expected = Transform(record)(decode(file, RECORD))
        np.testing.assert_array_equal(on_device(by_pillow(file), record), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"resize": "exact", "resize_height": 100, "resize_width": 300},
        {"resize": "longer", "fill": (9, 80, 200)},
        {"resize": "none"},
        {"resize": "none", "height": 30, "width": 500},
        {"height": 300, "width": 300, "fill": (1, 2, 3)},
        {"channels": "BGR", "margins": "floor", "height": 225},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(61, 47), (300, 451), (256, 256), (256, 40), (1, 90)])
def test_every_geometry_is_pillow_s(changes: dict[str, Any], size: tuple[int, int]) -> None:
    image, record = photo(*size), geometry(**changes)
    made = on_device(np.asarray(image), record)
    np.testing.assert_array_equal(made, in_two_passes(np.asarray(image), record))
    differences = np.abs(made.astype(int) - Transform(record)(image))
    assert differences.max() <= 2
    assert differences.mean() <= 0.1


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 2000),
    height=st.integers(1, 60),
    side=st.integers(1, 80),
    interpolation=st.sampled_from(INTERPOLATIONS),
    mode=st.sampled_from(["exact", "longer", "shorter"]),
)
def test_any_size_is_resized_to_pillow_s_pixels(
    width: int, height: int, side: int, interpolation: Interpolation, mode: Any
) -> None:
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    record = geometry(
        height=side, width=side, resize_height=side, resize_width=side, interpolation=interpolation, resize=mode
    )
    np.testing.assert_array_equal(on_device(noise, record), in_two_passes(noise, record))


# Batches.


@pytest.fixture
def mixed(tmp_path: Path) -> Split:
    """JPEGs among what is no JPEG, one that is damaged behind its headers, and one that is no image."""
    folder = make_images(tmp_path / "images", 6)
    target = folder / "class0"
    for index, name in enumerate(TAKEN):
        (target / f"{index}.jpg").write_bytes(TAKEN[name])
    for index in range(20):
        (target / f"many{index}.jpg").write_bytes(encoded(photo(90 + index, 80, index)))
    (target / "cmyk.jpg").write_bytes(bytes(LEFT["CMYK"]))
    (target / "cut.jpg").write_bytes(JPEG[:-300])
    (target / "none.jpg").write_bytes(b"no image")
    return open_folder(folder)


def prepared(
    split: Split, records: Sequence[Preprocessing], size: int
) -> tuple[list[NDArray[np.uint8]], dict[int, str]]:
    """(N, H, W, 3) pixels of each geometry, and what failed."""
    clock = Clock()
    read, prepare = Reader(split, clock, strict=False), Preparer(split, records, clock, strict=False, pinned=False)
    parts: list[list[NDArray[np.uint8]]] = []
    failed: dict[int, str] = {}
    for batch in batches([(0, len(split))], [((0, len(split)),)] * len(records), size):
        read(batch)
        prepare.allocate(batch)
        middle = (batch.start + batch.stop) // 2
        assert [prepare(batch, batch.start, middle), prepare(batch, middle, batch.stop)] == [False, True]
        parts.append([pixels.cpu().numpy() for pixels in batch.pixels.values()])
        failed |= batch.failed
        assert not batch.jpegs
        assert not any(raw is not None for raw in batch.raw)
    return [np.concatenate(part) for part in zip(*parts, strict=True)], failed


@needs_torchcodec
def test_a_mixed_batch_has_pillow_s_pixels_where_pillow_decodes_and_the_same_failures(mixed: Split) -> None:
    records = [geometry(), geometry(height=96, width=96, resize_height=96, resize_width=96, interpolation="bilinear")]
    made, failed = prepared(mixed, records, 16)
    plain = [replace(record, decode=Decode()) for record in records]
    expected, failed_too = prepared(mixed, plain, 16)
    assert failed == failed_too
    assert len(failed) == 2
    left = [row for row in range(len(mixed)) if recognised(mixed.read(row), RECORD) is None]
    assert len(mixed) > len(left) > 6
    for ours, theirs in zip(made, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@needs_torchcodec
def test_pixels_do_not_depend_on_batches_or_on_their_company(mixed: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    real, bad = gpu_jpeg._decoded, TAKEN["4:2:2"]

    def failing(files: Sequence[bytes], device: torch.device) -> list[torch.Tensor]:
        if bad in files:
            raise RuntimeError("Failed to decode batch")
        return real(files, device)

    monkeypatch.setattr(gpu_jpeg, "_decoded", failing)
    expected, failed = prepared(mixed, [geometry()], 64)
    for size in (2, 16):
        made, failed_too = prepared(mixed, [geometry()], size)
        np.testing.assert_array_equal(made, expected)
        assert failed_too == failed
    row = list(mixed.ids).index("class0/4.jpg")
    np.testing.assert_array_equal(expected[0][row], Transform(geometry())(decode(bad, RECORD)))


# The engine and the configuration.


def extracted(root: Path, split: Split, decoder: Any, device: str) -> list[Outcome]:
    specs = [backbones.resolve(name) for name in (VIT, RESNET)]
    records = [replace(spec.preprocessing, decode=Decode(library=decoder)) for spec in specs]
    requests = [
        Request(backbone=replace(spec, preprocessing=record), split=0)
        for spec, record in zip(specs, records, strict=True)
    ]
    wanted = want(requests, [split], FeatureStore(root), precision="float32")
    return extract(wanted, [split], execution=Execution(device=device, compile="never", batch_size=8))


def cosines(one: Outcome, other: Outcome) -> NDArray[np.float64]:
    with FeatureSet(one.path) as a, FeatureSet(other.path) as b:
        assert a.status.tolist() == b.status.tolist()
        x, y = (np.asarray(made["pooled"], np.float64)[made.ok] for made in (a, b))
    cosine: NDArray[np.float64] = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    return cosine


@needs_torchcodec
def test_the_engine_s_path_on_the_cpu(mixed: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurebank.extract.compute.check_decoder", lambda *_: None)
    plain = extracted(tmp_path, mixed, "pillow", "cpu")
    made = extracted(tmp_path, mixed, "nvjpeg", "cpu")
    for one, other in zip(made, plain, strict=True):
        assert (one.state, one.failed) == ("sealed", other.failed)
        assert one.fingerprint != other.fingerprint
        assert one.path.parent == other.path.parent, "both stand side by side"
        assert cosines(one, other).min() > 0.999999
    again = extracted(tmp_path / "again", mixed, "nvjpeg", "cpu")
    assert all(outcome.state == "sealed" for outcome in again)
    assert sealed_arrays(tmp_path / "again").items() <= sealed_arrays(tmp_path).items()


def test_without_a_gpu_the_engine_says_so_for_each_backbone(mixed: Split, tmp_path: Path) -> None:
    for outcome in extracted(tmp_path, mixed, "nvjpeg", "cpu"):
        assert outcome.state == "failed"
        assert "decoder nvjpeg needs a CUDA device, and this run is on cpu; use decoder: pillow" in outcome.error


def configured(tmp_path: Path, **extraction: Any) -> RunConfig:
    make_images(tmp_path / "images" / "train", 3)
    return RunConfig.model_validate(
        {
            "store": tmp_path / "store",
            "backbones": [VIT],
            "datasets": [{"name": f"folder:{tmp_path / 'images'}", "splits": ["train"]}],
            "extraction": {"device": "cpu", "decoder": "nvjpeg"} | extraction,
        }
    )


def test_a_configuration_that_cannot_be_followed_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="extraction: decoder nvjpeg needs a CUDA device, and this run is on cpu"):
        run_features(configured(tmp_path))
    with pytest.raises(ConfigError, match="pixel_cache keeps what Pillow decodes"):
        run_features(configured(tmp_path, pixel_cache=tmp_path / "cache"))
    assert not (tmp_path / "store").exists()


def test_a_missing_torchcodec_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurebank.extract.gpu_jpeg.importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match="needs torchcodec; install it with: pip install torchcodec"):
        check_decoder("nvjpeg", "cuda")


def test_a_torchcodec_that_does_not_work_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> Any:
        raise RuntimeError("not compiled with nvJPEG support")

    monkeypatch.setattr("featurebank.extract.gpu_jpeg.importlib.util.find_spec", lambda _: object())
    monkeypatch.setattr(gpu_jpeg, "_decoded", failing)
    with pytest.raises(ValueError, match=r"does not work on cuda; .*: not compiled with nvJPEG support"):
        check_decoder("nvjpeg", "cuda")


def test_the_decoder_of_a_configuration_is_in_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchcodec")
    for place in ("gpu_jpeg", "compute"):
        monkeypatch.setattr(f"featurebank.extract.{place}.check_decoder", lambda *_: None)
    config = configured(tmp_path, compile="never", precision="float32")
    (made,) = run_features(config).outcomes
    with FeatureSet(made.path) as found:
        assert found.key["preprocessing"]["decode"] == {"library": "nvjpeg"}
    extraction = config.extraction.model_copy(update={"decoder": "pillow"})
    (other,) = run_features(config.model_copy(update={"extraction": extraction})).outcomes
    assert (made.state, other.state) == ("sealed", "sealed")
    with FeatureSet(other.path) as found:
        assert "decode" not in found.key["preprocessing"]


def test_c7_the_largest_image_of_a_configuration_is_in_the_records(tmp_path: Path) -> None:
    config = configured(tmp_path, decoder="pillow", max_pixels=10, compile="never", precision="float32")
    (made,) = run_features(config).outcomes
    with FeatureSet(made.path) as found:
        assert found.key["preprocessing"]["decode"] == {"max_pixels": 10}
        assert not found.ok.any()


# On a GPU.


@pytest.mark.cuda
@needs_torchcodec
def test_nvjpeg_s_pixels_are_near_those_of_libjpeg_turbo() -> None:
    """Colours are upsampled in another way, so single pixels beside edges differ; means hardly do."""
    check_decoder("nvjpeg", "cuda")
    files = photographs()
    differences = [
        np.abs(ours.astype(int) - by_pillow(file)).ravel()
        for file, ours in zip(files, decoded(files, torch.device("cuda")), strict=True)
    ]
    assert np.concatenate(differences).mean() <= 2
    assert np.percentile(np.concatenate(differences), 99.9) <= 48


@pytest.mark.cuda
@needs_torchcodec
@pytest.mark.parametrize("name", TAKEN)
def test_nvjpeg_takes_what_is_recognised(name: str) -> None:
    (made,) = decoded([TAKEN[name]], torch.device("cuda"))
    expected = by_pillow(TAKEN[name])
    assert made.shape == expected.shape
    assert np.abs(made.astype(int) - expected).mean() <= 3


@pytest.mark.cuda
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_cuda_resizes_as_pillow_does(interpolation: Interpolation) -> None:
    image, record = by_pillow(photographs()[0]), geometry(interpolation=interpolation)
    np.testing.assert_array_equal(on_device(image, record, torch.device("cuda")), on_device(image, record))


@pytest.mark.cuda
@needs_torchcodec
def test_features_of_both_decoders_on_a_gpu(mixed: Split, tmp_path: Path) -> None:
    plain, made = (extracted(tmp_path, mixed, decoder, "cuda") for decoder in ("pillow", "nvjpeg"))
    for one, other in zip(made, plain, strict=True):
        assert (one.state, one.failed) == ("sealed", other.failed)
        assert one.fingerprint != other.fingerprint
        assert cosines(one, other).min() >= 0.99
