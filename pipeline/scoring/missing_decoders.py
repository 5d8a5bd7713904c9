"""Warnings about images whose decoder is not installed."""

import logging
from collections.abc import Collection
from pathlib import Path

from limelight.imaging.formats import FORMATS
from limelight.imaging.own_file_formats import missing_decoder

logger = logging.getLogger(__name__)


def warn_of_missing_decoders(names: Collection[str]) -> None:
    """Name a file of each format that cannot be decoded here, with the command that helps."""
    for image_format in FORMATS.values():
        found = [name for name in names if Path(name).suffix.lower() in image_format.suffixes]
        install = missing_decoder(image_format) if found else ""
        if install:
            logger.warning(
                "%s: the decoder of %s images is not installed, and %s of the files need it: %s",
                found[0],
                image_format.title,
                f"{len(found):,}",
                install,
            )
