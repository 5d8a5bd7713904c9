"""Write and read safetensors files, whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from pipeline.atomic_files import UnwritableError, replacing
from pipeline.errors import RunError


def write_tensors(
    file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Replace `file` by these tensors, in the safetensors format, or leave it as it was.

    Raises:
        UnwritableError: they cannot be written, as on a full disk.

    """
    try:
        with replacing(file) as part:
            # The library's own `save_file` makes a file that only its owner may read.
            part.write_bytes(save(dict(tensors), dict(metadata or {})))
    except (OSError, SafetensorError) as error:
        raise UnwritableError(file, error) from error


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors, and its metadata.

    Raises:
        RunError: the file is missing or damaged.

    """
    try:
        with safe_open(file, "pt") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            return tensors, content.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file} cannot be read: {error}") from error


def parse_tensors(content: bytes, name: str) -> dict[str, Tensor]:
    """Return the tensors in the bytes of a safetensors file; `name` is for messages.

    Raises:
        RunError: the bytes are damaged.

    """
    try:
        return load(content)
    except SafetensorError as error:
        raise RunError(f"{name} cannot be read: {error}") from error
