"""The runner of the benchmarks, on a folder of made-up scripts."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from checkout import ROOT, loaded

LINE = '{"name": "%s", "ours": 2.0, "reference": 8.0, "ratio": 0.25, "unit": "s", "bound": "at most 0.5"}'


@pytest.fixture(scope="module")
def run_all() -> ModuleType:
    return loaded(ROOT / "benchmarks" / "run_all.py")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scripts = {
        "broken": "import sys; sys.exit('no such store')",
        "good": f"print('{{not JSON'); print('{LINE % 'open'}'); print('{LINE % 'rows'}')",
        "silent": "print('{}'); print('measured nothing')",
    }
    for name, text in scripts.items():
        (tmp_path / f"{name}.py").write_text(f'if __name__ == "__main__":\n    {text}\n')
    (tmp_path / "shared.py").write_text("raise SystemExit('shared code is no benchmark')")
    return tmp_path


def test_every_script_runs_and_the_table_tells_the_failed_ones(
    run_all: ModuleType, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_all.main([], folder) == 1
    captured = capfd.readouterr()
    rows = [line.split() for line in captured.out.splitlines()[-5:]]
    assert rows[0] == ["benchmark", "name", "ours", "reference", "ratio", "unit", "bound"]
    assert rows[1] == ["broken", "FAILED", "(exit", "status", "1)"]
    assert rows[2] == ["good", "open", "2", "8", "0.25", "s", "at", "most", "0.5"]
    assert rows[3] == ["good", "rows", "2", "8", "0.25", "s", "at", "most", "0.5"]
    assert rows[4] == ["silent", "FAILED", "(no", "result", "line)"]
    assert "measured nothing" in captured.out
    assert "no such store" in captured.err


def test_one_script_can_be_chosen(run_all: ModuleType, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_all.main(["good"], folder) == 0
    assert "measured nothing" not in capfd.readouterr().out


def test_a_script_that_this_machine_cannot_run_has_not_failed(
    run_all: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = '{"name": "decode", "skipped": "no GPU"}'
    (tmp_path / "gpu.py").write_text(f'if __name__ == "__main__":\n    print({line!r})\n')
    assert run_all.main([], tmp_path) == 0
    assert capfd.readouterr().out.splitlines()[-1].split() == ["gpu", "decode:", "no", "GPU"]


def test_an_unknown_name_is_answered_with_the_nearest(
    run_all: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_all.main(["god"], folder)
    assert stopped.value.code == 2
    assert "one of broken, good, silent; got god; did you mean good?" in capsys.readouterr().err
