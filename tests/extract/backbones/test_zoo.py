"""The zoo's table: every row builds the network it promises, and prepares images as the library of its weights does."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import open_clip  # type: ignore[import-untyped]
import pytest
import timm
import torch
from diffusers.image_processor import VaeImageProcessor
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict  # type: ignore[import-untyped]
from PIL import Image
from sklearn.datasets import load_sample_image  # type: ignore[import-untyped]
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import nn
from torchvision import transforms  # type: ignore[import-untyped]
from torchvision.models import get_model_weights  # type: ignore[import-untyped]

from featurebank.extract.backbones import build, describe, names, outline, resolve, zoo
from featurebank.extract.errors import WeightsError
from featurebank.extract.transform import Transform
from featurebank.store.errors import UnknownNameError

ZOO = zoo.entries()
# A row of each architecture family, small ones where there is a choice.
FAMILIES = [
    "resnet18", "efficientnet_b0", "regnetx_400mf", "mobilenetv3_large", "convnext_tiny", "vit_small_augreg_in1k",
    "swinv2_tiny_window8_256", "dino_resnet50", "mocov3_vit_small", "sscd_disc_mixup", "sscd_disc_large",
    "clip_resnet50", "clip_vit_base_32_openai", "swin_tiny_tv", "swinv2_tiny_tv", "efficientnet_v2_s", "densenet161",
    "regnet_y_3_2gf", "resnext50_32x4d", "shufflenet_v2_x2_0", "inception_v3", "wavemix", "dinov2_vit_small",
    "dinov2_reg_vit_small", "dinov3_vit_small", "dinov3_convnext_tiny", "siglip2_vit_base", "eva02_tiny",
    "aimv2_large", "pe_core_tiny", "pe_spatial_base", "sam_vit_base", "stable_diffusion_v1_4_224",
    "openclip_vit_base_32",
    "openclip_convnext_base", "openclip_siglip2_vit_base", "openclip_coca_vit_base_32", "mobileclip_s1",
    "convnextv2_base_ft", "beitv2_base_ft", "hiera_base_mae",
]  # fmt: skip
# The rows of BoB's table of retrieval results, as its authors call them, and what each is today.
BOB_RETRIEVAL = {
    "clip-resnet101": "timm:resnet101_clip.openai",
    "clip-resnet50": "timm:resnet50_clip.openai",
    "clip-resnet50_64": "timm:resnet50x64_clip.openai",
    "clip-vit_base_patch16_224": "timm:vit_base_patch16_clip_224.laion2b",
    "clip-vit_large_patch14_224": "timm:vit_large_patch14_clip_224.laion2b",
    "mae-vit_base_patch16_224": "timm:vit_base_patch16_224.mae",
    "mae-vit_large_patch16_224": "timm:vit_large_patch16_224.mae",
    "midas-swin2_base_384": "hub:isl-org/MiDaS/dpt_swin2_base_384",
    "midas-swin2_tiny_256": "hub:isl-org/MiDaS/dpt_swin2_tiny_256",
    "moco-vit_base_patch16_224": "hub:facebookresearch/moco-v3/vit_base",
    "moco-vit_small_patch16_224": "hub:facebookresearch/moco-v3/vit_small",
    "sscd-resnet50_disc": "hub:facebookresearch/sscd/sscd_disc_large",
    "sscd-resnet50_im": "hub:facebookresearch/sscd/sscd_imagenet_mixup",
    "timm-convnext_base": "timm:convnext_base.fb_in1k",
    "timm-convnext_base_in22ft1k": "timm:convnext_base.fb_in22k_ft_in1k",
    "timm-convnext_small": "timm:convnext_small.fb_in1k",
    "timm-convnext_small_in22ft1k": "timm:convnext_small.fb_in22k_ft_in1k",
    "timm-convnext_xlarge_in22ft1k": "timm:convnext_xlarge.fb_in22k_ft_in1k",
    "timm-resnet101": "timm:resnet101.a1h_in1k",
    "timm-resnet50": "timm:resnet50.a1_in1k",
    "timm-swinv2_base_window12to16_192to256_22kft1k": "timm:swinv2_base_window12to16_192to256.ms_in22k_ft_in1k",
    "timm-swinv2_base_window12to24_192to384_22kft1k": "timm:swinv2_base_window12to24_192to384.ms_in22k_ft_in1k",
    "timm-swinv2_large_window12to16_192to256_22kft1k": "timm:swinv2_large_window12to16_192to256.ms_in22k_ft_in1k",
    "timm-swinv2_large_window12to24_192to384_22kft1k": "timm:swinv2_large_window12to24_192to384.ms_in22k_ft_in1k",
    "timm-swinv2_tiny_window8_256": "timm:swinv2_tiny_window8_256.ms_in1k",
    "timm-vit_base_patch16_224_augreg_in1k": "timm:vit_base_patch16_224.augreg_in1k",
    "timm-vit_base_patch16_224_augreg_in21k_ft_in1k": "timm:vit_base_patch16_224.augreg_in21k_ft_in1k",
    "timm-vit_base_patch16_224_dino": "timm:vit_base_patch16_224.dino",
    "timm-vit_large_patch16_224_augreg_in21k_ft_in1k": "timm:vit_large_patch16_224.augreg_in21k_ft_in1k",
    "timm-vit_small_patch16_224_augreg_in1k": "timm:vit_small_patch16_224.augreg_in1k",
    "timm-vit_small_patch16_224_augreg_in21k_ft_in1k": "timm:vit_small_patch16_224.augreg_in21k_ft_in1k",
    "timm-vit_small_patch16_224_dino": "timm:vit_small_patch16_224.dino",
    "vicreg-resnet50": "hub:facebookresearch/vicreg/resnet50",
}
# What each paper of BoB and of Which Backbone to Use compares, by the table's names.
BOB = [
    "resnet50", "resnet101", "dino_resnet50", "vicreg_resnet50", "clip_resnet50", "clip_resnet101", "clip_resnet50x64",
    "sscd_imagenet_mixup", "sscd_disc_large", "convnext_tiny", "convnext_small", "convnext_base", "convnext_base_in22k",
    "convnext_small_in22ft1k", "convnext_base_in22ft1k", "convnext_xlarge_in22ft1k", "vicregl_convnext_xlarge",
    "vit_small_augreg_in1k", "vit_base_augreg_in1k", "vit_small_augreg_in21k_ft_in1k", "vit_base_augreg_in21k_ft_in1k",
    "vit_large_augreg_in21k_ft_in1k", "deit_small", "deit_base_384", "dino_vit_small", "dino_vit_base",
    "mocov3_vit_small", "mocov3_vit_base", "mae_vit_base", "mae_vit_large", "mae_vit_huge", "clip_vit_base_laion2b",
    "clip_vit_large_laion2b", "swinv2_tiny_window8_256", "swinv2_base_window8_256", "swinv2_base_256_in22ft1k",
    "swinv2_base_384_in22ft1k", "swinv2_large_256_in22ft1k", "swinv2_large_384_in22ft1k", "midas_swinv2_tiny_256",
    "midas_swinv2_base_384", "stable_diffusion_v1_4", "sam_vit_base", "efficientnet_b0", "regnetx_400mf",
    "mobilenetv3_large", "resnet18",
]  # fmt: skip
WHICH_BACKBONE = {  # parameters in millions as the paper's README gives them
    "resnet50_tv2": 25.6, "wavemix": 27.9, "convnext_tiny_tv": 28.6, "swin_tiny_tv": 28.3, "swinv2_tiny_tv": 28.4,
    "efficientnet_v2_s": 21.5, "densenet161": 28.7, "mobilenetv3_large_tv2": 5.5, "regnet_y_3_2gf": 19.4,
    "resnext50_32x4d": 25.0, "shufflenet_v2_x2_0": 7.4,
}  # fmt: skip


def test_the_table_holds_the_studies_and_more() -> None:
    assert len(ZOO) >= 75
    assert set(BOB) | set(WHICH_BACKBONE) <= set(ZOO)
    for word in ("dinov2_reg", "dinov3", "siglip2", "eva02", "aimv2", "pe_core"):
        assert any(name.startswith(word) for name in ZOO), word
    assert set(ZOO) <= set(names())


def test_every_name_means_one_backbone() -> None:
    every = [name for entry in ZOO.values() for name in (entry.name, entry.reference, *entry.aliases)]
    assert len(every) == len(set(every))
    for entry in ZOO.values():
        row = dataclasses.asdict(entry)
        assert not [key for key in row if not row[key] and key not in {"aliases", "sha256", "heads"}], entry.name


@pytest.mark.parametrize("name", WHICH_BACKBONE)
def test_parameters_are_those_of_which_backbone_to_use(name: str) -> None:
    # Its tables leave the auxiliary parts and the classifier as published: to a tenth of a million.
    assert ZOO[name].parameters / 1e6 == pytest.approx(WHICH_BACKBONE[name], abs=0.15)


def test_names_of_the_papers_are_the_right_checkpoints_today() -> None:
    assert {name: entry.reference for name in BOB_RETRIEVAL if (entry := zoo.find(name))} == BOB_RETRIEVAL
    first, second = resolve("timm-resnet50@random:3"), resolve("resnet50@random:3")
    assert first == second
    assert first.name == "resnet50@random:3"
    assert resolve("timm:resnet50.a1_in1k@random").name == "timm:resnet50.a1_in1k@random"


def test_an_unknown_name_is_answered_with_the_nearest_of_all() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown backbone 'dino_vit_bse'; did you mean 'dino_vit_base'"):
        resolve("dino_vit_bse")


@pytest.mark.parametrize("name", ZOO)
def test_each_row_builds_from_the_table_alone_and_is_what_it_says(name: str) -> None:
    entry = ZOO[name]
    spec = resolve(f"{name}@random:0")
    assert spec.preprocessing == entry.preprocessing
    network: Any = outline(spec)  # the check against the row is part of building
    parameter = next(network.parameters())
    side = entry.preprocessing.height
    with torch.no_grad():
        found = network(torch.empty(2, 3, side, side, device=parameter.device))
    assert list(found) == list(spec.outputs)
    assert found["pooled"].shape == (2, entry.dimension)
    assert describe(name)["parameters"] == entry.parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_one_of_each_family_computes(name: str) -> None:
    entry = ZOO[name]
    network: Any = build(resolve(f"{name}@random:1", outputs=["pooled"]))
    side = entry.preprocessing.height
    with torch.inference_mode():
        pooled = network(torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)))["pooled"]
    assert pooled.shape == (1, entry.dimension)
    assert torch.isfinite(pooled).all()
    assert pooled.std() > 0


def test_families_leave_none_out() -> None:
    def family(name: str) -> str:
        entry = ZOO[name]
        arch = entry.architecture.partition(".")[0].partition("(")[0].partition("/")[0]
        cut = {"timm": 1, "torchvision": 1, "hub": 1}.get(entry.source)
        return (
            f"{entry.source if entry.source in {'open_clip', 'diffusers'} else ''}{arch.split('_')[0] if cut else arch}"
        )

    covered = {family(name) for name in FAMILIES}
    left_out = {family(name) for name in ZOO} - covered
    # The same classes as one that is covered, under other names and sizes.
    same = {"resnet101", "deit", "resnet50x4", "resnet50x16", "resnet50x64", "mobilenetv3", "mobilenet"}
    same |= {"open_clipViT-B-16", "open_clipViT-L-14"}
    assert left_out <= same


@pytest.mark.parametrize("field", ["heads", "dimension", "parameters", "preprocessing"])
def test_a_network_that_is_not_its_rows_is_refused(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ZOO["vit_small_augreg_in1k"]
    wrong: dict[str, Any] = {
        "heads": "12", "dimension": 768, "parameters": 1, "preprocessing": ZOO["resnet50"].preprocessing
    }  # fmt: skip
    changed = dataclasses.replace(entry, **{field: wrong[field]})
    monkeypatch.setattr(zoo, "_index", lambda: {entry.name: changed})
    spec = dataclasses.replace(resolve(f"{entry.reference}@random"), name=f"{entry.name}@random")
    with pytest.raises(WeightsError, match=rf"vit_small_augreg_in1k@random .*is not the network.*{field}: expected"):
        outline(spec)


def test_outputs_of_the_way_up_do_not_make_stable_diffusion_another_network() -> None:
    spec = resolve("stable_diffusion_v1_4@random", outputs=["pooled", "up.1.mean"])
    network: Any = outline(spec)
    assert sum(parameter.numel() for parameter in network.parameters()) > 800_000_000


# Preprocessing, against each library's own.

Prepare = Callable[[Image.Image], torch.Tensor]


def of_timm(entry: zoo.ZooEntry) -> Prepare:
    config: Any = timm.get_pretrained_cfg(entry.architecture)
    cfg = dataclasses.asdict(config)
    made: Any = create_transform(**resolve_data_config(pretrained_cfg=cfg), is_training=False)  # type: ignore[no-untyped-call]
    return made  # type: ignore[no-any-return]


def of_torchvision(entry: zoo.ZooEntry) -> Prepare:
    model, _, weights = entry.reference.removeprefix("torchvision:").partition("/")
    return get_model_weights(model)[weights].transforms()  # type: ignore[no-any-return]


def of_open_clip(entry: zoo.ZooEntry) -> Prepare:
    model, _, tag = entry.reference.removeprefix("open_clip:").partition("/")
    base = merge_preprocess_dict(PreprocessCfg(), open_clip.get_pretrained_cfg(model, tag))
    base["size"] = open_clip.get_model_config(model)["vision_cfg"]["image_size"]
    return image_transform_v2(PreprocessCfg(**base), is_train=False)  # type: ignore[no-any-return]


def of_diffusers(entry: zoo.ZooEntry) -> Prepare:
    side = entry.preprocessing.height
    return lambda image: VaeImageProcessor().preprocess(image, height=side, width=side)[0]


IMAGENET = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BICUBIC, BILINEAR = transforms.InterpolationMode.BICUBIC, transforms.InterpolationMode.BILINEAR


def composed(size: Any, interpolation: Any, normalise: Any, crop: int | None = None) -> Prepare:
    crops = [transforms.CenterCrop(crop)] if crop else []
    return transforms.Compose([transforms.Resize(size, interpolation), *crops, transforms.ToTensor(), normalise])  # type: ignore[no-any-return]


# As the evaluation code and the READMEs of the authors' repositories have it.
BY_AUTHORS = {
    "facebookresearch/dino": composed(256, BICUBIC, IMAGENET, 224),
    "facebookresearch/moco-v3": composed(256, BILINEAR, IMAGENET, 224),
    "facebookresearch/vicreg": composed(256, BILINEAR, IMAGENET, 224),
    "facebookresearch/vicregl": composed(256, BILINEAR, IMAGENET, 224),
    "facebookresearch/sscd": composed([320, 320], BILINEAR, IMAGENET),
    "isl-org/MiDaS/dpt_swin2_tiny_256": composed([256, 256], BICUBIC, HALF),
    "isl-org/MiDaS/dpt_swin2_base_384": composed([384, 384], BICUBIC, HALF),
    "pranavphoenix/WaveMix": composed(224, BICUBIC, IMAGENET, 224),
}


def of_hub(entry: zoo.ZooEntry) -> Prepare:
    place = entry.reference.removeprefix("hub:")
    return BY_AUTHORS.get(place) or BY_AUTHORS[place.rpartition("/")[0]]


UPSTREAM: dict[str, Callable[[zoo.ZooEntry], Prepare]] = {
    "timm": of_timm,
    "torchvision": of_torchvision,
    "open_clip": of_open_clip,
    "diffusers": of_diffusers,
    "hub": of_hub,
}


@functools.cache
def photographs() -> list[Image.Image]:
    """Two photographs of 640x427 pixels, lying and standing."""
    images = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    return [*images, images[0].transpose(Image.Transpose.ROTATE_90)]


def distinct() -> list[zoo.ZooEntry]:
    """One row for each way of preparing images, by source and upstream's own transform."""
    found = {(entry.source, entry.preprocessing, repr(UPSTREAM[entry.source](entry))): entry for entry in ZOO.values()}
    return list(found.values())


def test_preprocessing_is_that_of_the_weights_own_library_on_photographs() -> None:
    entries = distinct()
    assert len(entries) > 20
    for entry in entries:
        transform, record = Transform(entry.preprocessing), entry.preprocessing
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (record.mean, record.std))
        prepare = UPSTREAM[entry.source](entry)
        for image in photographs():
            ours = (torch.from_numpy(np.array(transform(image))).permute(2, 0, 1) / 255 - mean) / std
            theirs = prepare(image)
            assert ours.shape == theirs.shape, entry.name
            assert float(((ours - theirs) * std).abs().max()) <= 1 / 255 + 1e-6, entry.name


def test_heads_are_counted_in_any_module() -> None:
    assert zoo.heads_of(nn.Sequential(nn.Linear(1, 1))) == ""


def test_asking_by_name_imports_none_of_the_libraries() -> None:
    code = (
        "import sys; from featurebank.extract.backbones import describe, resolve; "
        "describe('dino_resnet50'); resolve('mocov3_vit_small@random'); resolve('stable_diffusion@random'); "
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    heavy = {"torch", "timm", "torchvision", "open_clip", "diffusers", "transformers", "onnxruntime"}
    assert heavy.isdisjoint(done.stdout.split())
