"""BentoML's native API, an image in and a dictionary out; its defaults otherwise."""

import os
from typing import Any

import bentoml
from PIL.Image import Image

from bench.peers.network import Network


# BentoML's own default is one worker.
@bentoml.service(workers=1 if "BENCH_UNTUNED" in os.environ else 2)
class Native:
    """One image in a forward pass, in BentoML's thread."""

    def __init__(self) -> None:
        self.network = Network()

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, image: Image) -> dict[str, Any]:
        """The multipart field `image`."""
        return self.network.answers([image])[0]
