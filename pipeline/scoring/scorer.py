"""Label images with the service's decoding and engine; threads decode ahead."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from limelight.artifact.store import Artifact
from limelight.errors import LimelightError, MissingImage
from limelight.explanations.bounding_box import locate
from limelight.imaging.preprocessing import Upload, read_upload
from limelight.runtime.engine import Engine
from limelight.runtime.onnx_session import Device
from pipeline.data.labelled_files import MAX_PIXELS
from pipeline.scoring.sources import Chunk

TOP = 3
_STRINGS, _FLOATS, _PIXELS = pa.list_(pa.string()), pa.list_(pa.float32()), pa.list_(pa.float64())


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Options of bulk scoring."""

    device: Device = "auto"
    batch_size: int = 256
    threads: int = 0  # of the engine; 0 uses every core
    decoders: int = 4  # threads that read and decode
    explain: bool = False  # adds the box of the evidence for the label


@dataclass(frozen=True, slots=True)
class Problem:
    """Reason why an image has no label: error code and message of the service."""

    code: str
    detail: str


Read = Upload | Problem


class Scorer:
    """An engine, and the threads that decode for it.

    Raises:
        EngineError: the device is not available, or the graph contradicts the manifest.

    """

    def __init__(self, artifact: Artifact, settings: Settings) -> None:
        self._engine = Engine(artifact, device=settings.device, threads=settings.threads)
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.decoders, "decode")
        self._classes = np.array(artifact.manifest.classes, object)
        self._outputs = ["probabilities", "cams"] if settings.explain else ["probabilities"]

    def score(
        self, chunk: Chunk, on_images: Callable[[int], None] = lambda images: None
    ) -> tuple[pa.Table, pa.Table]:
        """Label the images of `chunk`: tables of labels, and of bad images with the reason.

        `on_images` is called with the number of images of each batch.
        """
        good: list[int] = []
        problems: dict[int, Problem] = {}
        labelled: list[pa.Table] = []
        start = 0
        for batch in self._decoded(chunk.bodies):
            uploads: list[Upload] = []
            for at, read in enumerate(batch, start):
                if isinstance(read, Problem):
                    problems[at] = read
                else:
                    good.append(at)
                    uploads.append(read)
            if uploads:
                labelled.append(self._label(uploads))
            start += len(batch)
            on_images(len(batch))
        answers = pa.concat_tables(labelled) if labelled else self._label([])
        bad = {
            "code": pa.array([problem.code for problem in problems.values()], pa.string()),
            "detail": pa.array([problem.detail for problem in problems.values()], pa.string()),
        }
        return _beside(chunk.ids, good, answers), _beside(chunk.ids, list(problems), pa.table(bad))

    def _decoded(self, bodies: list[Path | bytes | None]) -> Iterator[list[Read]]:
        """Yield batches; each is decoded while the network runs on the one before it."""
        size = self._settings.batch_size
        pending: list[Future[list[Read]]] = []
        for start in range(0, len(bodies), size):
            upcoming = self._submit(bodies[start : start + size])
            if pending:
                yield _joined(pending)
            pending = upcoming
        if pending:
            yield _joined(pending)

    def _submit(self, bodies: list[Path | bytes | None]) -> list[Future[list[Read]]]:
        share = -(-len(bodies) // self._settings.decoders)
        return [
            self._pool.submit(self._read, bodies[start : start + share])
            for start in range(0, len(bodies), share)
        ]

    def _read(self, bodies: list[Path | bytes | None]) -> list[Read]:
        return [self._read_one(body) for body in bodies]

    def _read_one(self, body: Path | bytes | None) -> Read:
        rule = self._engine.manifest.image
        try:
            if body is None:
                raise MissingImage("the row has no image")
            encoded = body.read_bytes() if isinstance(body, Path) else body
            return read_upload(encoded, rule, max_pixels=MAX_PIXELS)
        except LimelightError as error:
            return Problem(error.code, error.detail)
        except OSError as error:
            return Problem("unreadable_file", error.strerror or str(error))

    def _label(self, uploads: list[Upload]) -> pa.Table:
        """Label a batch; without `uploads` the columns are empty."""
        rule = self._engine.manifest.image
        images = np.zeros((len(uploads), rule.height, rule.width, rule.channels), np.uint8)
        for at, upload in enumerate(uploads):
            images[at] = upload.pixels_hwc
        classes = len(self._classes)
        outputs = (
            self._engine.run(images, self._outputs)
            if uploads
            else {"probabilities": np.zeros((0, classes), np.float32)}
        )
        probabilities = outputs["probabilities"]
        # In a tie the first class wins, as in the service.
        ranked = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
        top = np.take_along_axis(probabilities, ranked, axis=1)
        columns = {
            "label": pa.array(self._classes[ranked[:, 0]], pa.string()),
            "confidence": pa.array(top[:, 0]),
            "top_classes": pa.array(self._classes[ranked].tolist(), _STRINGS),
            "top_probabilities": pa.array(list(top), _FLOATS),
        }
        if self._settings.explain:
            boxes = [
                _box(outputs["cams"][at, ranked[at, 0]], upload)
                for at, upload in enumerate(uploads)
            ]
            columns["box"] = pa.array(boxes, _PIXELS)
        return pa.table(columns)


def _joined(pending: list[Future[list[Read]]]) -> list[Read]:
    return [read for future in pending for read in future.result()]


def _box(cam_hw: NDArray[np.float32], upload: Upload) -> tuple[float, float, float, float]:
    box, _ = locate(cam_hw, upload.view, (upload.width, upload.height))
    return box.left, box.top, box.right, box.bottom


def _beside(ids: pa.Table, rows: list[int], columns: pa.Table) -> pa.Table:
    table = ids.take(pa.array(rows, pa.int64()))
    for name in columns.column_names:
        table = table.append_column(name, columns.column(name))
    return table
