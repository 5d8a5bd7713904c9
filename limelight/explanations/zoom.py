"""Zoomed crop of a large image, around the bounding box of its map."""

from limelight.explanations.bounding_box import Box
from limelight.imaging.image_rule import ImageRule
from limelight.imaging.preprocessing import View

# Side of the crop, relative to the box. A cell of the map also responds to its surroundings, so the
# box of a small object is larger than the object. With a margin the crop would be nearly the whole
# image. A tighter crop finds smaller objects, but cuts off parts of objects that fill the image.
# Measured with `python -m bench.zoom --tune`.
_CROP_SCALE = 1.0
# A crop of more than this share of the visible part shows nothing new.
_MAX_SHARE = 0.8


def zoomed_view(box: Box, upload: tuple[int, int], rule: ImageRule) -> View | None:
    """Return the zoomed crop of an upload (width, height), centred on `box`.

    It has the input's proportions, and is never smaller than the input, since there is no more
    detail to gain. Return None if it would be nearly the whole upload.
    """
    width, height = upload
    whole = min(width / rule.width, height / rule.height)
    scale = max((box.right - box.left) / rule.width, (box.bottom - box.top) / rule.height)
    scale = max(1.0, scale * _CROP_SCALE)
    if scale > whole * _MAX_SHARE:
        return None
    wide, high = round(rule.width * scale), round(rule.height * scale)
    left = min(max(0, round((box.left + box.right - wide) / 2)), width - wide)
    top = min(max(0, round((box.top + box.bottom - high) / 2)), height - high)
    return View(left, top, wide, high)
