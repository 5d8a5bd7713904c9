"""File of API keys (TOML), which holds their hashes and what each key is allowed."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from limelight.api_keys import NAME, KeyHash, Scope
from service.caller import Caller, Criticality

_MAX_BYTES = 1_000_000


class KeysFileError(Exception):
    """The file of keys cannot be read; the message says why, and never has a part of a hash."""


def _hash(text: str) -> str:
    KeyHash.parse(text)
    return text


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=f"^{NAME.pattern}$")]
    hashes: Annotated[list[Annotated[str, AfterValidator(_hash)]], Field(min_length=1)]
    scopes: Annotated[list[Scope], Field(min_length=1)]
    rate: Annotated[float, Field(gt=0, le=1e6)] | None = None
    burst: Annotated[float, Field(ge=1, le=1e6)] | None = None
    share: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    criticality: Criticality = "default"


class _Content(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    # A file that is cut off, or not written yet, must not lock everybody out.
    keys: Annotated[list[_Entry], Field(min_length=1, max_length=1000)]


@dataclass(frozen=True, slots=True)
class Entry:
    """Key of the file."""

    hash: KeyHash
    caller: Caller


def read_keys(path: Path) -> tuple[Entry, ...]:
    """Read the keys of a file. A name has several while its key is being replaced.

    Raises:
        KeysFileError: the file cannot be read, is malformed or contradicts itself.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise KeysFileError(f"it has more than {_MAX_BYTES} bytes")
        entries = _Content.model_validate(tomllib.loads(content.decode())).keys
    except OSError as error:
        raise KeysFileError(f"it cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KeysFileError("it is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise KeysFileError(f"it is not TOML: {error}") from error
    except ValidationError as error:
        raise KeysFileError(_problem(error)) from error
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits, or thousands of brackets in each other.
        raise KeysFileError(f"it is not TOML that can be read: {error}") from error
    for what, values in (
        ("name", [each.name for each in entries]),
        ("hash", [text for each in entries for text in each.hashes]),
    ):
        if len(set(values)) < len(values):
            raise KeysFileError(f"two of its keys have the same {what}")
    return tuple(_all(entries))


def _all(entries: list[_Entry]) -> Iterator[Entry]:
    for each in entries:
        caller = Caller(
            name=each.name,
            scopes=frozenset(each.scopes),
            rate=each.rate,
            burst=each.burst,
            share=each.share,
            criticality=each.criticality,
        )
        yield from (Entry(KeyHash.parse(text), caller) for text in each.hashes)


def _problem(error: ValidationError) -> str:
    """Describe the first error of the content, without the value, which may be a key."""
    first: Any = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"
