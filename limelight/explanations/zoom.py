"""A closer look at a large image: where to cut it, by the map of the first look."""

from limelight.artifact.manifest import ImageRule
from limelight.explanations.bounding_box import Box
from limelight.imaging.preprocessing import View

# Side of the cut, in sides of the box. A cell of the map answers for its surroundings too, so the
# box of a small object is larger than the object: a margin would make it nearly all of the image. A
# tighter cut finds smaller objects, and cuts up those that fill the image:
# `python -m bench.zoom --tune`.
_CUT = 1.0
# A crop of nearly all that was seen shows nothing new.
_WORTHWHILE = 0.8


def zoomed_view(box: Box, upload: tuple[int, int], rule: ImageRule) -> View | None:
    """The part of an upload (width, height) in the middle of `box`, of the input's proportions.

    Never smaller than the input itself, since there is no finer detail to see; None where that
    leaves little to gain.
    """
    width, height = upload
    whole = min(width / rule.width, height / rule.height)
    scale = max((box.right - box.left) / rule.width, (box.bottom - box.top) / rule.height)
    scale = max(1.0, scale * _CUT)
    if scale > whole * _WORTHWHILE:
        return None
    wide, high = round(rule.width * scale), round(rule.height * scale)
    left = min(max(0, round((box.left + box.right - wide) / 2)), width - wide)
    top = min(max(0, round((box.top + box.bottom - high) / 2)), height - high)
    return View(left, top, wide, high)
