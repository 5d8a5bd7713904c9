"""A folder of labelled images: one sub-folder a class (torchvision's ImageFolder layout)."""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from service.errors import ServiceError
from service.images import read_upload
from service.manifest import ImageRule

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
MAX_PIXELS = 200_000_000

logger = logging.getLogger(__name__)


def read_folder(
    folder: Path, rule: ImageRule
) -> tuple[tuple[str, ...], NDArray[np.uint8], NDArray[np.int64]]:
    """Read FOLDER/CLASS/IMAGE by the service's own `rule`: classes, images (N, H, W, C), labels.

    Unreadable files are logged and skipped.

    Raises:
        DataError: if there are fewer than two classes, or a class has no readable image.

    """
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if len(classes) < 2:
        raise DataError(
            f"{folder}: needs a sub-folder of images for each of at least two classes, "
            f"found {len(classes)}"
        )
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = (path for path in sorted((folder / name).rglob("*")) if _is_image(path))
        read = [image for path in files if (image := _read(path, rule)) is not None]
        if not read:
            raise DataError(f"{folder / name}: no readable image; add some or remove the folder")
        images += read
        labels += [label] * len(read)
    return tuple(classes), np.stack(images), np.array(labels, dtype=np.int64)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _read(path: Path, rule: ImageRule) -> NDArray[np.uint8] | None:
    try:
        upload = read_upload(path.read_bytes(), rule, max_pixels=MAX_PIXELS)
    except ServiceError as error:
        logger.warning("skipped %s: %s", path, error.detail)
        return None
    return upload.pixels_hwc
