"""FastAPI with our queue and our engine behind it: what the framework alone makes of them."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request
from PIL import Image

from bench.peers.network import Network
from limelight.artifact.store import load_artifact
from limelight.runtime.engine import Engine
from service.inference.batching import Batcher

network = Network()
device: Literal["cpu", "cuda"] = "cuda" if os.environ.get("BENCH_DEVICE") == "cuda" else "cpu"
engine = Engine(load_artifact(Path(os.environ["BENCH_MODEL"])), device=device, threads=1)
batcher = Batcher(engine.run, max_batch=32)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Finish what is in flight before the process ends."""
    yield
    await batcher.close()


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    """The raw body, which costs less than a form."""
    pixels = network.pixels(Image.open(BytesIO(await request.body())))
    results = await batcher.submit(pixels, ["probabilities"])
    return network.answer(results["probabilities"])


@app.post("/classify")
async def classify(request: Request) -> list[dict[str, Any]]:
    """The raw pixels of a batch, which needs no queue."""
    images_nhwc = network.array(await request.body())
    results = await asyncio.to_thread(engine.run, images_nhwc, ["probabilities"])
    return [network.answer(row) for row in results["probabilities"]]
