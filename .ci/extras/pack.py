"""A set is packed, and read packed."""

from pathlib import Path

from toy import absent, rows, stored

absent("torch", "typer")
with stored(Path("store"), "train", 0).pack("packed.h5") as packed:
    assert (packed["pooled"] == rows(0)[0]).all()
    packed.verify()
