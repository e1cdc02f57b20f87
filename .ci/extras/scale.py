"""Outputs as dask arrays."""

from pathlib import Path

from toy import absent, rows, stored

absent("torch", "typer")
fs = stored(Path("store"), "train", 0)
assert (fs.to_dask("pooled").compute() == rows(0)[0]).all()
