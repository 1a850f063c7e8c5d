"""Files that are whole or not there."""

import pytest

from lightning_xai.functional.files import atomic_write


def test_writes_text_and_bytes_and_makes_the_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "table.csv"
    with atomic_write(path) as file:
        file.write("Zelle ä\r\n")
    assert path.read_bytes() == "Zelle ä\r\n".encode(), "UTF-8, and no newline of the platform's"
    with atomic_write(path, "wb") as file:
        file.write(b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert list(path.parent.iterdir()) == [path]


def test_the_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "summary.json"
    with atomic_write(path) as file:
        file.write("half")
        file.flush()
        assert not path.exists()
    assert path.read_text() == "half"


@pytest.mark.parametrize("old", [None, "old"])
def test_a_failure_leaves_what_was_there(tmp_path, old):
    path = tmp_path / "summary.json"
    if old is not None:
        path.write_text(old)
    with pytest.raises(RuntimeError, match="disk"), atomic_write(path) as file:
        file.write("half")
        raise RuntimeError("disk full")
    assert [file.name for file in tmp_path.iterdir()] == ([] if old is None else ["summary.json"])
    assert old is None or path.read_text() == old


def test_two_files_of_one_folder_at_a_time(tmp_path):
    with atomic_write(tmp_path / "a") as first, atomic_write(tmp_path / "b") as second:
        first.write("1")
        second.write("2")
    assert (tmp_path / "a").read_text() + (tmp_path / "b").read_text() == "12"
