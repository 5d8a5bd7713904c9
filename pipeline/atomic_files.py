"""Write files that are whole at every moment, even if the process is killed or the disk is full."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PipelineError


class UnwritableError(PipelineError):
    """A file cannot be written, as on a full disk; what was there before is unchanged."""

    def __init__(
        self, file: Path, reason: Exception, advice: str = "make room, or choose another folder"
    ) -> None:
        super().__init__(f"{file} cannot be written: {reason}; {advice}")
        self.file, self.reason = file, reason


@contextmanager
def replacing(file: Path, suffix: str = ".part") -> Iterator[Path]:
    """Give the path of a new file to write, which replaces `file` when the context ends.

    If the context raises, `file` stays as it was and the new file is deleted. Processes that may
    write the same file at once each need a `suffix` of their own.

    Raises:
        OSError: the new file cannot be written, as on a full disk.

    """
    part = file.with_name(file.name + suffix)
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(file)
    finally:
        if part.is_file():
            part.unlink()


def write_text(file: Path, text: str) -> None:
    """Replace `file` by `text`, or leave it as it was.

    Raises:
        UnwritableError: the text cannot be written.

    """
    try:
        with replacing(file) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UnwritableError(file, error) from error
