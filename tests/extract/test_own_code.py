"""Objects of one's own in modules and files: found, read anew when changed, and refused in one clear line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from featurebank.extract.own_code import own_object


def test_an_object_of_a_file_or_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_here.py").write_text("WHERE = __file__\n")
    value, module = own_object(f"{tmp_path}/mine_here.py:WHERE")
    assert value == module.__file__ == str(tmp_path / "mine_here.py")
    assert own_object(f"{tmp_path}/mine_here.py:WHERE")[1] is module
    assert sys.modules[module.__name__] is module, "so that its classes can be pickled"
    monkeypatch.syspath_prepend(tmp_path)
    assert own_object("mine_here:WHERE")[1] is not module
    monkeypatch.chdir(tmp_path)
    assert own_object("mine_here.py:WHERE")[1] is module
    del sys.modules["mine_here"], sys.modules[module.__name__]


def test_two_files_of_one_name_and_content_are_two_modules(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text("WHERE = __file__\n")
    places = [own_object(f"{tmp_path}/{folder}/mine.py:WHERE")[0] for folder in "ab"]
    assert places == [str(tmp_path / folder / "mine.py") for folder in "ab"]


def test_a_changed_file_is_read_again_even_within_one_second(tmp_path: Path) -> None:
    values = []
    for value in range(5):
        (tmp_path / "mine.py").write_text(f"VALUE = {value}\n")
        values.append(own_object(f"{tmp_path}/mine.py:VALUE")[0])
    assert values == [0, 1, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"], "no bytecode beside it"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("mine", "expected python:MODULE:NAME or python:FILE.py:NAME, found python:mine"),
        ("mine.py:", "expected python:MODULE:NAME"),
        (":name", "expected python:MODULE:NAME"),
        ("nowhere.py:NAME", r"there is no file .*nowhere\.py"),
        ("nowhere_at_all:NAME", "cannot import nowhere_at_all: No module named .* PYTHONPATH"),
        ("mine.py:OTHER", r"mine\.py has no attribute 'OTHER'"),
        ("broken.py:NAME", r"broken\.py cannot be imported: .*broken\.py, line 1"),
        ("failing.py:NAME", r"failing\.py cannot be imported: No module named 'nowhere_at_all'"),
    ],
)
def test_what_cannot_be_had(place: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("mine", "NAME = 1"), ("broken", "def :"), ("failing", "import nowhere_at_all")):
        (tmp_path / f"{name}.py").write_text(text)
    before = set(sys.modules)
    with pytest.raises(ImportError, match=message):
        own_object(place)
    assert not [name for name in set(sys.modules) - before if "broken" in place or "failing" in place]


def test_another_error_of_the_code_is_shown_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("NAME = 1 / 0")
    with pytest.raises(ZeroDivisionError):
        own_object(f"{tmp_path}/mine.py:NAME")
