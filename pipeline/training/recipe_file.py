"""Recipes as TOML files: reading them, and changing single fields."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import PipelineError


class RecipeFile(BaseModel):
    """Base class of recipes, whose shipped files are in `folder`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    folder: ClassVar[Path]

    @classmethod
    def names(cls) -> list[str]:
        """List the recipes of this package, sorted by name."""
        return sorted(path.stem for path in cls.folder.glob("*.toml"))

    @classmethod
    def load(cls, name: str, /, **changes: object) -> Self:
        """Read the recipe NAME, or a TOML file; `changes` that are not None replace its fields.

        A field of a table is named with two underscores, as in `schedule__peak`.

        Raises:
            PipelineError: there is no such recipe, or a field is invalid.

        """
        file = Path(name) if name.endswith(".toml") else cls.folder / f"{name}.toml"
        if not file.is_file():
            raise PipelineError(f"no recipe {name!r}; there are: {', '.join(cls.names())}")
        try:
            fields = tomllib.loads(file.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise PipelineError(f"{file} is not TOML: {error}") from error
        return cls.of(fields, changes, name=name)

    def but(self, **changes: object) -> Self:
        """Return the recipe with `changes`, whose names are as in `load`."""
        return self.of(self.model_dump(), changes, name="changed")

    @classmethod
    def of(cls, fields: Mapping[str, Any], changes: Mapping[str, object], *, name: str) -> Self:
        """Make a recipe of `fields` and `changes`.

        Raises:
            PipelineError: a field is invalid; the message names the first one.

        """
        merged = dict(fields)
        for key, value in changes.items():
            if value is None:
                continue
            table, _, field = key.partition("__")
            if not field:
                merged[table] = value
                continue
            before = merged.get(table, {})
            if not isinstance(before, Mapping):
                raise PipelineError(f"recipe {name}: {table} is one value; set {table} itself")
            merged[table] = {**before, field: value}
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise PipelineError(f"recipe {name}: {where}: {first['msg']}") from error
