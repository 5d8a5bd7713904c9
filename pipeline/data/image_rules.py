"""Image rules: the size and colours that images have when a network gets them."""

from pydantic import ValidationError

from limelight.imaging.image_rule import ImageRule
from pipeline.errors import DataError


def digit_rule(side: int) -> ImageRule:
    """Return the rule of MNIST: bright ink on black, centred by mass; paper is inverted."""
    return ImageRule(
        height=side, width=side, mode="L", fit="ink", invert="light-border", background=255
    )


def photo_rule(size: int | tuple[int, int]) -> ImageRule:
    """Return the rule of photographs: the largest centred crop of `size`, (height, width).

    Raises:
        DataError: a network cannot have this `size`.

    """
    height, width = (size, size) if isinstance(size, int) else size
    try:
        return ImageRule(
            height=height, width=width, mode="RGB", fit="crop", invert="never", background=255
        )
    except ValidationError as error:
        raise DataError(
            f"image size {height} x {width}: each side must be 1 to 4096 pixels"
        ) from error


def grey_photo_rule(size: int) -> ImageRule:
    """Return the rule of square photographs in grey levels."""
    return photo_rule(size).model_copy(update={"mode": "L"})
