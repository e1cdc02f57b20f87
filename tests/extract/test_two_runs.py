"""Two runs on one key at once: one writes, the other does what is left, and waits for the rest."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path
from typing import Any

import pytest
from racing import PATIENCE, race
from runs import RESNET, VIT, make_images, open_folder, run, wanted_sets
from sealed_arrays import sealed_arrays

from featurebank.extract.device import Execution
from featurebank.extract.engine import extract
from featurebank.store import FeatureSetWriter


@pytest.mark.slow
def test_two_processes_write_no_chunk_twice(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", 300)
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    logs = [tmp_path / "log0", tmp_path / "log1"]
    orders = [[VIT, RESNET], [RESNET, VIT]]
    processes = [
        context.Process(target=race, args=(images, tmp_path / "store", log, start, names))
        for log, names in zip(logs, orders, strict=True)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
        process.close()
    written = [line for log in logs if log.exists() for line in log.read_text().splitlines()]
    assert len(written) == len(set(written)) > 10
    assert not list((tmp_path / "store").rglob("*.partial"))
    run(tmp_path / "alone", open_folder(images), [VIT, RESNET])
    assert sealed_arrays(tmp_path / "store") == sealed_arrays(tmp_path / "alone")


def test_a_run_waits_and_takes_over_what_the_other_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = open_folder(make_images(tmp_path / "images", 20))

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FeatureSetWriter, "write_chunk", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "store", split, [VIT])
    (partial,) = (tmp_path / "store").rglob("*.partial")
    other = FeatureSetWriter.resume(partial.with_suffix(""))
    leave = threading.Timer(1.0, other.close)
    leave.start()
    notes: list[str] = []
    outcome = extract(
        wanted_sets(tmp_path / "store", split, [VIT]),
        [split],
        execution=Execution(device="cpu", compile="never", batch_size=8),
        observer=lambda snapshot: notes.append(snapshot.note),
    )[0]
    leave.join()
    # Kept is all but the batch that made a chunk whole, whose first output could not be written.
    assert outcome.state == "sealed"
    assert outcome.computed in (4, 8)
    assert any(note.startswith("waiting for another run") for note in notes)
