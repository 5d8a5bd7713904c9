"""Images with the highest losses, and their class activation maps."""

import base64
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from limelight.explanations.overlay import overlay
from limelight.imaging.preprocessing import View, picture_of
from models import ClassMapNetwork
from models.normalization import Normalisation
from pipeline.evaluation.classification_report import TopLoss

# Sharp on a phone, whose screen has up to three pixels per CSS pixel.
SIDE = 160
# Images up to this side are shown pixel by pixel.
_SMALL = 64
OPACITY, COLORMAP = 0.5, "turbo"
_JPEG_QUALITY = 85


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainedLoss:
    """Image and maps of a high loss, as `data:` URLs."""

    top: TopLoss
    file: str | None
    """The file of the image, within the user's folder, if it comes from one."""
    image: str
    predicted_map: str
    rival_map: str


def explain(
    network: ClassMapNetwork,
    normalisation: Normalisation,
    device: torch.device,
    images: NDArray[np.uint8],
    losses: tuple[TopLoss, ...],
    files: tuple[str, ...] = (),
) -> tuple[tuple[ExplainedLoss, ...], tuple[int, int]]:
    """Overlay each image, (N, H, W, C), with the maps of the predicted class and its rival.

    `files` are those of the split that `losses` refer to, if its images come from files.

    Returns:
        The images in the same order, and the rows and columns of a map.

    """
    with torch.inference_mode():
        features = network.features(normalisation.on(device)(torch.from_numpy(images).to(device)))
        maps = network.head.class_activation_maps(features).float().cpu().numpy()
    explained = tuple(
        _explain(image, cams, top, files[top.index] if files else None)
        for image, cams, top in zip(images, maps, losses, strict=True)
    )
    return explained, (maps.shape[2], maps.shape[3])


def _explain(
    image: NDArray[np.uint8], maps: NDArray[np.float32], top: TopLoss, file: str | None
) -> ExplainedLoss:
    picture = picture_of(image)
    large = _resized(picture)
    is_small = max(picture.size) <= _SMALL
    return ExplainedLoss(
        top=top,
        file=file,
        image=_data_url(picture, "PNG") if is_small else _data_url(large, "JPEG"),
        predicted_map=_overlaid(large, maps[top.predicted]),
        rival_map=_overlaid(large, maps[top.rival]),
    )


def _resized(picture: Image.Image) -> Image.Image:
    """Enlarge a small image without smoothing its pixels, or reduce a large one."""
    longest = max(picture.size)
    if longest > SIDE:
        smaller = picture.copy()
        smaller.thumbnail((SIDE, SIDE))
        return smaller
    times = SIDE // longest
    size = (picture.width * times, picture.height * times)
    return picture.resize(size, Image.Resampling.NEAREST)


def _overlaid(picture: Image.Image, map_hw: NDArray[np.float32]) -> str:
    whole_image = View(0.0, 0.0, float(picture.width), float(picture.height))
    tinted = overlay(picture, map_hw, whole_image, opacity=OPACITY, colormap=COLORMAP)
    return _data_url(tinted, "JPEG")


def _data_url(picture: Image.Image, form: str) -> str:
    stream = BytesIO()
    # A smooth map is ten times smaller as JPEG than as PNG.
    if form == "JPEG":
        picture.save(stream, form, quality=_JPEG_QUALITY, subsampling=0)
    else:
        picture.save(stream, form, optimize=True)
    content = base64.b64encode(stream.getvalue()).decode()
    return f"data:image/{form.lower()};base64,{content}"
