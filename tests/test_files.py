"""Tests of output files: refused if they exist, nothing under the final name until it is complete."""

import os
from pathlib import Path

import pytest

from mtl_hf.files import atomic_file, atomic_folder, check_file, check_folder, write_atomic


def test_a_file_that_exists_is_refused_unless_it_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    check_file(path, "--to")
    path.write_text("old")
    with pytest.raises(ValueError, match=r"`--to` is .*answers.jsonl, which exists: .* --overwrite"):
        check_file(path, "--to")
    check_file(path, "--to", overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_or_a_pipe_is_never_replaced_by_a_file(tmp_path: Path, overwrite: bool) -> None:
    with pytest.raises(ValueError, match="which is a folder"):
        check_file(tmp_path, "--to", overwrite=overwrite)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        check_file(tmp_path / "pipe", "--to", overwrite=overwrite)


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    assert check_folder(tmp_path / "new", "to") == tmp_path / "new"
    assert check_folder(tmp_path, "to") == tmp_path  # empty
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match=r"`to` is .* not empty"):
            check_folder(path, "to")


def test_a_file_has_its_name_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.jsonl"
    with atomic_file(path) as draft:
        draft.write_text("half")
        assert not path.exists()
    assert [found.name for found in path.parent.iterdir()] == ["answers.jsonl"]
    with pytest.raises(UnicodeEncodeError), atomic_file(path) as draft:
        draft.write_text("no ASCII: é", encoding="ascii")
    assert path.read_text() == "half"
    assert [found.name for found in path.parent.iterdir()] == ["answers.jsonl"]


def test_the_file_that_a_link_names_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_atomic(tmp_path / "link", "Text é")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text(encoding="utf-8") == "Text é"


def test_a_folder_has_its_name_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "a" / "model"
    (tmp_path / "a" / ".model.draft").mkdir(parents=True)  # of a process that was killed
    (tmp_path / "a" / ".model.draft" / "old").write_text("")
    with atomic_folder(path) as draft:
        (draft / "config.json").write_text("{}")
        assert not path.exists()
    assert [found.name for found in path.iterdir()] == ["config.json"]
    other = tmp_path / "empty"
    other.mkdir()
    with pytest.raises(UnicodeEncodeError), atomic_folder(other) as draft:
        (draft / "config.json").write_text("no ASCII: é", encoding="ascii")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a", "empty"]
    assert not any(other.iterdir())
    with atomic_folder(other) as draft:
        (draft / "config.json").write_text("{}")
    assert (other / "config.json").is_file()
