"""Files are whole at every moment."""

from pathlib import Path

import pytest

from pipeline.atomic_files import UnwritableError, replacing, write_text


def test_interrupted_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    write_text(file, "old")

    def interrupted_write() -> None:
        with replacing(file) as part:
            part.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_write()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_failed_text_write_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "table.md.part").mkdir()
    write_text(tmp_path / "other.md", "x")
    with pytest.raises(UnwritableError, match=r"table\.md cannot be written: .*; make room, or"):
        write_text(tmp_path / "table.md", "x")
