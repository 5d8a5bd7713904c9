"""ONNX Runtime's sessions: opened on the provider that is asked for, or not at all."""

import contextlib
import ctypes
import functools
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import onnxruntime as ort

from limelight.runtime import cuda

logger = logging.getLogger("limelight.engine")

Device = Literal["auto", "cuda", "tensorrt", "cpu"]
Provider = Literal["CPU", "CUDA", "TensorRT"]
Precision = Literal["float32", "float16"]

_NAMES: dict[str, Provider] = {
    "CPUExecutionProvider": "CPU",
    "CUDAExecutionProvider": "CUDA",
    "TensorrtExecutionProvider": "TensorRT",
}
_WANTED: dict[str, Provider] = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}
# TF32 would cost three digits of the parity that an export promises, and an exhaustive search for
# convolution algorithms seconds at every new batch size.
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
    """The network cannot be run as demanded; the message says why and what to do."""


def open_session(path: Path, *, device: Device, threads: int) -> ort.InferenceSession:
    """Load a graph.

    Args:
        path: an ONNX file.
        device: ``auto`` takes a GPU where one is usable and the CPU elsewhere; any other is
            a demand.
        threads: CPU threads for one pass; 0 is every core.

    Raises:
        EngineError: the demanded provider cannot be had, or the file is no graph.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads take the cores that decoding and HTTP need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = _WANTED.get(device)
    if wanted is None:
        problem = cuda_problem()
        if problem is None:
            with _quiet_runtime(options):
                session = _create(path, options, "CUDA")
            if provider_of(session) == "CUDA":
                return session
            problem = _missing_library() or "ONNX Runtime could not set up CUDA"
        _say_once(f"no usable GPU ({problem}): the networks run on the CPU")
        return _create(path, options, "CPU")
    if wanted == "CPU":
        return _create(path, options, wanted)
    problem = cuda_problem()
    if problem is not None:
        raise EngineError(f"device {device!r} is demanded, but {problem}{_WAY_OUT}")
    with _quiet_runtime(options):
        session = _create(path, options, wanted)
    if provider_of(session) != wanted:
        reason = _missing_library() or f"ONNX Runtime fell back to {provider_of(session)}"
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


def provider_of(session: ort.InferenceSession) -> Provider:
    """Where the network really runs, as the session says."""
    return _NAMES[session.get_providers()[0]]


@functools.cache
def cuda_problem() -> str | None:
    """Why no GPU can be used in this process, or None. Loads CUDA's libraries where there is one.

    The driver is asked first: without it the runtime only writes an error to the log and takes
    the CPU.
    """
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "this ONNX Runtime is built without CUDA"
    problem = cuda.driver_problem()
    if problem is not None:
        return problem
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
