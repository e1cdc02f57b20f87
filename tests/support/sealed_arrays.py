"""Everything in a sealed set that a run determines: all but the provenance."""

from __future__ import annotations

from pathlib import Path

from featurebank.store import FeatureSet

__all__ = ["sealed_arrays"]


def sealed_arrays(store: Path) -> dict[str, bytes]:
    """The bytes of every verified array of a store, by place."""
    made: dict[str, bytes] = {}
    for path in sorted(store.rglob("*.h5")):
        with FeatureSet(path) as found:
            found.verify()
            arrays = {name: found[name] for name in found.outputs}
            arrays |= {"ids": found.ids, "labels": found.labels, "hashes": found.content_hash, "status": found.status}
            place = path.relative_to(store).as_posix()
            made |= {f"{place} {name}": array.tobytes() for name, array in arrays.items()}
            made[f"{place} reasons"] = repr(found.reasons).encode()
    return made
