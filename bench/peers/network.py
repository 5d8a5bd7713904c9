"""A network as every peer serves it: an artefact through ONNX Runtime, with Pillow before it.

BENCH_MODEL names the artefact's folder, and BENCH_DEVICE where it runs, ``cpu`` or ``cuda``.
Threads and spinning are set as our service sets them, so that servers are compared and not
runtimes; BENCH_UNTUNED leaves both as they come.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image


def open_session(
    onnx_path: Path, *, threads: int = 1, device: str = "cpu", tuned: bool = True
) -> ort.InferenceSession:
    """A session on `device`; if `tuned`, it leaves the cores alone while it has nothing to do.

    Raises:
        RuntimeError: the device cannot be had.
    """
    options = ort.SessionOptions()
    if tuned:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    if device == "cuda":
        ort.preload_dlls()
        providers.insert(0, "CUDAExecutionProvider")
    session = ort.InferenceSession(str(onnx_path), options, providers=providers)
    if session.get_providers()[0] != providers[0]:
        # The runtime itself takes the CPU without a word.
        raise RuntimeError(f"ONNX Runtime cannot use {providers[0]} here")
    return session


class Network:
    """Images in, labels out. Thread-safe."""

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or Path(os.environ["BENCH_MODEL"])
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        rule = manifest["image"]
        self.classes: list[str] = manifest["classes"]
        self._mode: str = rule["mode"]
        self._size: tuple[int, int] = (rule["width"], rule["height"])
        self._shape = (rule["height"], rule["width"], 1 if self._mode == "L" else 3)
        self._session = open_session(
            folder / "model.onnx",
            device=os.environ.get("BENCH_DEVICE", "cpu"),
            tuned="BENCH_UNTUNED" not in os.environ,
        )

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """An image as the network takes it: uint8 (H, W, C)."""
        image = image.convert(self._mode)
        if image.size != self._size:
            image = image.resize(self._size)
        return np.asarray(image).reshape(self._shape)

    def array(self, body: bytes) -> NDArray[np.uint8]:
        """A batch's raw pixels as the network takes them: uint8 (N, H, W, C)."""
        return np.frombuffer(body, np.uint8).reshape(-1, *self._shape)

    def probabilities(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """One forward pass: uint8 (N, H, W, C) -> (N, K)."""
        result = self._session.run(["probabilities"], {"images": images_nhwc})[0]
        return np.asarray(result, np.float32)

    def answer(self, probabilities: NDArray[np.float32]) -> dict[str, Any]:
        """One row of probabilities as a peer's JSON: the winner and its confidence."""
        winner = int(probabilities.argmax())
        return {"label": self.classes[winner], "confidence": float(probabilities[winner])}

    def answers(self, images: list[Image.Image]) -> list[dict[str, Any]]:
        """Prepare, run as one batch, and read the answers, in the order of `images`."""
        images_nhwc = np.stack([self.pixels(image) for image in images])
        return [self.answer(row) for row in self.probabilities(images_nhwc)]
