"""Triton with its Python backend: two instances that call ONNX Runtime, with dynamic batching.

The package `nvidia-pytriton` brings the real server. `python -m bench.peers.triton_server PORT`
writes a model repository to BENCH_FOLDER and starts it. The model `image` takes encoded images, and
the model `pixels` batches of them.
"""

import json
import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.common.server import free_port

_MODEL = """
import sys

sys.path.insert(0, {site!r})
sys.path.insert(0, {root!r})

from io import BytesIO

import numpy as np
import triton_python_backend_utils as backend
from PIL import Image

from bench.peers.network import Network


class TritonPythonModel:
    def initialize(self, arguments):
        self.network = Network()

    def pixels(self, request):
        tensor = backend.get_input_tensor_by_name(request, "images").as_numpy()
        if tensor.dtype == np.uint8:
            return tensor
        images = [Image.open(BytesIO(body)) for body in tensor[:, 0]]
        return np.stack([self.network.pixels(image) for image in images])

    def execute(self, requests):
        parts = [self.pixels(request) for request in requests]
        rows = self.network.probabilities(np.concatenate(parts))
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return [
            backend.InferenceResponse([backend.Tensor("probabilities", found)])
            for found in np.split(rows, ends)
        ]
"""
_CONFIGURATION = """
backend: "python"
max_batch_size: 32
input [{{name: "images" data_type: {datatype} dims: {dims}}}]
output [
  {{name: "probabilities" data_type: TYPE_FP32 dims: [{classes}] label_filename: "labels.txt"}}
]
instance_group [{{kind: KIND_CPU count: 2}}]
dynamic_batching {{}}
"""


def triton_command(
    prefix: Path, repository: Path, *, http: int, grpc: int
) -> tuple[list[str], dict[str, str]]:
    """Return the command of Triton in the environment `prefix`, and the variables that it needs."""
    library = prefix / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    server = library / "site-packages" / "pytriton" / "tritonserver"
    stub = server / "backends" / "python" / "triton_python_backend_stub"
    if not stub.is_symlink():
        version = library.name.removeprefix("python")
        stub.symlink_to(Path("../../python_backend_stubs") / version / stub.name)
    command = [str(server / "bin" / "tritonserver"), f"--model-repository={repository}"]
    command += [f"--backend-directory={server / 'backends'}", "--allow-metrics=false"]
    command += [f"--http-port={http}", f"--grpc-port={grpc}", "--http-address=127.0.0.1"]
    # Triton's Python backend needs the interpreter's shared library.
    libraries = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]
    return command, {"LD_LIBRARY_PATH": ":".join(filter(None, libraries))}


def write_models(repository: Path, manifest: Mapping[str, Any]) -> None:
    """Write both models of an artefact to a folder."""
    root, site = Path(__file__).resolve().parents[2], sysconfig.get_path("purelib")
    image, classes = manifest["image"], manifest["classes"]
    size = [image["height"], image["width"], 1 if image["mode"] == "L" else 3]
    for name, datatype, dims in (("image", "TYPE_STRING", [1]), ("pixels", "TYPE_UINT8", size)):
        version = repository / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(_MODEL.format(site=site, root=str(root)))
        text = _CONFIGURATION.format(datatype=datatype, dims=dims, classes=len(classes))
        (version.parent / "config.pbtxt").write_text(text)
        (version.parent / "labels.txt").write_text("".join(f"{label}\n" for label in classes))


def main() -> None:
    """Replace this process with Triton."""
    repository = Path(os.environ["BENCH_FOLDER"]) / "models"
    manifest = json.loads((Path(os.environ["BENCH_MODEL"]) / "manifest.json").read_text())
    write_models(repository, manifest)
    http, grpc = int(sys.argv[1]), free_port()
    command, variables = triton_command(Path(sys.prefix), repository, http=http, grpc=grpc)
    os.execve(command[0], command, os.environ | variables)  # noqa: S606


if __name__ == "__main__":
    main()
