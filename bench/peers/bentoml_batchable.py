"""BentoML's native API with its adaptive batching; its defaults otherwise."""

import os
from typing import Any

import bentoml
from PIL.Image import Image

from bench.peers.network import Network


# BentoML's own default is one worker.
@bentoml.service(workers=1 if "BENCH_UNTUNED" in os.environ else 2)
class Batchable:
    """BentoML gathers requests, each of which may hold several images."""

    def __init__(self) -> None:
        self.network = Network()

    @bentoml.api(batchable=True, max_batch_size=32)  # type: ignore[untyped-decorator]
    def predict(self, images: list[Image]) -> list[dict[str, Any]]:
        """The multipart field `images`."""
        return self.network.answers(images)
