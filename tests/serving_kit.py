"""Test network with a numpy implementation, artefacts of it, and a real `bentoml serve`."""

import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageFile

REPOSITORY = Path(__file__).resolve().parents[1]


FLOAT = TensorProto.FLOAT


@dataclass(frozen=True)
class Reference:
    """Network that the tests serve, in numpy: pooling, weighting, averaging, softmax."""

    size: int
    pool: int
    weight: NDArray[np.float32]  # (K, C)
    bias: NDArray[np.float32]  # (K,)
    temperature: float = 1.7

    def cams(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float64]:
        batch, size, _, channels = images_nhwc.shape
        cells = size // self.pool
        pixels = images_nhwc.astype(np.float64) / 255
        pooled = pixels.reshape(batch, cells, self.pool, cells, self.pool, channels).mean((2, 4))
        cams: NDArray[np.float64] = np.einsum("nhwc,kc->nkhw", pooled, self.weight)
        return cams

    def logits(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float64]:
        means: NDArray[np.float64] = self.cams(images_nhwc).mean((2, 3))
        return means + self.bias

    def probabilities(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float64]:
        powers = np.exp(self.logits(images_nhwc) / self.temperature)
        shares: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
        return shares

    def layercams(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Compute LayerCAM of the input pixels: the positive contribution of each to a logit."""
        pixels = images_nhwc.astype(np.float64) / 255
        derivatives = self.weight.clip(0) / self.size**2
        maps: NDArray[np.float64] = np.einsum("nhwc,kc->nkhw", pixels, derivatives)
        return maps

    def ood_scores(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float64]:
        scores: NDArray[np.float64] = -np.log(np.exp(self.logits(images_nhwc)).sum(1))
        return scores

    def onnx(self, *, layercam: bool = False, fp16: bool = False) -> bytes:
        classes, channels = self.weight.shape
        cells = self.size // self.pool
        constants = {
            "scale": np.float32(1 / 255),
            "weight": self.weight[:, :, None, None],
            "bias": self.bias,
            "temperature": np.float32(self.temperature),
            "axes": np.array([2, 3], np.int64),
            "last": np.array([1], np.int64),
        }
        nodes = [
            helper.make_node("Cast", ["images"], ["floats"], to=FLOAT),
            helper.make_node("Mul", ["floats", "scale"], ["scaled"]),
            helper.make_node("Transpose", ["scaled"], ["nchw"], perm=[0, 3, 1, 2]),
            helper.make_node(
                "AveragePool",
                ["nchw"],
                ["pooled"],
                kernel_shape=[self.pool] * 2,
                strides=[self.pool] * 2,
            ),
            helper.make_node(
                "Cast", ["pooled"], ["rounded"], to=TensorProto.FLOAT16 if fp16 else FLOAT
            ),
            helper.make_node("Cast", ["rounded"], ["features"], to=FLOAT),
            helper.make_node("Conv", ["features", "weight"], ["cams"]),
            helper.make_node("ReduceMean", ["cams", "axes"], ["means"], keepdims=0),
            helper.make_node("Add", ["means", "bias"], ["logits"]),
            helper.make_node("Div", ["logits", "temperature"], ["cooled"]),
            helper.make_node("Softmax", ["cooled"], ["probabilities"], axis=-1),
            helper.make_node("ReduceLogSumExp", ["logits", "last"], ["certainty"], keepdims=0),
            helper.make_node("Neg", ["certainty"], ["ood_score"]),
        ]
        value = helper.make_tensor_value_info
        size, outputs = self.size, []
        if layercam:
            derivatives = self.weight.clip(0)[:, :, None, None] / np.float32(self.size**2)
            constants["derivatives"] = derivatives
            nodes.append(helper.make_node("Conv", ["nchw", "derivatives"], ["layercams"]))
            shape = ["batch", classes, size, size]
            outputs.append(value("layercams", TensorProto.FLOAT, shape))
        graph = helper.make_graph(
            nodes,
            "reference",
            [value("images", TensorProto.UINT8, ["batch", size, size, channels])],
            [
                value("logits", TensorProto.FLOAT, ["batch", classes]),
                value("probabilities", TensorProto.FLOAT, ["batch", classes]),
                value("cams", TensorProto.FLOAT, ["batch", classes, cells, cells]),
                value("features", TensorProto.FLOAT, ["batch", channels, cells, cells]),
                value("ood_score", TensorProto.FLOAT, ["batch"]),
                *outputs,
            ],
            [numpy_helper.from_array(np.asarray(c), name) for name, c in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


FORMATS = {
    "model.onnx": "onnx",
    "model.layercam.onnx": "onnx-layercam",
    "model.fp16.onnx": "onnx-fp16",
    "model.int8.onnx": "onnx-int8",
    "golden.npz": "golden-samples",
}
GOLDEN_IMAGES = 4
COLOURS = ("red", "green", "blue")
COLOUR_NETWORK = Reference(
    size=8,
    pool=2,
    weight=np.array([[4, -2, -2], [-2, 4, -2], [-2, -2, 4]], np.float32),
    bias=np.array([0.1, 0.0, -0.1], np.float32),
)
DIGITS = tuple("0123456789")
DIGIT_NETWORK = Reference(
    size=28,
    pool=4,
    weight=np.linspace(-1, 2, 10, dtype=np.float32)[:, None],
    bias=np.linspace(0.5, -0.5, 10, dtype=np.float32),
)


def write_artifact(
    root: Path,
    *,
    name: str = "colours",
    version: str = "1",
    network: Reference = COLOUR_NETWORK,
    layercam: bool = True,
    fp16: bool = False,
    int8: Reference | None = None,
    golden: bool = False,
    **changes: Any,
) -> Path:
    """Write NAME/VERSION below `root`; `changes` replace top-level fields of the manifest.

    Without `layercam` it has no LayerCAM maps. With `fp16` it also has a graph whose features are
    rounded to float16. With `int8` that network stands in for an int8 graph. With `golden` it has
    golden samples.
    """
    folder = root / name / version
    folder.mkdir(parents=True)
    files = {"model.onnx": network.onnx()}
    if layercam:
        files["model.layercam.onnx"] = network.onnx(layercam=True)
    if fp16:
        files["model.fp16.onnx"] = network.onnx(fp16=True)
    if int8 is not None:
        files["model.int8.onnx"] = int8.onnx()
    if golden:
        files["golden.npz"] = golden_samples(network)
        changes["golden"] = {"images": GOLDEN_IMAGES, "errors": {}}
    for file, content in files.items():
        (folder / file).write_bytes(content)
    classes = {3: COLOURS, 10: DIGITS}[len(network.weight)]
    channels, cells = network.weight.shape[1], network.size // network.pool

    def tensor(name: str, dtype: str, *shape: int) -> dict[str, Any]:
        return {"name": name, "dtype": dtype, "shape": ["batch", *shape]}

    parity = {
        "images": 1,
        "batch_sizes": [1],
        "max_probability_error": 0.0,
        "top1_disagreements": 0,
        "max_cam_identity_error": 0.0,
    }
    manifest = {
        "schema_version": 1,
        "name": name,
        "version": version,
        "created": "2026-11-21T00:00:00Z",
        "description": "A network that numpy can follow.",
        "classes": classes,
        "image": {
            "height": network.size,
            "width": network.size,
            "mode": "RGB" if channels == 3 else "L",
            "fit": "crop" if channels == 3 else "ink",
            "invert": "never" if channels == 3 else "light-border",
            "background": 255,
        },
        "inputs": [tensor("images", "uint8", network.size, network.size, channels)],
        "outputs": [
            tensor("logits", "float32", len(classes)),
            tensor("probabilities", "float32", len(classes)),
            tensor("cams", "float32", len(classes), cells, cells),
            tensor("features", "float32", channels, cells, cells),
            tensor("ood_score", "float32"),
            *(
                [tensor("layercams", "float32", len(classes), *[network.size] * 2)]
                if layercam
                else []
            ),
        ],
        "methods": [
            "cam",
            "contrast",
            *(["layercam"] if layercam else []),
            "occlusion",
            "scorecam",
        ],
        "opset": 18,
        "files": {
            file: {
                "sha256": hashlib.sha256(content).hexdigest(),
                "bytes": len(content),
                "format": FORMATS[file],
            }
            for file, content in files.items()
        },
        "network": {"architecture": "reference", "parameters": 12, "multiply_accumulates": 144},
        "training": {"seed": 0},
        "data": {
            "name": "none",
            "sha256": "0" * 64,
            "licence": "none",
            "source": "none",
            "train_images": 0,
            "validation_images": 0,
            "test_images": 0,
        },
        "metrics": {"images": 0, "accuracy": 1.0, "log_loss": 0.0, "ece": 0.0},
        "calibration": {
            "method": "temperature",
            "temperature": network.temperature,
            "images": 0,
            "ece_before": 0.0,
            "ece_after": 0.0,
        },
        "abstention": {
            "threshold": 0.5,
            "error_limit": 0.01,
            "images": 0,
            "coverage": 1.0,
            "accuracy": 1.0,
        },
        "out_of_distribution": {
            "score": "energy",
            "threshold": -1.3,
            "auroc_when_chosen": {"energy": 0.9, "max-logit": 0.8},
            "images": 0,
            "flagged": 0.0,
            "against": {"noise": {"images": 0, "auroc": 0.9, "fpr95": 0.1}},
        },
        "parity": {"onnx": parity},
        "libraries": {"onnx": onnx.__version__},
    }
    manifest.update(changes)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def golden_samples(network: Reference) -> bytes:
    """Make the file with the golden samples of a network: random images."""
    channels = network.weight.shape[1]
    shape = (GOLDEN_IMAGES, network.size, network.size, channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    stream = io.BytesIO()
    np.savez(
        stream,
        allow_pickle=False,
        images=images,
        probabilities=network.probabilities(images).astype(np.float32),
        cams=network.cams(images).astype(np.float32),
    )
    return stream.getvalue()


def rewrite(folder: Path, file: str, content: bytes, file_format: str = "onnx") -> None:
    """Write a file of an artefact, and its size and SHA-256 in the manifest."""
    (folder / file).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][file] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "format": FORMATS.get(file, file_format),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


# Pillow's own buffer is too small for some progressive JPEG files of noise.
ImageFile.MAXBLOCK = 1 << 20


def encode(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def colour_image(rng: np.random.Generator, size: int = 8) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8))


@dataclass(frozen=True)
class Server:
    url: str
    process: subprocess.Popen[bytes]
    log_file: Path

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")


@contextmanager
def bentoml_serve(
    models: Path,
    folder: Path,
    *,
    bento: str | None = None,
    cwd: Path = REPOSITORY,
    port: int = 0,
    tracer: Sequence[str] = (),
    also: Mapping[str, str | None] | None = None,
    **environment: str,
) -> Iterator[Server]:
    """Plain `bentoml serve` in the repository root, on `port` or a free one, until the block ends.

    `folder` takes its log and BENTOML_HOME; with `bento`, that one is served instead. `also` are
    further variables, which are unset if None. `tracer` is a command that runs the service's.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    log_file = folder / "serve.log"
    variables = {name: value for name, value in os.environ.items() if "LIMELIGHT_" not in name}
    wanted: dict[str, str | None] = {
        "LIMELIGHT_MODELS": str(models),
        "LIMELIGHT_DEFAULT_MODEL": "colours",
        "BENTOML_HOME": str(folder / "home"),
        "BENTOML_DO_NOT_TRACK": "True",
        **environment,
        **(also or {}),
    }
    variables = {
        name: value for name, value in {**variables, **wanted}.items() if value is not None
    }
    command = [*tracer, sys.executable, "-m", "bentoml", "serve", "--port", str(port)]
    command += [bento] if bento else []
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=cwd, env=variables, stdout=log, stderr=log, start_new_session=True
        )
    server = Server(f"http://127.0.0.1:{port}", process, log_file)
    try:
        _wait_until_alive(server)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_alive(server: Server, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        try:
            # The server listens only after loading has ended or failed.
            if httpx.get(f"{server.url}/livez", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError(f"bentoml serve did not come up:\n{server.log()}")
