"""``hub:NAME`` and ``url:ARCHITECTURE=ADDRESS``: checkpoints that no library loads, by address and digest.

``hub:facebookresearch/dino/dino_resnet50`` names a checkpoint as its authors' torch.hub entry does; the zoo says where
it lies, which tensors of it are the network's and what they expect. Nothing of the authors' code is run.
``url:resnet50=https://example.org/w.pth#<sha256>`` is any checkpoint for an architecture of timm, preprocessed as that.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

from featurebank.extract.assets import sha256_of
from featurebank.extract.backbones import adapters, layouts, zoo
from featurebank.extract.backbones.checkpoint import load_strictly, state_dict_of
from featurebank.extract.backbones.checkpoint_fitting import classifier_of, load_fitting
from featurebank.extract.backbones.contract import BackboneSpec, Network, Weights
from featurebank.extract.backbones.keys import conversion_of, select
from featurebank.extract.backbones.naming import checked_outputs, given_weights, random_seed, split_random
from featurebank.extract.backbones.torch_hub import fetch_url
from featurebank.extract.errors import AssetError
from featurebank.store.addresses import without_secrets
from featurebank.store.errors import UnknownNameError, unknown_name

__all__ = ["HubSource", "UrlSource", "build_checkpoint", "cache_name"]

log = logging.getLogger("featurebank")

_URL = re.compile(r"url:(?P<architecture>[^=]+)=(?P<url>https?://[^#\s]+)(?:#(?P<sha256>[0-9a-f]{64}))?")


class HubSource:
    """Checkpoints of the zoo's table that lie behind plain addresses; see `Backbone` for what the methods promise."""

    prefix = "hub:"

    def names(self) -> Sequence[str]:
        """Those of the table."""
        return [entry.reference for entry in zoo.entries().values() if entry.source == "hub"]

    def resolve(
        self, name: str, *, checkpoint: Path | None = None, outputs: Sequence[str] | None = None
    ) -> BackboneSpec:
        """The spec behind a name; see `Backbone.resolve`."""
        base, seed = split_random(name)
        entry = self._entry(base)
        weights = given_weights(name, seed, checkpoint) or _fetched(name, entry.checkpoint, entry.sha256)
        return BackboneSpec(
            name=name,
            source="hub",
            architecture=entry.architecture,
            weights=weights,
            preprocessing=entry.preprocessing,
            outputs=checked_outputs(name, outputs, ("pooled",)),
            adapter=entry.keys,
        )

    def build(self, spec: BackboneSpec) -> Network:
        """The network behind a spec; see `Backbone.build`."""
        return build_checkpoint(spec)

    def describe(self, name: str) -> Mapping[str, object]:
        """Where it lies."""
        return {"origin": self._entry(split_random(name)[0]).checkpoint}

    def _entry(self, name: str) -> zoo.ZooEntry:
        entry = zoo.find(name)
        if entry is None or entry.reference != name:
            raise unknown_name("backbone", name, self.names())
        return entry


class UrlSource:
    """Any checkpoint of a timm architecture by its address; see `Backbone` for what the methods promise."""

    prefix = "url:"

    def names(self) -> Sequence[str]:
        """None: they cannot be listed."""
        return []

    def resolve(
        self, name: str, *, checkpoint: Path | None = None, outputs: Sequence[str] | None = None
    ) -> BackboneSpec:
        """The spec behind a name; see `Backbone.resolve`."""
        from timm.models import get_pretrained_cfg

        from featurebank.extract.backbones.timm_source import preprocessing_of

        base, seed = split_random(name)
        architecture, url, sha256 = _parts(base)
        # What may be a secret is for the server alone: names stand in keys, folders and reports.
        name = name.replace(url, without_secrets(url))
        cfg = get_pretrained_cfg(architecture)
        if cfg is None:
            raise UnknownNameError(f"{name}: expected an architecture of timm before '=', found {architecture!r}")
        weights = given_weights(name, seed, checkpoint) or _fetched(name, url, sha256)
        return BackboneSpec(
            name=name,
            source="url",
            architecture=architecture,
            weights=weights,
            preprocessing=preprocessing_of(asdict(cfg)),
            outputs=checked_outputs(name, outputs, ("pooled",)),
            adapter="*",
        )

    def build(self, spec: BackboneSpec) -> Network:
        """The network behind a spec; see `Backbone.build`."""
        return build_checkpoint(spec)

    def describe(self, name: str) -> Mapping[str, object]:
        """Where it lies."""
        return {"origin": without_secrets(_parts(split_random(name)[0])[1])}


def build_checkpoint(spec: BackboneSpec) -> Network:
    """The network of ``spec.architecture`` with those tensors of the checkpoint that ``spec.adapter`` says.

    Raises:
        AssetError: the file is missing or has another digest.
        WeightsError: a tensor is missing, left over or of another shape.
        UnknownNameError: an output the network does not have.
    """
    from featurebank.extract.backbones.architectures import architecture, network_of, parse_call
    from featurebank.extract.backbones.network import seeded
    from featurebank.extract.backbones.timm_source import size_arguments

    size = size_arguments(parse_call(spec.architecture)[0], spec.preprocessing)
    with seeded(random_seed(spec.weights) or 0):
        model = architecture(spec.architecture, **size)
    if random_seed(spec.weights) is None:
        tensors = select(state_dict_of(spec.weights), spec.adapter)
        what = f"{spec.name} from {spec.weights.path}"
        if conversion := conversion_of(spec.adapter):
            load_strictly(model, layouts.BY_NAME[conversion](tensors, model), what=what)
        else:
            load_fitting(
                model,
                tensors,
                what=what,
                outputs=spec.outputs,
                heads=classifier_of(model),
                convert=lambda some: adapters.foreign_timm(some, model, spec.weights.path, resized=bool(size)),
            )
    return network_of(spec, model)


def cache_name(url: str) -> str:
    """What torch's cache calls the file behind an address: ``resnet50.pth`` of two authors are two files.

    >>> cache_name("https://example.org/a/resnet50.pth"), cache_name("https://example.org/b/resnet50.pth")
    ('a074fceb-resnet50.pth', '6d15331d-resnet50.pth')
    """
    return f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{PurePosixPath(urlparse(url).path).name}"


def _fetched(name: str, url: str, sha256: str) -> Weights:
    """The file behind an address, with the digest that is known, or that it had when it was first fetched."""
    path = fetch_url(url, cache_name(url))
    found = sha256_of(path)
    noted = path.with_name(f"{path.name}.sha256")
    if not sha256 and noted.exists():
        sha256 = noted.read_text("utf-8").strip()
    if not found.startswith(sha256):
        raise AssetError(f"{name}: {path}: expected SHA-256 {sha256}, found {found}; delete it to fetch it again")
    if not sha256:
        log.info("%s: no digest is published for %s; it is SHA-256 %s from here on", name, path.name, found)
        noted.write_text(f"{found}\n", "utf-8")
    return Weights(sha256=found, path=path, origin=without_secrets(url))


def _parts(name: str) -> tuple[str, str, str]:
    match = _URL.fullmatch(name)
    if match is None:
        raise UnknownNameError(
            f"unknown backbone {without_secrets(name)!r}; expected url:ARCHITECTURE=https://HOST/FILE, with #SHA256 "
            f"where it is known"
        )
    return match["architecture"], match["url"], match["sha256"] or ""
