"""Files of tensors that are whole at every moment, whatever is killed or full."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pipeline.errors import RunError


def write_text(file: Path, text: str) -> None:
    """Replace `file` by `text`, or leave it as it was.

    Raises:
        RunError: the text cannot be written.

    """
    part = file.with_name(file.name + ".part")
    try:
        part.write_text(text)
        _publish(part, file)
    except OSError as error:
        raise _unwritable(file, part, error) from error


def write_tensors(
    file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Replace `file` by these tensors, in safetensors' format, or leave it as it was.

    Raises:
        RunError: they cannot be written, as on a full disk.

    """
    part = file.with_name(file.name + ".part")
    try:
        # The library's own `save_file` makes a file that nobody else may read.
        part.write_bytes(save(dict(tensors), dict(metadata or {})))
        _publish(part, file)
    except (OSError, SafetensorError) as error:
        raise _unwritable(file, part, error) from error


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `write_tensors` wrote: the tensors, and the metadata.

    Raises:
        RunError: the file is not there, or is not whole.

    """
    try:
        with safe_open(file, "pt") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            return tensors, content.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file} cannot be read: {error}") from error


def _publish(part: Path, file: Path) -> None:
    with part.open("rb") as written:
        os.fsync(written.fileno())
    part.replace(file)


def _unwritable(file: Path, part: Path, error: Exception) -> RunError:
    if part.is_file():
        part.unlink()
    return RunError(
        f"{file} cannot be written: {error}. The last epoch that was saved is untouched: make "
        f"room, then `limelight train --resume {file.parent}`"
    )
