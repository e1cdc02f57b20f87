"""Images of all threads share a bounded number of bytes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from runs import make_images, open_folder

from featurebank.extract import in_flight
from featurebank.extract.batches import Preparer, Reader, batches
from featurebank.extract.decode import BYTES_PER_PIXEL, decode, decoded
from featurebank.extract.errors import DatasetError, ImageError
from featurebank.extract.preprocessing import Decode, Preprocessing
from featurebank.extract.progress import Clock
from featurebank.extract.transform import Transform

RECORD = Decode()
GEOMETRY = Preprocessing(
    height=24,
    width=24,
    resize_height=24,
    resize_width=24,
    interpolation="bicubic",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    decode=RECORD,
)


def png(side: int) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


def test_c7_all_threads_together_stay_within_the_bytes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    side, holding, most = 64, 0, 0
    monkeypatch.setattr(in_flight, "images", in_flight.Budget(2 * side * side * BYTES_PER_PIXEL, free=0))
    data, lock = png(side), threading.Lock()

    def hold() -> None:
        nonlocal holding, most
        with decoded(data, RECORD):
            with lock:
                holding += 1
                most = max(most, holding)
            time.sleep(0.005)
            with lock:
                holding -= 1

    with ThreadPoolExecutor(12) as pool:
        for done in [pool.submit(hold) for _ in range(24)]:
            done.result()
    assert most == 2


def test_c7_an_image_beyond_the_bytes_there_are_is_decoded_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = in_flight.Budget(1000, free=100)
    monkeypatch.setattr(in_flight, "images", budget)
    data = png(64)
    assert decode(data, RECORD).size == (64, 64)
    with pytest.raises(ImageError):
        decode(data[:60], RECORD)
    with pytest.raises(ZeroDivisionError), decoded(data, RECORD):
        raise ZeroDivisionError
    with budget.share() as small, budget.share() as rest:
        small.take(100)
        rest.take(1000)
        assert (small.nbytes, rest.nbytes) == (0, 1000)


def test_c7_files_are_read_ahead_up_to_a_number_of_bytes_over_all_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = open_folder(make_images(tmp_path / "images", 12))
    split.content_hashes()
    sizes = [len(split.read(row)) for row in range(12)]
    limit = sum(sizes[:5])
    monkeypatch.setattr(in_flight, "encoded", limit)
    record, clock = GEOMETRY, Clock()
    read, prepare = Reader(split, clock, strict=True), Preparer(split, [record], clock, strict=True, pinned=False)
    work = list(batches([(0, 12)], [((0, 12),)], 4))
    for batch in work:
        read(batch)
    held = [raw for batch in work for raw in batch.raw if isinstance(raw, bytes)]
    assert [len(raw) for raw in held] == sizes[:5]
    for batch in work:
        prepare.allocate(batch)
        for row in range(batch.start, batch.stop):
            prepare(batch, row, row + 1)
            assert batch.ahead.nbytes <= limit
        (pixels,) = batch.pixels.values()
        for row in range(batch.start, batch.stop):
            expected = Transform(record)(decode(split.read(row), record.decode))
            assert pixels[row - batch.start].numpy().tolist() == expected.tolist()
        assert batch.raw == [None] * 4
    assert work[0].ahead.nbytes == 0


def test_c7_a_file_that_changes_before_it_is_read_late_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_images(tmp_path / "images", 4)
    split = open_folder(folder)
    split.content_hashes()
    monkeypatch.setattr(in_flight, "encoded", 1)
    (batch,) = batches([(0, 4)], [((0, 4),)], 4)
    Reader(split, Clock(), strict=False)(batch)
    (folder / split.ids[3]).write_bytes(png(8))
    (folder / split.ids[2]).unlink()
    assert batch.content(1) == (folder / split.ids[1]).read_bytes()
    assert batch.content(2) is None
    assert "cannot be read" in batch.failed[2]
    with pytest.raises(DatasetError, match="changed after the run began"):
        batch.content(3)
