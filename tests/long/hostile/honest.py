"""Honest traffic during an attack."""

import threading
import time
from collections import Counter
from itertools import cycle

import httpx

from tests.long.hostile.image_files import photo
from tests.long.hostile.open_inference import encoded, tensor

_RATE = 10.0  # requests a second


class Honest(threading.Thread):
    """Requests of small images, over connections that stay open, until `stop`."""

    def __init__(self, url: str, model: str) -> None:
        super().__init__(daemon=True)
        self._url, self._model = url, model
        self._ended = threading.Event()
        self.seconds: list[float] = []
        self.failures: Counter[str] = Counter()

    def run(self) -> None:
        image = photo("PNG", 32)
        infer = {"inputs": [tensor([encoded(image)])]}
        with httpx.Client(base_url=self._url, timeout=30) as client:
            for path in cycle(("/predict", "/explain", "/predict", "/v2", "/predict", "/readyz")):
                started_s = time.perf_counter()
                try:
                    if path == "/v2":
                        answer = client.post(f"/v2/models/{self._model}/infer", json=infer)
                    elif path == "/readyz":
                        answer = client.get(path)
                    else:
                        answer = client.post(path, content=image)
                    result = str(answer.status_code)
                except httpx.TransportError as error:
                    result = repr(error)
                self.seconds.append(time.perf_counter() - started_s)
                if result != "200":
                    self.failures[f"{path}: {result}"] += 1
                if self._ended.wait(1 / _RATE):
                    return

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def p99_s(self) -> float:
        """Return the 99th percentile of the response times."""
        times = sorted(self.seconds)
        return times[int(len(times) * 0.99)]
