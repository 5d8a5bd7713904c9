"""A real Triton Inference Server from the package `nvidia-pytriton`, with the tests' network."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.peers.triton_server import triton_command
from bench.serving.environments import prepare
from tests.service.oip.kit import free_port
from tests.serving_kit import COLOUR_NETWORK, COLOURS

_MODEL = '''
import json
import sys

sys.path.insert(0, {site!r})

import numpy as np
import triton_python_backend_utils as backend


class TritonPythonModel:
    """Network of `tests.serving_kit.Reference`."""

    def initialize(self, arguments):
        network = json.loads({network!r})
        self.weight, self.bias = np.array(network["weight"]), np.array(network["bias"])
        self.pool, self.temperature = network["pool"], network["temperature"]

    def execute(self, requests):
        return [self.answer(backend.get_input_tensor_by_name(r, "images")) for r in requests]

    def answer(self, tensor):
        images = tensor.as_numpy().astype(np.float64) / 255
        batch, size, _, channels = images.shape
        cells = size // self.pool
        blocks = images.reshape(batch, cells, self.pool, cells, self.pool, channels)
        cams = np.einsum("nhwc,kc->nkhw", blocks.mean((2, 4)), self.weight)
        logits = cams.mean((2, 3)) + self.bias
        powers = np.exp(logits / self.temperature)
        found = {{
            "logits": logits,
            "probabilities": powers / powers.sum(1, keepdims=True),
            "cams": cams,
        }}
        tensors = [backend.Tensor(name, v.astype(np.float32)) for name, v in found.items()]
        return backend.InferenceResponse(tensors)
'''
_CONFIGURATION = """
backend: "python"
max_batch_size: 32
input [{name: "images" data_type: TYPE_UINT8 dims: [8, 8, 3]}]
output [
  {name: "logits" data_type: TYPE_FP32 dims: [3] label_filename: "labels.txt"},
  {name: "probabilities" data_type: TYPE_FP32 dims: [3] label_filename: "labels.txt"},
  {name: "cams" data_type: TYPE_FP32 dims: [3, 4, 4]}
]
instance_group [{kind: KIND_CPU count: 1}]
dynamic_batching {}
"""


@dataclass(frozen=True)
class Triton:
    url: str
    grpc_address: str


class NotRunnableError(Exception):
    """Triton does not start; the message has the end of its log."""


@contextmanager
def triton(folder: Path) -> Iterator[Triton]:
    """Run Triton with the model `colours` until the block ends; models and log go to `folder`.

    Raises:
        NotInstallableError: Triton cannot be installed.
        NotRunnableError: Triton does not start.
    """
    prefix = prepare("triton").python.parent.parent
    site = next(prefix.glob("lib/python3*/site-packages"))
    repository = _write_models(folder / "models", site)
    http, grpc = free_port(), free_port()
    command, variables = triton_command(prefix, repository, http=http, grpc=grpc)
    environment = os.environ | variables
    log_file = folder / "triton.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait(process, f"http://127.0.0.1:{http}", log_file)
        yield Triton(f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}")
    finally:
        process.terminate()
        process.wait(timeout=60)


def _write_models(repository: Path, site: Path) -> Path:
    network = COLOUR_NETWORK
    content = {
        "weight": network.weight.tolist(),
        "bias": network.bias.tolist(),
        "pool": network.pool,
        "temperature": network.temperature,
    }
    version = repository / "colours" / "1"
    version.mkdir(parents=True)
    text = _MODEL.format(site=str(site), network=json.dumps(content))
    (version / "model.py").write_text(text)
    (version.parent / "config.pbtxt").write_text(_CONFIGURATION)
    (version.parent / "labels.txt").write_text("".join(f"{label}\n" for label in COLOURS))
    return repository


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/v2/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise NotRunnableError(log.read_text(errors="replace")[-2000:])
