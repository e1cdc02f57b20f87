"""``open_clip:ARCHITECTURE/TAG``: open_clip's image towers, and the text towers that belong to them.

Shapes: B batch, D dimension of a feature, E dimension of the space shared with texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurebank.extract.assets import sha256_of
from featurebank.extract.backbones.checkpoint import load_strictly, state_dict_of
from featurebank.extract.backbones.contract import BackboneSpec, Network, Weights
from featurebank.extract.backbones.hub_cache import from_hub
from featurebank.extract.backbones.naming import checked_outputs, given_weights, random_seed, split_random
from featurebank.extract.backbones.text_tower import TextTower
from featurebank.extract.errors import AssetError, WeightsError
from featurebank.extract.preprocessing import Preprocessing
from featurebank.store.errors import unknown_name

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["OpenClipSource", "preprocessing_of"]

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# Written by older versions of transformers and open_clip; they hold counts, not weights.
_COUNTERS = ("text.transformer.embeddings.position_ids", "input_resolution", "context_length", "vocab_size")
_RESIZE = {"shortest": "shorter", "squash": "exact", "longest": "longer"}


class OpenClipSource:
    """open_clip's zoo; see `Backbone` for what the methods promise.

    Outputs are ``pooled`` (B, D), the feature before the projection, and ``embedding`` (B, E), the one after it, of no
    particular length. Where pooling and projection are one layer (some of timm's towers), both are the same.
    """

    prefix = "open_clip:"

    def names(self) -> Sequence[str]:
        """All architectures with each of their tags."""
        import open_clip  # type: ignore[import-untyped]

        return [f"{self.prefix}{model}/{tag}" for model, tag in open_clip.list_pretrained()]

    def resolve(
        self, name: str, *, checkpoint: Path | None = None, outputs: Sequence[str] | None = None
    ) -> BackboneSpec:
        """The spec behind a name; see `Backbone.resolve`."""
        base, seed = split_random(name)
        architecture, config, published = self._entry(base)
        weights = given_weights(name, seed, checkpoint) or _published(name, published)
        return BackboneSpec(
            name=name,
            source="open_clip",
            architecture=f"{architecture}+quickgelu" if published.get("quick_gelu") else architecture,
            weights=weights,
            preprocessing=preprocessing_of(name, config, published),
            outputs=checked_outputs(name, outputs, ("pooled", "embedding")),
        )

    def build(self, spec: BackboneSpec) -> Network:
        """The network behind a spec; see `Backbone.build`."""
        from featurebank.extract.backbones.open_clip_network import ImageTower

        return ImageTower(spec, _model(spec).visual)

    def tokenizer(self, spec: BackboneSpec) -> Mapping[str, Any]:
        """What determines the tokens of a text; see `TextSource.tokenizer`."""
        from featurebank.extract.backbones.open_clip_text import tokenizer_record

        return tokenizer_record(spec.name, _config(spec)["text_cfg"])

    def text_tower(self, spec: BackboneSpec, device: str) -> TextTower:
        """The text tower behind a spec; see `TextSource.text_tower`."""
        from featurebank.extract.backbones.open_clip_text import open_clip_tokenizer

        tokenizer, model = open_clip_tokenizer(spec.name, _config(spec)["text_cfg"]), _model(spec)
        bias = getattr(model, "logit_bias", None)
        model.visual = None
        return TextTower(
            model,
            partial(model.encode_text, normalize=False),
            tokenizer,
            logit_scale=float(model.logit_scale.detach().exp()),
            logit_bias=0.0 if bias is None else float(bias.detach()),
            device=device,
        )

    def describe(self, name: str) -> Mapping[str, object]:
        """Where the weights lie."""
        published = self._entry(split_random(name)[0])[2]
        return {"origin": published.get("hf_hub") or published.get("url")}

    def _entry(self, name: str) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
        """Architecture, its configuration, and that of its published weights."""
        import open_clip

        architecture, _, tag = name.removeprefix(self.prefix).partition("/")
        published = open_clip.get_pretrained_cfg(architecture, tag)
        # Only of a known name: of ``hf-hub:`` and ``local-dir:`` it would follow what a folder or the hub says.
        config = open_clip.get_model_config(architecture) if published else None
        if not published or config is None:
            raise unknown_name("backbone", name, self.names())
        return architecture, config, published


def preprocessing_of(name: str, config: Mapping[str, Any], published: Mapping[str, Any]) -> Preprocessing:
    """The evaluation transform that open_clip makes of its configurations, as a record.

    Args:
        name: the backbone, for messages.
        config: of the architecture, which knows the size.
        published: of the weights, which know the rest.

    Raises:
        WeightsError: the images are not square.
    """
    size = config["vision_cfg"].get("image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise WeightsError(f"{name}: expected square images, found {height}x{width}")
    mean, std = (tuple(map(float, published[key])) for key in ("mean", "std"))
    return Preprocessing(
        height=height,
        width=width,
        resize=_RESIZE[published["resize_mode"]],  # type: ignore[arg-type]
        resize_height=height,
        resize_width=width,
        interpolation=published["interpolation"],
        mean=mean,  # type: ignore[arg-type]
        std=std,  # type: ignore[arg-type]
    )


def _model(spec: BackboneSpec) -> Any:
    """Both towers, weights loaded."""
    from featurebank.extract.backbones.network import seeded

    with seeded(random_seed(spec.weights) or 0):
        model = _architecture(spec)
    if random_seed(spec.weights) is None:
        load_strictly(model, _tensors(spec, model), what=f"{spec.name} from {spec.weights.path}")
    return model


def _plain(architecture: str) -> tuple[str, bool]:
    name, _, activation = architecture.partition("+")
    return name, bool(activation)


def _config(spec: BackboneSpec) -> dict[str, Any]:
    import open_clip

    config: dict[str, Any] = open_clip.get_model_config(_plain(spec.architecture)[0])
    if "hf_model_name" in config["text_cfg"]:
        raise WeightsError(
            f"{spec.name}: expected a text tower of open_clip's own, found {config['text_cfg']['hf_model_name']}, "
            "whose configuration lies on the hub; take another architecture"
        )
    return config


def _architecture(spec: BackboneSpec) -> nn.Module:
    import open_clip

    config, quick_gelu = _config(spec), _plain(spec.architecture)[1]
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    if "multimodal_cfg" in config:
        kind = open_clip.CoCa
    config["vision_cfg"]["timm_model_pretrained"] = False
    if quick_gelu:
        config["quick_gelu"] = True
    return kind(**config)  # type: ignore[no-any-return]


def _tensors(spec: BackboneSpec, model: nn.Module) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors under open_clip's names; nothing is resampled."""
    from open_clip.convert import convert_state_dict  # type: ignore[import-untyped]
    from open_clip.model import convert_to_custom_text_state_dict  # type: ignore[import-untyped]

    tensors: dict[str, torch.Tensor] = {k: v for k, v in state_dict_of(spec.weights).items() if k not in _COUNTERS}
    tensors = convert_state_dict(model, tensors)
    if "positional_embedding" in tensors and not hasattr(model, "positional_embedding"):
        tensors = convert_to_custom_text_state_dict(tensors)
    wanted = model.state_dict()
    for name in ("logit_scale", "logit_bias"):  # () in some checkpoints, (1,) in others
        if name in tensors and name in wanted and tensors[name].numel() == 1:
            tensors[name] = tensors[name].reshape(wanted[name].shape)
    return tensors


def _published(name: str, published: Mapping[str, Any]) -> Weights:
    repository, _, file = str(published.get("hf_hub", "")).rpartition("/")
    if repository:
        return from_hub(name, repository, (file,) if file else HUB_FILES)
    if url := published.get("url"):
        from featurebank.extract.backbones.torch_hub import fetch_url

        path = fetch_url(url)
        return Weights(sha256=sha256_of(path), path=path, origin=url)
    raise AssetError(f"{name}: expected published weights, found none in open_clip; give checkpoint=")
