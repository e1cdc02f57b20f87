"""What backbones are called where several networks of one name lie in a store: ``resnet18[run_a]``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from featurebank.store.fingerprint import fingerprint

__all__ = ["LABEL", "Network", "names_of", "network_of"]

LABEL = r"[\w.+-]{1,64}"
_CHECKPOINT = re.compile(r"(?:.*[/\\])?([^/\\]+)\.(?:pth|pt|th|ckpt|bin|safetensors|npz|npy|onnx|tar)")


@dataclass(frozen=True, kw_only=True)
class Network:
    """What tells networks apart.

    Attributes:
        backbone: the backbone's name.
        weights: the digest of its weights.
        label: what its user calls it; may be empty.
        checkpoint: the name of its weights' file without the ending; empty where they are of no such file.
    """

    backbone: str
    weights: str
    label: str = ""
    checkpoint: str = ""

    @property
    def place(self) -> tuple[str, str]:
        """Name and weights."""
        return self.backbone, self.weights


def network_of(backbone: str, key: Mapping[str, Any], provenance: Mapping[str, Any]) -> Network:
    """The network of a feature set; what is odd there is as good as absent.

    >>> key, made = {"backbone": {"weights": "ab"}}, {"weights_origin": "run a.pth"}
    >>> network_of("resnet18", key, made).checkpoint
    'run_a'
    """
    part = key.get("backbone")
    weights = part.get("weights", "") if isinstance(part, Mapping) else ""
    label, origin = provenance.get("label"), provenance.get("weights_origin")
    file = _CHECKPOINT.fullmatch(origin) if isinstance(origin, str) else None
    return Network(
        backbone=backbone,
        weights=weights if isinstance(weights, str) else "",
        label=label if isinstance(label, str) and re.fullmatch(LABEL, label) else "",
        checkpoint=re.sub(r"[^\w.+-]", "_", file[1])[:64] if file else "",
    )


def names_of(networks: Iterable[Network]) -> dict[tuple[str, str], str]:
    """Name and weights to what each network is called among these.

    That is its name, with its label if it has one; where others have its name too, with the name of its checkpoint's
    file; and where that tells nothing apart, with the beginning of a digest. Labels are of the last that has one.

    >>> a, b = (Network(backbone="resnet18", weights=w, checkpoint=f"run_{w}") for w in "ab")
    >>> names_of([a]), names_of([a, b])
    ({('resnet18', 'a'): 'resnet18'}, {('resnet18', 'a'): 'resnet18[run_a]', ('resnet18', 'b'): 'resnet18[run_b]'})
    """
    labels: dict[tuple[str, str], str] = {}
    checkpoints: dict[tuple[str, str], str] = {}
    for one in networks:
        labels[one.place] = one.label or labels.get(one.place, "")
        checkpoints[one.place] = one.checkpoint or checkpoints.get(one.place, "")
    several = Counter(backbone for backbone, _ in labels)
    called: dict[tuple[str, str], str] = {}
    for place, label in labels.items():
        mark = label or (checkpoints[place] if several[place[0]] > 1 else "")
        called[place] = f"{place[0]}[{mark}]" if mark else place[0]
    # A name may also be another backbone's own, brackets and all.
    taken = Counter([*called.values(), *(several.keys() - {*called.values()})])
    return {place: name if taken[name] == 1 else f"{place[0]}[{_short(place[1])}]" for place, name in called.items()}


def _short(weights: str) -> str:
    return (weights if re.fullmatch("[0-9a-f]{64}", weights) else fingerprint({"weights": weights}))[:8]
