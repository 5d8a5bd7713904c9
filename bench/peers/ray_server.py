"""Ray Serve with two replicas, each of which gathers batches of up to 32 for 1 ms.

`python -m bench.peers.ray_server PORT` starts Ray on loopback, and ends it at SIGTERM.
"""

import os
import signal
import sys
from io import BytesIO
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from PIL import Image
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from bench.peers.network import Network


@serve.deployment(num_replicas=2, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.5})
class Classifier:
    """A replica: decodes in its event loop, and runs a forward pass for each batch."""

    def __init__(self) -> None:
        self.network = Network()

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.001)  # type: ignore[untyped-decorator]
    async def classify(self, images: list[NDArray[np.uint8]]) -> list[dict[str, Any]]:
        rows = self.network.probabilities(np.stack(images))
        return [self.network.answer(row) for row in rows]

    async def __call__(self, request: Request) -> JSONResponse:
        image = Image.open(BytesIO(await request.body()))
        return JSONResponse(await self.classify(self.network.pixels(image)))


def main() -> None:
    """Serve until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    passed = {name: it for name, it in os.environ.items() if name.startswith("BENCH_")}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=os.environ["BENCH_FOLDER"],
        runtime_env={"env_vars": passed | {"PYTHONPATH": os.environ["PYTHONPATH"]}},
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
        serve.run(Classifier.bind(), blocking=True)  # type: ignore[attr-defined]
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
