"""BentoML's native API, an image or an array in and dictionaries out; its defaults otherwise."""

import os
from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.validators import DType
from PIL.Image import Image

from bench.peers.network import Network


# BentoML's own default is one worker.
@bentoml.service(workers=1 if "BENCH_UNTUNED" in os.environ else 2)
class Native:
    """One image a pass, in BentoML's thread."""

    def __init__(self) -> None:
        self.network = Network()

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, image: Image) -> dict[str, Any]:
        """The multipart field `image`."""
        return self.network.answers([image])[0]

    @bentoml.api  # type: ignore[untyped-decorator]
    def classify(self, images: Annotated[np.ndarray, DType("uint8")]) -> list[dict[str, Any]]:
        """Pixels (N, H, W, C)."""
        return self.network.classified(images)
