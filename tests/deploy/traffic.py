"""Traffic of every kind, so that every metric of a service has a value."""

import contextlib
import select
import socket
import threading

import httpx
import numpy as np

from tests.serving_kit import colour_image, encode

MAX_QUEUED_BYTES = 100_000
"""Upload budget of each of two workers at which part of the traffic is shed."""


def send_everything(url: str, stop: threading.Event) -> None:
    """Send predictions, explanations, invalid requests and too many uploads until `stop` is set."""
    image = encode(colour_image(np.random.default_rng(1)))
    with httpx.Client(base_url=url, timeout=30) as client:
        while not stop.wait(0.05):
            for model in ("colours", "digits"):
                client.post("/predict", params={"model": model}, content=image)
                client.post("/explain", params={"model": model}, content=image)
            client.post("/explain", params={"format": "png"}, content=image)
            client.post("/predict", content=b"no image")
            client.post("/predict", params={"model": "nothing"}, content=image)
            client.get("/nowhere")
            _upload_too_much(client.base_url.host, client.base_url.port or 80)


def _upload_too_much(host: str, port: int) -> None:
    """Send three uploads without their last byte; the budgets allow two, so one is rejected."""
    head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: {MAX_QUEUED_BYTES}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        uploads = [stack.enter_context(socket.create_connection((host, port))) for _ in range(3)]
        for upload in uploads:
            upload.sendall(head.encode() + bytes(MAX_QUEUED_BYTES - 1))
        select.select(uploads, [], [], 2)  # until the rejection arrives
