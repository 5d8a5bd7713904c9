"""Inference engine: runs the graphs of one artefact."""

import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from limelight.artifact.manifest import Manifest, TensorSpec
from limelight.artifact.store import Artifact
from limelight.runtime import cuda
from limelight.runtime.io_binding import IoBinding
from limelight.runtime.onnx_session import (
    Device,
    EngineError,
    Precision,
    Provider,
    cuda_problem,
    open_session,
)
from limelight.runtime.sessions import Sessions

logger = logging.getLogger("limelight.engine")

_TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
# LayerCAM maps take several megabytes an image, and ONNX Runtime keeps the memory of the largest
# batch.
_MAX_LAYERCAM_BATCH = 8
_COMPARED_OUTPUTS = ("probabilities",)
# fp16 layers may sum in another order for another batch size.
_TOLERANCE = 0.01


class Engine:
    """Inference engine of one artefact. `run` may be called from several threads.

    Args:
        artifact: verified artefact to run.
        device: ``auto`` selects a GPU if one is usable, otherwise the CPU. Any other value
            raises if that device is not usable.
        threads: CPU threads of a forward pass; 0 uses every core.
        precision: precision of the layers. ``auto`` selects float16 on a GPU if the artefact has
            such a graph, otherwise float32; for int8, see `limelight.runtime.precision`. Any other
            value raises if the artefact has no such graph. LayerCAM maps are always computed in
            float32.
        io_binding: run with preallocated buffers (see `limelight.runtime.io_binding`). The default
            is to do so on a GPU only: on a CPU the padding of batches costs time, and bound memory
            saves none.
        layercam_of: engine of the same artefact, device and threads, whose sessions of the LayerCAM
            graph this one uses too.

    Attributes:
        precision: precision of the layers in a forward pass without LayerCAM maps.
        file: name of the graph that such a forward pass runs.
        precision_reason: why it has this precision; see `limelight.runtime.precision`.

    Raises:
        EngineError: the provider or the precision is not available, or the graph does not match
            the manifest.
        ArtifactError: a file was altered since the artefact was loaded, or keeps weights in a file
            that the manifest does not list.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        device: Device = "auto",
        threads: int = 1,
        precision: Literal["auto", Precision] = "auto",
        io_binding: bool | None = None,
        layercam_of: "Engine | None" = None,
    ) -> None:
        self.manifest = artifact.manifest
        self.precision_reason = ""

        def sessions(file: str) -> Sessions:
            graph = artifact.graph(file)
            return Sessions(partial(open_session, graph, device=device, threads=threads))

        self.file, self.precision = _choose(artifact, precision, device)
        self._sessions = sessions(self.file)
        if (precision, self.precision, self.provider) == ("auto", "float16", "CPU"):
            # float16 was chosen for a GPU, but the session fell back to the CPU.
            self.file, self.precision = self.manifest.onnx_file, "float32"
            self._sessions = sessions(self.file)
        self._io_binding: IoBinding | None = None
        self._layercam_binding: IoBinding | None = None
        self._expensive = expensive = self.manifest.expensive_outputs
        _check_graph(
            self._sessions.first,
            self.file,
            self.manifest,
            [tensor for tensor in self.manifest.outputs if tensor.name not in expensive],
        )
        self._layercam: Sessions | None = None
        if layercam_of is not None:
            self._layercam = layercam_of._layercam
        elif (layercam := self.manifest.layercam_file) is not None:
            self._layercam = sessions(layercam)
            _check_graph(self._layercam.first, layercam, self.manifest, self.manifest.outputs)
        on_gpu = self.provider != "CPU"
        if on_gpu if io_binding is None else io_binding:
            self._io_binding = self._bind(self._sessions)
            self._layercam_binding = None if self._layercam is None else self._bind(self._layercam)

    @property
    def provider(self) -> Provider:
        """Execution provider that the session uses."""
        return self._sessions.provider

    @property
    def bound(self) -> bool:
        """True if buffers are bound to the sessions; `warm_up` unbinds them if they fail."""
        return self._io_binding is not None

    def run(
        self, images_nhwc: NDArray[np.uint8], outputs: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        """Run a forward pass: uint8 (N, H, W, C) -> each of `outputs` by name, N first.

        ONNX Runtime always computes the whole graph. Expensive outputs therefore have a graph of
        their own, which runs only if one of `Manifest.expensive_outputs` is requested.

        Raises:
            ValueError: the images do not have the network's size and type.
            EngineError: ONNX Runtime failed, or returned values that are not finite.
        """
        rule = self.manifest.image
        wanted = (rule.height, rule.width, rule.channels)
        if images_nhwc.shape[1:] != wanted or images_nhwc.dtype != np.uint8:
            raise ValueError(
                f"images must be uint8 (N, {', '.join(map(str, wanted))}), "
                f"not {images_nhwc.dtype} {images_nhwc.shape}"
            )
        if self._layercam is None or self._expensive.isdisjoint(outputs):
            return self._forward(self._sessions, self._io_binding, images_nhwc, outputs)
        starts = range(0, len(images_nhwc) or 1, _MAX_LAYERCAM_BATCH)
        parts = [
            self._forward(
                self._layercam,
                self._layercam_binding,
                images_nhwc[at : at + _MAX_LAYERCAM_BATCH],
                outputs,
            )
            for at in starts
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in outputs}

    def _forward(
        self,
        sessions: Sessions,
        io_binding: IoBinding | None,
        images_nhwc: NDArray[np.uint8],
        outputs: Sequence[str],
    ) -> dict[str, NDArray[np.float32]]:
        try:
            results = None if io_binding is None else io_binding.run(images_nhwc, outputs)
            if results is None:
                results = sessions.run(images_nhwc, outputs)
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise EngineError(
                f"ONNX Runtime failed on {len(images_nhwc)} images: {error}"
            ) from error
        if not all(np.isfinite(result).all() for result in results):
            raise EngineError(f"{self.manifest.name} gave values that are not finite")
        return dict(zip(outputs, results, strict=True))

    def _bind(self, sessions: Sessions) -> IoBinding:
        rule, on_gpu = self.manifest.image, self.provider != "CPU"
        return IoBinding(
            sessions,
            image_shape=(rule.height, rule.width, rule.channels),
            output_shapes={tensor.name: tensor.shape[1:] for tensor in self.manifest.outputs},
            device="cuda" if on_gpu else "cpu",
            allocate=cuda.page_locked if on_gpu else np.empty,
        )

    def warm_up(self, batch_sizes: Sequence[int] = (1, 2)) -> float:
        """Run blank images at each batch size, check the outputs and return the seconds it took.

        Raises:
            EngineError: the shape of an output differs from the manifest's, or see `run`.
        """
        started = time.perf_counter()
        self._compare_io_binding()
        cheap = [tensor for tensor in self.manifest.outputs if tensor.name not in self._expensive]
        for batch in batch_sizes:
            self._check_outputs(self._sessions, batch, cheap)
        if self._layercam is not None:
            for batch in batch_sizes if self._layercam.fixed_sizes else (1,):
                if batch <= _MAX_LAYERCAM_BATCH:
                    self._check_outputs(self._layercam, batch, self.manifest.outputs)
        return time.perf_counter() - started

    def _compare_io_binding(self) -> None:
        """Turn I/O binding off if its outputs differ from those of a plain run, in any of 3 runs.

        The runtime, the driver and the device decide where a session reads its input and when its
        outputs are complete. A mistake there would give wrong answers without any error.
        """
        if self._io_binding is None:
            return
        rule, rng = self.manifest.image, np.random.default_rng(0)
        shape = (3, rule.height, rule.width, rule.channels)
        problem = None
        for _ in range(3):
            images = rng.integers(0, 256, shape, np.uint8)
            wanted = self._forward(self._sessions, None, images, _COMPARED_OUTPUTS)
            try:
                found = self._forward(self._sessions, self._io_binding, images, _COMPARED_OUTPUTS)
            except EngineError as error:
                problem = str(error)
                break
            worst = max(
                float(np.abs(found[name] - wanted[name]).max()) for name in _COMPARED_OUTPUTS
            )
            if not worst <= _TOLERANCE:
                problem = f"its probabilities differ by {worst:.2g}"
                break
        if problem is not None:
            logger.warning("%s runs without I/O binding: %s", self.manifest.name, problem)
            self._io_binding = self._layercam_binding = None

    def _check_outputs(self, sessions: Sessions, batch: int, outputs: Sequence[TensorSpec]) -> None:
        rule = self.manifest.image
        blank = np.zeros((batch, rule.height, rule.width, rule.channels), np.uint8)
        results = self._forward(sessions, None, blank, [tensor.name for tensor in outputs])
        for tensor in outputs:
            shape, wanted = results[tensor.name].shape, (batch, *tensor.shape[1:])
            if shape != wanted:
                raise EngineError(
                    f"output {tensor.name!r} of {self.manifest.name} is {shape}, and its manifest "
                    f"says {wanted}: export the run again"
                )


def _choose(
    artifact: Artifact, precision: Literal["auto", Precision], device: Device
) -> tuple[str, Precision]:
    """Choose the file to run, and return its name with the precision of its layers."""
    manifest = artifact.manifest
    files: dict[Precision, str | None] = {
        "float32": manifest.onnx_file,
        "float16": manifest.fp16_file,
        "int8": manifest.int8_file,
    }
    if precision == "auto":
        on_gpu = device != "cpu" and cuda_problem() is None
        precision = "float16" if on_gpu and manifest.fp16_file is not None else "float32"
    if precision not in files:
        raise EngineError(f"no precision {precision!r}: use one of auto, {', '.join(files)}")
    file = files[precision]
    if file is None:
        raise EngineError(
            f"{manifest.name} {manifest.version} has no {precision} graph: export it with "
            f"{_OPTIONS[precision]}, or set LIMELIGHT_PRECISION=auto"
        )
    return file, precision


_OPTIONS: dict[Precision, str] = {"float16": "--fp16", "int8": "--int8"}


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
    """Return whether types and fixed sizes are equal; `warm_up` checks the free dimensions."""
    if _TYPES.get(graph_type) != tensor.dtype or len(graph_shape) != len(tensor.shape):
        return False
    return all(
        not isinstance(actual, int) or actual == said
        for said, actual in zip(tensor.shape, graph_shape, strict=True)
    )
