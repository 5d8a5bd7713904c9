"""LitServe, batching, with an image in base64 as its guide to speed sends it."""

import base64
import sys
from io import BytesIO
from typing import Any

import litserve  # type: ignore[import-not-found]
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.peers.network import Network


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """Decoding and inference happen in the workers, HTTP in a process of its own."""

    def setup(self, device: str) -> None:
        self.network = Network()

    def decode_request(self, request: dict[str, str]) -> NDArray[np.uint8]:
        return self.network.pixels(Image.open(BytesIO(base64.b64decode(request["image"]))))

    def batch(self, inputs: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        return np.stack(inputs)

    def predict(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.network.probabilities(images_nhwc)

    def unbatch(self, output: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return list(output)

    def encode_response(self, output: NDArray[np.float32]) -> dict[str, Any]:
        return self.network.answer(output)


if __name__ == "__main__":
    server = litserve.LitServer(
        Classifier(max_batch_size=32, batch_timeout=0.001),
        accelerator="cpu",
        workers_per_device=2,
    )
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
