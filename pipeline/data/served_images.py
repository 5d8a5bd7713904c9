"""Arrays of images, prepared as the service prepares uploads."""

import numpy as np
from numpy.typing import NDArray

from limelight.imaging.image_rule import ImageRule
from limelight.imaging.preprocessing import picture_of, prepare


def as_served(images_nhwc: NDArray[np.uint8], rule: ImageRule) -> NDArray[np.uint8]:
    """Prepare uint8 images (N, H, W, C) as the service prepares an upload."""
    return np.stack([prepare(picture_of(image), rule)[0] for image in images_nhwc])
