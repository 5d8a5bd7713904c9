"""FastAPI with ONNX Runtime in its thread pool: one forward pass for each request."""

from io import BytesIO
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image

from bench.peers.network import Network

network = Network()
app = FastAPI()


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    """The raw body, which costs less than a form."""
    image = Image.open(BytesIO(await request.body()))
    answers = await run_in_threadpool(network.answers, [image])
    return answers[0]


@app.post("/classify")
async def classify(request: Request) -> list[dict[str, Any]]:
    """The raw pixels of a batch."""
    images_nhwc = network.array(await request.body())
    rows = await run_in_threadpool(network.probabilities, images_nhwc)
    return [network.answer(row) for row in rows]
