"""What a run wants, under which key, and what of it the store already has. Imports no torch: asking is quick."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.contents import Contents, are_likely_there
from featurebank.extract.datasets import label_of
from featurebank.extract.datasets.contract import Split
from featurebank.extract.errors import fault
from featurebank.extract.key import DatasetKey, Precision, StoredType, feature_key
from featurebank.extract.plan import Job
from featurebank.store import CorruptError, FeatureSet, FeatureStore, StoreError
from featurebank.store.fingerprint import fingerprint, is_provisional

__all__ = ["Outcome", "Request", "Wanted", "want"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One feature set that is wanted: a backbone on a split, by position in the list of splits."""

    backbone: BackboneSpec
    split: int


@dataclass(kw_only=True)
class Outcome:
    """What became of a request.

    Attributes:
        backbone: the backbone's name.
        dataset: the store's folder.
        split: of the dataset.
        fingerprint: of the key.
        path: where the sealed file lies or would lie.
        state: ``missing``, ``present`` (was sealed before), ``sealed`` (made now), ``failed`` or ``interrupted``.
        n_rows: records.
        computed: rows that went through the network in this run.
        copied: rows that other sets of the store held already, by their content.
        kept: rows that are committed of a set that could not be sealed.
        failed: row to reason, for images that could not be decoded; also of sets that were sealed before.
        failed_ids: row to the id of its image, for the same rows.
        seconds: busy seconds per stage, of the pass this set was part of.
        images_per_second: of that pass, by the clock on the wall.
        execution: how it was computed: ``eager`` or ``compiled`` and the batch size.
        error: why it failed.
    """

    backbone: str
    dataset: str
    split: str
    fingerprint: str
    path: Path
    state: str = "missing"
    n_rows: int
    computed: int = 0
    copied: int = 0
    kept: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    failed_ids: dict[int, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    images_per_second: float = 0.0
    execution: str = ""
    error: str = ""


@dataclass(kw_only=True)
class Wanted:
    """A request with its key, its place in the store and its part in the plan.

    Attributes:
        request: what is wanted.
        contents: what is known of the contents of its split.
        key: its key; a provisional one for as long as not all contents are known, and so are the outcome's fingerprint
            and path.
        begun: where it lies under the provisional key, if it was begun under that; ``None`` where there is no such key.
        job: its part in the plan, under the fingerprint of the first key that it had.
        outcome: what becomes of it.
    """

    request: Request
    contents: Contents
    key: Mapping[str, Any]
    begun: Path | None
    job: Job
    outcome: Outcome

    @property
    def is_provisional(self) -> bool:
        """Whether its key is."""
        return is_provisional(self.key)

    @property
    def places(self) -> list[Path]:
        """Where its unfinished file may lie, without the ending of such."""
        return list(dict.fromkeys([self.outcome.path, *([] if self.begun is None else [self.begun])]))

    def settle(self) -> None:
        """Gives it the key of its contents, which are all known by now."""
        if self.is_provisional:
            self.key = {**self.key, "dataset": {**self.key["dataset"], "digest": self.contents.digest()}}
            self.outcome.fingerprint = fingerprint(self.key)
            self.outcome.path = self.outcome.path.with_name(f"{self.outcome.fingerprint[:16]}.h5")


def look(outcome: Outcome) -> None:
    """Whether the sealed set is there: its header must be that of the file and of the key."""
    if not outcome.path.exists():
        return
    try:
        with FeatureSet(outcome.path) as found:
            if found.fingerprint != outcome.fingerprint:
                raise CorruptError(
                    f"{outcome.path} must hold the set of fingerprint {outcome.fingerprint}, found that of "
                    f"{found.fingerprint}"
                )
            with contextlib.suppress(StoreError):  # it is `verify` that looks for damage
                outcome.failed = found.reasons
    except Exception as error:
        outcome.state = "failed"
        outcome.error = f"{fault(error)}; what is sealed is never written over: delete it first"
    else:
        outcome.state = "present"


def want(
    requests: Sequence[Request],
    splits: Sequence[Split],
    store: FeatureStore,
    *,
    precision: Precision,
    dtype: StoredType = "float16",
    digests: Mapping[int, str] | None = None,
    read_once: bool = False,
) -> list[Wanted]:
    """The key of every request, and whether the store has it. A request that is made twice is wanted once.

    Contents that are not known are read now, for the key; or they are read once, by the run that decodes them, and
    until then the key is a provisional one. That is for splits whose files tell by their stamps whether they are known
    (`Stamped`), and where nothing speaks for some of the images being in the store already.

    Args:
        requests: what is wanted, in the order in which it shall be reported.
        splits: the opened splits the requests point into.
        store: where the sets are looked up.
        precision: the arithmetic of the networks; part of the key.
        dtype: what is stored; part of the key.
        digests: `dataset_digest` of the splits, where it is known already.
        read_once: whether a key may be provisional until all contents are read.
    """
    contents = {index: Contents(splits[index]) for index in sorted({request.split for request in requests})}
    names = {index: (label_of(splits[index].spec), splits[index].spec.split) for index in contents}
    known = dict(digests or {})
    for index, content in contents.items():
        if index in known:
            content.read()
        else:
            folders = [store.path_for(*names[index], r.backbone.name, "0" * 64) for r in requests if r.split == index]
            first = not read_once or content.nearly_whole
            if first or any(are_likely_there(path, splits[index].ids) for path in dict.fromkeys(folders)):
                content.read()
            known[index] = content.digest() if content.whole else content.stand_in
    found: dict[str, Wanted] = {}
    for request in requests:
        split, spec = splits[request.split], request.backbone
        name, part = names[request.split]
        dataset = DatasetKey(name=name, split=part, digest=known[request.split], subset=split.spec.subset)
        key = feature_key(spec, dataset, precision=precision, dtype=dtype)
        begun = None
        if stand_in := contents[request.split].stand_in:
            standing = feature_key(spec, replace(dataset, digest=stand_in), precision=precision, dtype=dtype)
            begun = store.path_for(name, part, spec.name, fingerprint(standing))
        digest = fingerprint(key)
        path = store.path_for(dataset.name, dataset.split, spec.name, digest)
        outcome = Outcome(
            backbone=spec.name,
            dataset=dataset.name,
            split=dataset.split,
            fingerprint=digest,
            path=path,
            n_rows=len(split),
        )
        look(outcome)
        job = Job(
            fingerprint=digest,
            backbone=fingerprint({"backbone": key["backbone"], "preprocessing": key["preprocessing"]}),
            split=request.split,
            decode=spec.preprocessing.decode,
            n_rows=len(split),
        )
        one = Wanted(request=request, contents=contents[request.split], key=key, begun=begun, job=job, outcome=outcome)
        found.setdefault(digest, one)
    return list(found.values())
