"""A set on a server is read, and checked."""

from importlib.util import find_spec
from pathlib import Path

import fsspec
from toy import absent, rows, stored

from featurebank.store import FeatureSet

assert find_spec("aiohttp")
absent("torch", "typer")
fs = stored(Path("store"), "train", 0)
fsspec.filesystem("memory").pipe("/toy.h5", fs.path.read_bytes())
with FeatureSet("memory://toy.h5", verify="first_touch") as far:
    assert (far["pooled"] == rows(0)[0]).all()
