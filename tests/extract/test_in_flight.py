"""Images of all threads share a bounded number of bytes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest
from PIL import Image

from featurebank.extract import in_flight
from featurebank.extract.decode import BYTES_PER_PIXEL, decode, decoded
from featurebank.extract.errors import ImageError
from featurebank.extract.preprocessing import Decode

RECORD = Decode()


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
