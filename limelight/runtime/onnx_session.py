"""Sessions of ONNX Runtime, opened on the requested provider or not at all."""

import contextlib
import ctypes
import functools
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import onnxruntime as ort

from limelight.artifact.store import OnnxGraph
from limelight.runtime import cuda

logger = logging.getLogger("limelight.engine")

Device = Literal["auto", "cuda", "tensorrt", "cpu"]
Provider = Literal["CPU", "CUDA", "TensorRT"]
Precision = Literal["float32", "float16", "int8"]

_NAMES: dict[str, Provider] = {
    "CPUExecutionProvider": "CPU",
    "CUDAExecutionProvider": "CUDA",
    "TensorrtExecutionProvider": "TensorRT",
}
_WANTED: dict[str, Provider] = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}
# TF32 would lose three digits of the parity with PyTorch that an export guarantees. An exhaustive
# search for convolution algorithms would take seconds at every new batch size.
CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
_PROVIDERS: dict[Provider, list[Any]] = {
    "CPU": ["CPUExecutionProvider"],
    "CUDA": [("CUDAExecutionProvider", CUDA_OPTIONS), "CPUExecutionProvider"],
    "TensorRT": [
        "TensorrtExecutionProvider",
        ("CUDAExecutionProvider", CUDA_OPTIONS),
        "CPUExecutionProvider",
    ],
}
_FATAL = 4


class EngineError(Exception):
    """The network cannot be run as requested; the message says why and what to do."""


def open_session(graph: OnnxGraph, *, device: Device, threads: int) -> ort.InferenceSession:
    """Load a graph. ONNX Runtime gets its bytes, and opens no file.

    Args:
        graph: verified bytes of an ONNX file.
        device: ``auto`` selects a GPU if one is usable, otherwise the CPU. Any other value
            raises if that device is not usable.
        threads: CPU threads of a forward pass; 0 uses every core.

    Raises:
        EngineError: the requested provider is not usable, or the file is not an ONNX graph.
    """
    if device != "auto" and device not in _WANTED:
        raise EngineError(f"there is no device {device!r}: use one of auto, {', '.join(_WANTED)}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads would occupy the cores that decoding and HTTP need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Not the runtime's own format, whose external weights `Artifact.graph` does not see.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if graph.external:
        names, contents = list(graph.external), list(graph.external.values())
        options.add_external_initializers_from_files_in_memory(
            names, contents, [len(content) for content in contents]
        )
    wanted = _WANTED.get(device)
    if wanted is None:
        problem = cuda_problem()
        if problem is None:
            with _quiet_runtime(options):
                session = _create(graph, options, "CUDA")
            if provider_of(session) == "CUDA":
                return session
            problem = _missing_library() or "ONNX Runtime could not set up CUDA"
        _warn_once(f"no usable GPU ({problem}): the networks run on the CPU")
        return _create(graph, options, "CPU")
    if wanted == "CPU":
        return _create(graph, options, wanted)
    problem = cuda_problem()
    if problem is not None:
        raise EngineError(f"device {device!r} is demanded, but {problem}{_REMEDIES['CUDA']}")
    with _quiet_runtime(options):
        session = _create(graph, options, wanted)
    if provider_of(session) != wanted:
        reason = _missing_library() or f"ONNX Runtime fell back to {provider_of(session)}"
        raise EngineError(f"device {device!r} is demanded, but {reason}{_REMEDIES[wanted]}")
    return session


_REMEDIES: dict[Provider, str] = {
    "CUDA": ": install the driver and `limelight[cuda]`, or set LIMELIGHT_DEVICE=auto",
    "TensorRT": ": install TensorRT's libraries where the loader finds them, or set "
    "LIMELIGHT_DEVICE=auto",
}


def _create(
    graph: OnnxGraph, options: ort.SessionOptions, provider: Provider
) -> ort.InferenceSession:
    available = set(ort.get_available_providers())
    providers = [
        entry
        for entry in _PROVIDERS[provider]
        if (entry if isinstance(entry, str) else entry[0]) in available
    ]
    if provider == "CPU":
        _register_shared_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        session = ort.InferenceSession(graph.content, options, providers=providers)
    except Exception as error:  # see `Engine.run`
        raise EngineError(f"ONNX Runtime cannot load {graph.path}: {error}") from error
    if provider == "CPU":
        # ONNX Runtime keeps the bytes of the file, to open it on another provider if a run fails.
        # There is no other one, and they take as much memory as the weights.
        session.disable_fallback()
        session._model_bytes = None  # there is no public way
    return session


@functools.cache
def _register_shared_arena() -> None:
    """Register one arena for the tensors of all CPU sessions of this process.

    By default every session has an arena, which keeps the memory of its largest batch: four models
    would keep it four times, and once more for each LayerCAM graph.
    """
    memory = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    # It doubles by default. If it grew by what is needed, blocks for batches of different sizes
    # would lie side by side and never be joined: 180 MB instead of 17 MB for sizes from 1 to 32.
    ort.create_and_register_allocator(memory, None)


def provider_of(session: ort.InferenceSession) -> Provider:
    """Return the execution provider that the session uses."""
    return _NAMES[session.get_providers()[0]]


@functools.cache
def cuda_problem() -> str | None:
    """Return the reason why this process cannot use a GPU, or None after loading CUDA's libraries.

    The driver is checked first. Without a driver, ONNX Runtime would only log an error and fall
    back to the CPU.
    """
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "this ONNX Runtime is built without CUDA"
    problem = cuda.driver_problem()
    if problem is not None:
        return problem
    # It prints the libraries that it cannot find. `EngineError` names the one that matters.
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()
    return None


def _missing_library() -> str | None:
    """Return the loader's error about the library that the CUDA provider lacks, or None."""
    folder = Path(ort.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return str(error)
    return None


@contextlib.contextmanager
def _quiet_runtime(options: ort.SessionOptions) -> Iterator[None]:
    """Keep ONNX Runtime from logging a fallback that this module reports itself."""
    level = options.log_severity_level
    ort.set_default_logger_severity(_FATAL)
    options.log_severity_level = _FATAL
    try:
        # A fallback is also printed.
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        options.log_severity_level = level
        ort.set_default_logger_severity(2)


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)
