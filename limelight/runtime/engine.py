"""The network itself: the graphs of one artefact, and what comes out of a pass."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
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
    provider_of,
)

logger = logging.getLogger("limelight.engine")

_TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
# Finer maps take some megabytes an image, which the runtime would keep of the largest batch.
_MOST_LAYERCAMS = 8
_COMPARED = ("probabilities",)
# Of float16 layers, which may be added up in another order for another size of batch.
_AGREEMENT = 0.01


class Engine:
    """Runs the network of one artefact. `run` may be called from several threads.

    Args:
        artifact: what to run, already verified.
        device: ``auto`` takes a GPU where one is usable and the CPU elsewhere; any other is
            a demand.
        threads: CPU threads for one pass; 0 is every core.
        precision: of the network's layers. ``auto`` takes float16 on a GPU, where the artefact has
            such a graph, and float32 elsewhere; any other is a demand. Finer maps are float32.
        lanes: run passes in `limelight.runtime.io_binding`, as a GPU does by default. On a CPU each
            blank image has its price, and bound memory brings nothing.

    Attributes:
        precision: what the layers compute in, in a pass without finer maps.
        file: the artefact's graph that such a pass runs.

    Raises:
        EngineError: the demanded provider or precision cannot be had, or the graph is not what
            the manifest says.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        device: Device = "auto",
        threads: int = 1,
        precision: Literal["auto", Precision] = "auto",
        io_binding: bool | None = None,
    ) -> None:
        self.manifest = artifact.manifest
        path, self.precision = _choose(artifact, precision, device)
        session = open_session(path, device=device, threads=threads)
        if (precision, self.precision) == ("auto", "float16") and provider_of(session) == "CPU":
            # It was meant for a GPU, which could not be had after all.
            path, self.precision = artifact.onnx_path, "float32"
            session = open_session(path, device=device, threads=threads)
        self._session = session
        self._io_binding: IoBinding | None = None
        self._layercam_binding: IoBinding | None = None
        self.file = path.name
        self._expensive = expensive = self.manifest.expensive_outputs
        _check_graph(
            self._session,
            self.file,
            self.manifest,
            [tensor for tensor in self.manifest.outputs if tensor.name not in expensive],
        )
        self._layercam: ort.InferenceSession | None = None
        if artifact.layercam_path is not None:
            self._layercam = open_session(artifact.layercam_path, device=device, threads=threads)
            _check_graph(
                self._layercam, artifact.layercam_path.name, self.manifest, self.manifest.outputs
            )
        on_gpu = self.provider != "CPU"
        if on_gpu if io_binding is None else io_binding:
            self._io_binding = self._bind(session)
            self._layercam_binding = self._layercam and self._bind(self._layercam)

    @property
    def provider(self) -> Provider:
        """Where the network really runs, as the session says."""
        return provider_of(self._session)

    @property
    def bound(self) -> bool:
        """Whether memory is bound to the sessions; `warm_up` gives that up where it fails."""
        return self._io_binding is not None

    def run(
        self, images_nhwc: NDArray[np.uint8], outputs: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        """One pass: uint8 (N, H, W, C) -> each of `outputs` by its name, N first.

        The runtime computes the whole of a graph, whichever are named. What is expensive has one of
        its own, which is run where one of `Manifest.expensive_outputs` is named, and only there.

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
        if self._layercam is None or self._expensive.isdisjoint(outputs):
            return self._pass(self._session, self._io_binding, images_nhwc, outputs)
        starts = range(0, len(images_nhwc) or 1, _MOST_LAYERCAMS)
        parts = [
            self._pass(
                self._layercam,
                self._layercam_binding,
                images_nhwc[at : at + _MOST_LAYERCAMS],
                outputs,
            )
            for at in starts
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in outputs}

    def _pass(
        self,
        session: ort.InferenceSession,
        io_binding: IoBinding | None,
        images_nhwc: NDArray[np.uint8],
        outputs: Sequence[str],
    ) -> dict[str, NDArray[np.float32]]:
        try:
            results = None if io_binding is None else io_binding.run(images_nhwc, outputs)
            if results is None:
                results = session.run(list(outputs), {"images": np.ascontiguousarray(images_nhwc)})
        except Exception as error:  # the runtime's exceptions share no base of their own
            raise EngineError(
                f"ONNX Runtime failed on {len(images_nhwc)} images: {error}"
            ) from error
        if not all(np.isfinite(result).all() for result in results):
            raise EngineError(f"{self.manifest.name} gave values that are not finite")
        return dict(zip(outputs, results, strict=True))

    def _bind(self, session: ort.InferenceSession) -> IoBinding:
        rule, on_gpu = self.manifest.image, self.provider != "CPU"
        return IoBinding(
            session,
            image_shape=(rule.height, rule.width, rule.channels),
            output_shapes={tensor.name: tensor.shape[1:] for tensor in self.manifest.outputs},
            device="cuda" if on_gpu else "cpu",
            allocate=cuda.page_locked if on_gpu else np.empty,
        )

    def warm_up(self, batch_sizes: Sequence[int] = (1, 2)) -> float:
        """Run blank images at each batch size and check what comes out; seconds it took.

        Raises:
            EngineError: an output has another shape than the manifest says, or see `run`.
        """
        started = time.perf_counter()
        self._compare_io_binding()
        cheap = [tensor for tensor in self.manifest.outputs if tensor.name not in self._expensive]
        for batch in batch_sizes:
            self._try_out(self._session, batch, cheap)
        if self._layercam is not None:
            self._try_out(self._layercam, 1, self.manifest.outputs)
        return time.perf_counter() - started

    def _compare_io_binding(self) -> None:
        """Do without lanes where they do not give, each time, what the runtime's own way gives.

        Where a session reads its input and when it has written its outputs is between the runtime,
        the driver and the device; a wrong answer would look like any other.
        """
        if self._io_binding is None:
            return
        rule, rng = self.manifest.image, np.random.default_rng(0)
        shape = (3, rule.height, rule.width, rule.channels)
        problem = None
        for _ in range(3):
            images = rng.integers(0, 256, shape, np.uint8)
            wanted = self._pass(self._session, None, images, _COMPARED)
            try:
                found = self._pass(self._session, self._io_binding, images, _COMPARED)
            except EngineError as error:
                problem = str(error)
                break
            worst = max(float(np.abs(found[name] - wanted[name]).max()) for name in _COMPARED)
            if not worst <= _AGREEMENT:
                problem = f"its probabilities differ by {worst:.2g}"
                break
        if problem is not None:
            logger.warning("%s runs without bound memory: %s", self.manifest.name, problem)
            self._io_binding = self._layercam_binding = None

    def _try_out(
        self, session: ort.InferenceSession, batch: int, outputs: Sequence[TensorSpec]
    ) -> None:
        rule = self.manifest.image
        blank = np.zeros((batch, rule.height, rule.width, rule.channels), np.uint8)
        results = self._pass(session, None, blank, [tensor.name for tensor in outputs])
        for tensor in outputs:
            shape, wanted = results[tensor.name].shape, (batch, *tensor.shape[1:])
            if shape != wanted:
                raise EngineError(
                    f"output {tensor.name!r} of {self.manifest.name} is {shape}, and its manifest "
                    f"says {wanted}: export the run again"
                )


def _choose(
    artifact: Artifact, precision: Literal["auto", Precision], device: Device
) -> tuple[Path, Precision]:
    """The graph to run, and what its layers compute in."""
    fp16 = artifact.fp16_path
    if precision == "float16" and fp16 is None:
        manifest = artifact.manifest
        raise EngineError(
            f"{manifest.name} {manifest.version} has no float16 graph: export it with --fp16, or "
            "set LIMELIGHT_PRECISION=auto"
        )
    on_gpu = device != "cpu" and cuda_problem() is None
    if fp16 is not None and (precision == "float16" or (precision == "auto" and on_gpu)):
        return fp16, "float16"
    return artifact.onnx_path, "float32"


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
