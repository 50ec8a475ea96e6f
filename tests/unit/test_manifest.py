"""Files that are written whole or not at all, however many write them at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from whiteboard.manifest import intact, write_atomically, write_manifest


def test_of_many_writers_at_once_one_stays_and_none_fails(tmp_path: Path) -> None:
    texts = [f"{number}" * 50_000 for number in range(8)]
    path = tmp_path / "versions.json"
    with ThreadPoolExecutor(8) as pool:  # one process id, as processes in containers that share a folder have
        for _ in range(20):
            list(pool.map(lambda text: write_atomically(path, text), texts))
            assert path.read_text() in texts
    assert [file.name for file in tmp_path.iterdir()] == ["versions.json"]


def test_what_cannot_be_put_in_place_leaves_no_draft(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_atomically(tmp_path / "taken", "text")
    assert [file.name for file in tmp_path.iterdir()] == ["taken"]


def test_a_folder_is_intact_as_long_as_nothing_in_it_is_more_less_or_other(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text("trees")
    digest = write_manifest(tmp_path)
    assert intact(tmp_path, digest)
    (tmp_path / "more").write_text("")
    assert not intact(tmp_path, digest)
    (tmp_path / "more").unlink()
    (tmp_path / "model.txt").write_text("others")
    assert not intact(tmp_path, digest)
