"""Which layer each parameter of a network belongs to, for learning rates that fall from the last layer to the first.

**One rule, whatever library built the network.** Depth 0 is the stem: patch or first convolutions, tokens and position
embeddings. Depths 1 … L - 1 are the network's blocks in forward order, one each: a residual block (ResNet, ConvNeXt,
EfficientNet, WaveMix), a transformer block, a dense layer, an Inception module, a ResNet block of a diffusion network
with its attention. What makes the maps smaller between two blocks belongs to the second. Depth L is the head: final
norm, pooling, projection and classifier. It is counted where a network has no parameter there, because fine-tuning puts
a classifier on every network: a ResNet-50 has 16 blocks and L = 17, with its classifier or without.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurebank.extract.backbones.network import FrozenNetwork

__all__ = ["decayed_rates", "layer_groups"]

Key = tuple[int, ...]
Matcher = Mapping[str, str | Sequence[tuple[str, Key | None]]]

_STEM, _HEAD = (0,), (sys.maxsize,)
_PREVIOUS = (99999,)  # timm's mark of what it counts with the block before: here, what stands between blocks
_STAGES_OF_FEATURES = {"stem": r"features\.0\.", "blocks": r"features\.([1357])\.(\d+)"}
_LAYERS = r"layer(\d+)\.(\d+)"

_MATCHERS: Mapping[str, Matcher] = {
    "timm.VisionTransformerSAM": {"stem": "pos_embed|patch_embed|norm_pre", "blocks": r"blocks\.(\d+)"},
    "torchvision.ConvNeXt": _STAGES_OF_FEATURES,
    "torchvision.DenseNet": {
        "stem": r"features\.(?:conv|norm)0",
        "blocks": r"features\.denseblock(\d+)\.denselayer(\d+)",
    },
    "torchvision.EfficientNet": {"stem": r"features\.0\.", "blocks": r"features\.(\d+)\.(\d+)\.block"},
    "torchvision.Inception3": {"stem": "Conv2d", "blocks": r"Mixed_(\d)([a-e])", "head": "AuxLogits"},
    "torchvision.MobileNetV2": {"stem": r"features\.0\.", "blocks": r"features\.(\d+)\.conv"},
    "torchvision.MobileNetV3": {"stem": r"features\.0\.", "blocks": r"features\.(\d+)\.block"},
    "torchvision.RegNet": {"stem": "stem", "blocks": r"trunk_output\.block(\d+)\.block\d+-(\d+)"},
    "torchvision.ResNet": {"stem": "conv1|bn1", "blocks": _LAYERS},
    "torchvision.ShuffleNetV2": {"stem": "conv1", "blocks": r"stage(\d+)\.(\d+)"},
    "torchvision.SqueezeNet": {"stem": r"features\.0\.", "blocks": r"features\.(\d+)\.(?:squeeze|expand)"},
    "torchvision.SwinTransformer": _STAGES_OF_FEATURES,
    "torchvision.VisionTransformer": {
        "stem": r"class_token|conv_proj|encoder\.pos_embedding",
        "blocks": r"encoder\.layers\.encoder_layer_(\d+)",
    },
    "open_clip.ModifiedResNet": {"stem": r"(?:conv|bn)\d", "blocks": _LAYERS},
    "open_clip.VisionTransformer": {
        "stem": "class_embedding|positional_embedding|conv1|ln_pre",
        "blocks": r"transformer\.resblocks\.(\d+)",
    },
    "featurebank.WaveMix": {"stem": "conv", "blocks": r"layers\.(\d+)"},
    "featurebank.DiffusionEncoder": {
        "stem": r"vae\.encoder\.conv_in",
        "vae": r"vae\.encoder\.down_blocks\.(\d+)\.resnets\.(\d+)",
        "vae_mid": r"vae\.encoder\.mid_block",
        "down": r"unet\.down_blocks\.(\d+)\.(?:resnets|attentions)\.(\d+)",
        "mid": r"unet\.mid_block",
        "up": r"unet\.up_blocks\.(\d+)\.(?:resnets|attentions)\.(\d+)",
    },
    "transformers": {
        "stem": "embed|pre_layrnorm",
        "blocks": [
            (r"encoder\.layers\.(\d+)\.blocks\.(\d+)", None),
            (r"encoder\.stages\.(\d+)\.layers\.(\d+)", None),
            (r"(?:\w+\.)?layers?\.(\d+)\.(?!downsample)", None),
        ],
    },
}  # fmt: skip


def layer_groups(network: FrozenNetwork, matcher: Matcher | None = None) -> tuple[tuple[str, ...], ...]:
    """The names of a network's parameters by depth, as ``named_parameters`` has them: stem, blocks, head.

    Args:
        network: as built; where it is kept, and whether it takes gradients, does not matter.
        matcher: for a network of one's own or of another library, patterns in the form of timm's ``group_matcher``:
            ``{"stem": PATTERN, "blocks": PATTERN}``, matched at the beginning of a name within the backbone, where the
            groups of ``blocks`` number the block. Not given: timm's own, or that of this module for the architecture.

    Returns:
        L + 1 tuples, each parameter in exactly one; only the last may be empty.

    Raises:
        ValueError: the architecture is not known, or a parameter is in no layer; both name the parameters.

    >>> from featurebank.extract.backbones import build, resolve
    >>> groups = layer_groups(build(resolve("timm:resnet18@random")))
    >>> len(groups), groups[-1]
    (10, ('backbone.fc.weight', 'backbone.fc.bias'))
    """
    names = [name for name, _ in network.named_parameters()]
    trunk, prefix = getattr(network.backbone, "trunk", network.backbone), "backbone."
    if trunk is not network.backbone:
        prefix += "trunk."
    key = _key_of(_matcher_of(network, trunk, names) if matcher is None else matcher)
    # A part that inference keeps in float32 is one level further down.
    places = [name.removeprefix(prefix).replace(".part.", ".") if name.startswith(prefix) else None for name in names]
    keys = [None if place is None else key(place) for place in places]
    blocks = sorted({found for found in keys if found is not None and found not in (_STEM, _HEAD)})
    head = len(blocks) + 1
    depth_of = {_STEM: 0, _HEAD: head} | {found: depth for depth, found in enumerate(blocks, start=1)}
    groups: list[list[str]] = [[] for _ in range(head + 1)]
    next_block = head
    for name, found in zip(reversed(names), reversed(keys), strict=True):
        depth = next_block if found is None else depth_of[found]
        next_block = depth if 0 < depth < head else next_block
        groups[depth].append(name)
    first = next((at for at, found in enumerate(keys) if found in blocks), len(keys))
    lost = [name for name, found in zip(names[:first], keys, strict=False) if found is None]
    if lost or not blocks or not groups[0]:
        raise ValueError(
            f"{network.spec.name}: expected a stem, blocks and every parameter in one of them, found {len(blocks)} "
            f"blocks, {len(groups[0])} parameters in the stem, and in none of them: {_listed(lost)}; "
            "give matcher={'stem': PATTERN, 'blocks': PATTERN}"
        )
    return tuple(tuple(reversed(group)) for group in groups)


def decayed_rates(
    groups: Sequence[object], rate: float, decay: float, *, steps: float | None = None
) -> tuple[float, ...]:
    """The learning rate of each group: ``rate`` for the head, ``decay`` times the next group's for the others.

    This is rate x decay^(L - depth), as fine-tuning of BEiT (Bao et al. 2022, arXiv:2106.08254) and MAE has it. There
    the stem's rate depends on how many blocks a network has: at 0.75, a ViT-B's stem learns at 0.024 of the rate and a
    ConvNeXt-B's, three times as deep, at 0.00002. ``steps`` compares backbones fairly: the stem's rate is
    rate x decay^steps for all of them, and depths between lie evenly; 13 is what a ViT-B has anyway.

    Args:
        groups: of `layer_groups`.
        rate: above 0.
        decay: above 0, at most 1.
        steps: how many times the decay is applied from the head down to the stem; L if not given.

    Raises:
        ValueError: a number out of range, or fewer than two groups.

    >>> [round(value, 3) for value in decayed_rates(["stem", "block", "head"], 0.1, 0.5)]
    [0.025, 0.05, 0.1]
    >>> [round(value, 3) for value in decayed_rates(["stem", "block", "head"], 0.1, 0.5, steps=4)]
    [0.006, 0.025, 0.1]
    """
    last = len(groups) - 1
    if last < 1:
        raise ValueError(f"expected at least two groups of parameters, found {len(groups)}: no rate could fall")
    total = float(last if steps is None else steps)
    for name, value, top in (("rate", rate, math.inf), ("decay", decay, 1.0), ("steps", total, math.inf)):
        if not (0 < value <= top and math.isfinite(value)):
            raise ValueError(f"{name} must be above 0 and {'finite' if top > 1 else 'at most 1'}, found {value!r}")
    return tuple(rate * decay ** (total * (last - depth) / last) for depth in range(last + 1))


def _matcher_of(network: FrozenNetwork, trunk: Any, names: Sequence[str]) -> Matcher:
    for part in (network, trunk):
        library = type(part).__module__.partition(".")[0]
        known = _MATCHERS.get(f"{library}.{type(part).__name__}", _MATCHERS.get(library))
        if known is not None:
            return known
    found = trunk.group_matcher(coarse=False) if hasattr(trunk, "group_matcher") else None
    if not isinstance(found, Mapping):
        raise ValueError(
            f"{network.spec.name}: expected an architecture whose layers are known, found {type(trunk).__name__} with "
            f"{_listed(names)}; give matcher={{'stem': PATTERN, 'blocks': PATTERN}}"
        )
    return found


def _key_of(matcher: Matcher) -> Callable[[str], Key | None]:
    """From a name to what its layer is sorted by; ``None`` where its place among the others tells."""
    rules: list[tuple[Key, re.Pattern[str], Key | None]] = []
    for ordinal, (part, of) in enumerate(matcher.items()):
        for pattern, suffix in [(of, None)] if isinstance(of, str) else of:
            rules.append((_HEAD if part == "head" else (ordinal,), re.compile(pattern), suffix))

    def key(name: str) -> Key | None:
        for part, pattern, suffix in rules:
            match = pattern.match(name)
            if match:
                numbers = (int(group, 36) for group in match.groups() if group is not None)  # "5b" as "5", "b"
                return None if suffix == _PREVIOUS else (*part, *numbers, *(suffix or ()))
        return None

    return key


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    return f"{', '.join(shown[:5]) or 'no parameters'}{more}"
