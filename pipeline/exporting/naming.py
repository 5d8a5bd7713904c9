"""Names and versions of exported models."""

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from limelight.artifact.field_types import Name
from pipeline.data.registry import DATASETS
from pipeline.errors import PipelineError


def default_name(dataset: str) -> str:
    """Return the model's name for a data set: its own name in lower case, with dashes.

    Raises:
        PipelineError: the data set's name has no ASCII letter or digit.

    """
    entry = DATASETS.get(dataset)
    if entry is not None and entry.export_name is not None:
        return entry.export_name
    name = "".join(char if char.isascii() and char.isalnum() else "-" for char in dataset.lower())
    name = name.strip("-")[:63]
    if not name:
        raise PipelineError(f"{dataset!r} gives no name for the model; pass --name")
    return name


def check_name(name: str) -> None:
    """Reject a name that the service would not accept.

    Raises:
        PipelineError: with the rule for names.

    """
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise PipelineError(
            f"--name {name!r}: a model's name is lower-case letters, digits, '-' and '_', "
            "begins with a letter or digit and has at most 63 of them"
        ) from error


def next_version(home: Path) -> str:
    """Return the version after the highest in `home`; a folder without a manifest counts too."""
    versions = (path.name for path in home.iterdir() if path.name.isdecimal())
    return str(max(map(int, versions), default=0) + 1)
