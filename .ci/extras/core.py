"""Without an extra: stores are read and verified, with three packages."""

from pathlib import Path

from toy import absent, rows, stored

from featurebank.store import FeatureStore

absent("torch", "sklearn", "scipy", "PIL", "typer", "yaml", "fsspec", "dask", "hdf5plugin")
stored(Path("store"), "train", 0)
fs = FeatureStore("store").open("toy/train", "tiny")
assert (fs["pooled"] == rows(0)[0]).all()
assert (fs.labels == rows(0)[1]).all()
fs.verify()
