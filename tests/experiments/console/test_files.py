"""The folder of results, and what a command leaves in it."""

import pytest

from console.command_line import InputError
from console.files import new_folder, remove_if_empty, write_whole


def test_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty.*notes.txt.*nothing is overwri"):
        new_folder(tmp_path, "backsolve")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_leftover_of_a_killed_start_is_no_content(tmp_path):
    (tmp_path / ".config.json.123.tmp").write_text("{")
    assert new_folder(tmp_path, "backsolve") == tmp_path


def test_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--out .*file/run cannot be written: Not a"):
        new_folder(tmp_path / "file" / "run", "backsolve")


def test_two_runs_in_one_second_get_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "20260101-000000")
    first, second = (new_folder(None, "direct") for _ in range(2))
    assert str(first) == "runs/20260101-000000-direct"
    assert str(second) == "runs/20260101-000000-direct-2"


def test_only_an_empty_folder_is_taken_back(tmp_path):
    folder = new_folder(tmp_path / "run", "backsolve")
    write_whole(folder / "config.json", "{}")
    remove_if_empty(folder)
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    (folder / "config.json").unlink()
    remove_if_empty(folder)
    assert not folder.exists()
