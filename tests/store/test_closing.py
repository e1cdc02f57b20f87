"""Closing while another thread writes or reads: what it does goes to, or comes from, this file and no other."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_sets import FAILED_ROW, N_ROWS, REASON, fill, make_records, make_values, make_writer

from featurebank.store import FeatureSet, FeatureSetWriter, InvalidInputError, Output


def while_it_waits(
    monkeypatch: pytest.MonkeyPatch, call: str, work: Callable[[], Any], meanwhile: Callable[[], None]
) -> list[Any]:
    """Runs ``work`` in a thread, and ``meanwhile`` when it has come to that system call but not made it."""
    own, reached, released, outcome = getattr(os, call), threading.Event(), threading.Event(), []
    thread = threading.Thread(target=lambda: outcome.append(_result(work)))

    def waiting(*given: Any) -> Any:
        if threading.current_thread() is thread:
            reached.set()
            released.wait(10)
        return own(*given)

    monkeypatch.setattr(os, call, waiting)
    thread.start()
    assert reached.wait(10)
    meanwhile()
    released.set()
    thread.join()
    monkeypatch.undo()
    return outcome


def _result(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        return error


def test_f5_a_chunk_in_flight_goes_into_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, values = make_writer(tmp_path / "demo.h5"), make_values()["pooled"][:32]
    others: list[int] = []

    def meanwhile() -> None:
        writer.close()
        # The numbers of descriptors are given again, the lowest first.
        others.extend(os.open(tmp_path / f"other{n}", os.O_RDWR | os.O_CREAT) for n in range(8))

    outcome = while_it_waits(monkeypatch, "pwrite", lambda: writer.write_chunk("pooled", 0, values), meanwhile)
    assert outcome == [None]
    assert [os.fstat(fd).st_size for fd in others] == [0] * 8
    for fd in others:
        os.close(fd)
    assert values.tobytes() in writer.partial_path.read_bytes()
    with pytest.raises(InvalidInputError, match="is closed; resume to go on writing"):
        writer.write_chunk("pooled", 0, values)
    with FeatureSetWriter.resume(tmp_path / "demo.h5") as resumed:
        assert resumed.pending("pooled").all()


def test_f5_rows_in_flight_come_from_no_other_file(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fs, expected = FeatureSet(sealed), make_values()["pooled"]
    others: list[int] = []

    def meanwhile() -> None:
        fs.close()
        for n in range(8):
            (path := sealed.with_name(f"other{n}")).write_bytes(b"\x01" * sealed.stat().st_size)
            others.append(os.open(path, os.O_RDONLY))

    (loaded,) = while_it_waits(monkeypatch, "preadv", lambda: fs.load("pooled"), meanwhile)
    for fd in others:
        os.close(fd)
    np.testing.assert_array_equal(loaded, expected)


def test_f5_many_threads_and_a_close(tmp_path: Path) -> None:
    values = make_values()
    for attempt in range(2):
        writer = make_writer(tmp_path / f"{attempt}.h5")
        outcomes: list[Any] = []

        def write(writer: FeatureSetWriter = writer) -> None:
            while True:
                writer.write_chunk("pooled", 0, values["pooled"][:32])
                writer.commit()

        def run(write: Callable[[], None] = write, outcomes: list[Any] = outcomes) -> None:
            outcomes.append(_result(write))

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        writer.close()
        other = make_writer(tmp_path / f"{attempt}-other.h5")
        for thread in threads:
            thread.join()
        assert {type(error) for error in outcomes} == {InvalidInputError}
        fill(other, values)
        with other.seal() as fs:
            assert fs.verify().ok


def test_f6_marking_rows_costs_their_number(tmp_path: Path) -> None:
    """Counted in steps: each of many ranges looks at its own rows, not at every row that has failed."""
    n, steps = 2000, 0
    writer = make_writer(
        tmp_path / "demo.h5", records=make_records(n), outputs=[Output(name="pooled", shape=(4,))], head=None
    )
    with writer:
        for row in range(n):
            writer.mark_failed(row, "odd")

        class Counted(np.ndarray[Any, Any]):
            def __getitem__(self, index: Any) -> Any:
                nonlocal steps
                found = super().__getitem__(index)
                steps += np.size(found)
                return found

            def __iter__(self) -> Any:
                nonlocal steps
                steps += len(self)
                return super().__iter__()

        writer._with_reason = writer._with_reason.view(Counted)
        for row in range(n):
            writer.mark_ok(row, row + 1)
    assert steps <= 4 * n
    with FeatureSetWriter.resume(tmp_path / "demo.h5") as resumed:
        assert (resumed.status == 1).all()
        assert not resumed._with_reason.any()


def test_f6_a_row_that_failed_and_then_did_not_has_no_reason(tmp_path: Path) -> None:
    with make_writer(tmp_path / "demo.h5") as writer:
        fill(writer, make_values())
        for row in (3, 4, N_ROWS - 1):
            writer.mark_failed(row, f"reason {row}")
        writer.mark_ok(0, 4)
        with writer.seal() as fs:
            assert fs.reasons == {4: "reason 4", FAILED_ROW: REASON, N_ROWS - 1: f"reason {N_ROWS - 1}"}
