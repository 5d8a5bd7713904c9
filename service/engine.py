"""The network itself: one ONNX Runtime session, on a provider that is never in doubt."""

import contextlib
import ctypes
import functools
import io
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service import gpu
from service.artifact import Artifact
from service.manifest import Manifest, TensorSpec

Device = Literal["auto", "cuda", "tensorrt", "cpu"]
Provider = Literal["CPU", "CUDA", "TensorRT"]

logger = logging.getLogger("limelight.engine")

_NAMES: dict[str, Provider] = {
    "CPUExecutionProvider": "CPU",
    "CUDAExecutionProvider": "CUDA",
    "TensorrtExecutionProvider": "TensorRT",
}
_WANTED: dict[str, Provider] = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}
# TF32 would cost three digits of the parity that an export promises, and an exhaustive search for
# convolution algorithms seconds at every new batch size.
_CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
_PROVIDERS: dict[Provider, list[Any]] = {
    "CPU": ["CPUExecutionProvider"],
    "CUDA": [("CUDAExecutionProvider", _CUDA_OPTIONS), "CPUExecutionProvider"],
    "TensorRT": [
        "TensorrtExecutionProvider",
        ("CUDAExecutionProvider", _CUDA_OPTIONS),
        "CPUExecutionProvider",
    ],
}
_TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
_FATAL = 4
# Finer maps take some megabytes an image, which the runtime would keep of the largest batch.
_MOST_FINER = 8


class EngineError(Exception):
    """The network cannot be run as demanded; the message says why and what to do."""


class Engine:
    """Runs the network of one artefact. `run` may be called from several threads.

    Args:
        artifact: what to run, already verified.
        device: ``auto`` takes a GPU where one is usable and the CPU elsewhere; any other is
            a demand.
        threads: CPU threads for one pass; 0 is every core.
        pad: bring batches to powers of two with blank images. A GPU chooses its algorithms anew
            for each size, so it does so by default; on a CPU each image has its price.

    Raises:
        EngineError: the demanded provider cannot be had, or the graph is not what the manifest
            says.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        device: Device = "auto",
        threads: int = 1,
        pad: bool | None = None,
    ) -> None:
        self.manifest = artifact.manifest
        self._session = _open_session(artifact.onnx_path, device=device, threads=threads)
        self._dear = dear = self.manifest.dear_outputs
        _check_graph(
            self._session,
            self.manifest.onnx_file,
            self.manifest,
            [tensor for tensor in self.manifest.outputs if tensor.name not in dear],
        )
        self._finer: ort.InferenceSession | None = None
        if artifact.finer_path is not None:
            self._finer = _open_session(artifact.finer_path, device=device, threads=threads)
            _check_graph(
                self._finer, artifact.finer_path.name, self.manifest, self.manifest.outputs
            )
        self._pad = self.provider != "CPU" if pad is None else pad

    @property
    def provider(self) -> Provider:
        """Where the network really runs, as the session says."""
        return _provider(self._session)

    def run(
        self, images_nhwc: NDArray[np.uint8], outputs: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        """One pass: uint8 (N, H, W, C) -> each of `outputs` by its name, N first.

        The runtime computes the whole of a graph, whichever are named. What is dear has one of
        its own, which is run where one of `Manifest.dear_outputs` is named, and only there.

        Raises:
            ValueError: the images are not of the network's size and type.
            EngineError: the runtime failed, or gave values that are not finite.
        """
        rule = self.manifest.image
        wanted = (rule.height, rule.width, rule.channels)
        if images_nhwc.shape[1:] != wanted or images_nhwc.dtype != np.uint8:
            raise ValueError(
                f"images must be uint8 (N, {', '.join(map(str, wanted))}), "
                f"not {images_nhwc.dtype} {images_nhwc.shape}"
            )
        if self._finer is None or self._dear.isdisjoint(outputs):
            return self._pass(self._session, images_nhwc, outputs)
        starts = range(0, len(images_nhwc) or 1, _MOST_FINER)
        parts = [
            self._pass(self._finer, images_nhwc[at : at + _MOST_FINER], outputs) for at in starts
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in outputs}

    def _pass(
        self, session: ort.InferenceSession, images_nhwc: NDArray[np.uint8], outputs: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        batch = len(images_nhwc)
        if self._pad:
            images_nhwc = _padded(images_nhwc)
        try:
            results = session.run(list(outputs), {"images": np.ascontiguousarray(images_nhwc)})
        except Exception as error:  # the runtime's exceptions share no base of their own
            raise EngineError(
                f"ONNX Runtime failed on {len(images_nhwc)} images: {error}"
            ) from error
        if not all(np.isfinite(result).all() for result in results):
            raise EngineError(f"{self.manifest.name} gave values that are not finite")
        return {name: result[:batch] for name, result in zip(outputs, results, strict=True)}

    def warm_up(self, batch_sizes: Sequence[int] = (1, 2)) -> float:
        """Run blank images at each batch size and check what comes out; seconds it took.

        Raises:
            EngineError: an output has another shape than the manifest says, or see `run`.
        """
        started = time.perf_counter()
        cheap = [tensor for tensor in self.manifest.outputs if tensor.name not in self._dear]
        for batch in batch_sizes:
            self._try_out(batch, cheap)
        if self._dear:
            self._try_out(1, self.manifest.outputs)
        return time.perf_counter() - started

    def _try_out(self, batch: int, outputs: Sequence[TensorSpec]) -> None:
        rule = self.manifest.image
        blank = np.zeros((batch, rule.height, rule.width, rule.channels), np.uint8)
        results = self.run(blank, [tensor.name for tensor in outputs])
        for tensor in outputs:
            shape, wanted = results[tensor.name].shape, (batch, *tensor.shape[1:])
            if shape != wanted:
                raise EngineError(
                    f"output {tensor.name!r} of {self.manifest.name} is {shape}, and its manifest "
                    f"says {wanted}: export the run again"
                )


def _padded(images_nhwc: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blank images at the end make the batch a power of two."""
    batch = len(images_nhwc)
    missing = (1 << max(0, batch - 1).bit_length()) - batch
    if missing == 0:
        return images_nhwc
    return np.pad(images_nhwc, ((0, missing), (0, 0), (0, 0), (0, 0)))


def _open_session(path: Path, *, device: Device, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads take the cores that decoding and HTTP need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = _WANTED.get(device)
    if wanted is None:
        obstacle = cuda_obstacle()
        if obstacle is None:
            with _quiet_runtime(options):
                session = _create(path, options, "CUDA")
            if _provider(session) == "CUDA":
                return session
            obstacle = _missing_library() or "ONNX Runtime could not set up CUDA"
        _say_once(f"no usable GPU ({obstacle}): the networks run on the CPU")
        return _create(path, options, "CPU")
    if wanted == "CPU":
        return _create(path, options, wanted)
    obstacle = cuda_obstacle()
    if obstacle is not None:
        raise EngineError(f"device {device!r} is demanded, but {obstacle}{_WAY_OUT}")
    with _quiet_runtime(options):
        session = _create(path, options, wanted)
    if _provider(session) != wanted:
        reason = _missing_library() or f"ONNX Runtime fell back to {_provider(session)}"
        raise EngineError(f"device {device!r} is demanded, but {reason}{_WAY_OUT}")
    return session


_WAY_OUT = ": install the driver and `limelight[cuda]`, or set LIMELIGHT_DEVICE=auto"


def _create(path: Path, options: ort.SessionOptions, provider: Provider) -> ort.InferenceSession:
    available = set(ort.get_available_providers())
    providers = [
        entry
        for entry in _PROVIDERS[provider]
        if (entry if isinstance(entry, str) else entry[0]) in available
    ]
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # see `Engine.run`
        raise EngineError(f"ONNX Runtime cannot load {path}: {error}") from error


def _provider(session: ort.InferenceSession) -> Provider:
    return _NAMES[session.get_providers()[0]]


@functools.cache
def cuda_obstacle() -> str | None:
    """Why no GPU can be used in this process, or None. Loads CUDA's libraries where there is one.

    The driver is asked first: without it the runtime only writes an error to the log and takes
    the CPU.
    """
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "this ONNX Runtime is built without CUDA"
    obstacle = gpu.driver_obstacle()
    if obstacle is not None:
        return obstacle
    # It prints what it cannot find; what matters of that is said with the error.
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()
    return None


def _missing_library() -> str | None:
    """Name the library that keeps the CUDA provider from loading."""
    folder = Path(ort.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return str(error)
    return None


@contextlib.contextmanager
def _quiet_runtime(options: ort.SessionOptions) -> Iterator[None]:
    """Keep the runtime from logging a fallback that we report in our own words."""
    level = options.log_severity_level
    ort.set_default_logger_severity(_FATAL)
    options.log_severity_level = _FATAL
    try:
        yield
    finally:
        options.log_severity_level = level
        ort.set_default_logger_severity(2)


@functools.cache
def _say_once(message: str) -> None:
    logger.warning(message)


def _check_graph(
    session: ort.InferenceSession, file: str, manifest: Manifest, outputs: Sequence[TensorSpec]
) -> None:
    rule, classes = manifest.image, len(manifest.classes)
    promised = {
        "images": (rule.height, rule.width, rule.channels),
        "logits": (classes,),
        "probabilities": (classes,),
        "cams": (classes, *manifest.cam_shape),
    }
    for tensor in (*manifest.inputs, *manifest.outputs):
        if tensor.name in promised and tuple(tensor.shape[1:]) != promised[tensor.name]:
            raise EngineError(
                f"{manifest.name}: the manifest contradicts itself: {tensor.name!r} is "
                f"{tensor.shape}, but classes and image demand (N, "
                f"{', '.join(map(str, promised[tensor.name]))}): export the run again"
            )
    for specs, nodes in (
        (manifest.inputs, session.get_inputs()),
        (outputs, session.get_outputs()),
    ):
        graph = {node.name: node for node in nodes}
        for tensor in specs:
            node = graph.get(tensor.name)
            if node is None or not _agree(tensor, node.type, node.shape):
                found = "absent" if node is None else f"{node.type} {node.shape}"
                raise EngineError(
                    f"{file} of {manifest.name}: {tensor.name!r} is {found}, and the "
                    f"manifest says {tensor.dtype} {list(tensor.shape)}: export the run again"
                )


def _agree(tensor: TensorSpec, graph_type: str, graph_shape: Sequence[int | str | None]) -> bool:
    """Fixed sizes must be equal; where the graph leaves one open, the warm-up finds out."""
    if _TYPES.get(graph_type) != tensor.dtype or len(graph_shape) != len(tensor.shape):
        return False
    return all(
        not isinstance(actual, int) or actual == said
        for said, actual in zip(tensor.shape, graph_shape, strict=True)
    )
