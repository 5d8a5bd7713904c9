"""Image rule: how an upload becomes the input of a network. The manifest has that of each model."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ImageRule(BaseModel):
    """Rule that converts an upload to the network's input.

    `fit` selects the part of the upload that the network sees, and how it is resized. ``crop`` is
    the largest centred rectangle of the input's proportions. ``ink`` is the drawing on the
    background, in MNIST's layout (longest side 20 of 28, centre of mass in the middle).
    An upload that already has the input's size is not resized.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    mode: Literal["L", "RGB"]
    fit: Literal["crop", "ink"]
    invert: Literal["never", "light-border"]
    """Inversion: ``light-border`` inverts an image whose border has a median above 127."""
    background: int = Field(ge=0, le=255)
    """Grey level of the background under transparent pixels."""

    @property
    def channels(self) -> int:
        return len(self.mode)
