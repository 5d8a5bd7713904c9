"""Label images with the in-process classifier; threads decode ahead of it."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from limelight.artifact.store import Artifact
from limelight.classifier import Classifier
from limelight.errors import LimelightError, MissingImage
from limelight.imaging.preprocessing import Upload
from limelight.results import Explanation, Prediction
from limelight.runtime.onnx_session import Device
from limelight.runtime.precision import choose_engine
from pipeline.data.labelled_files import MAX_PIXELS
from pipeline.scoring.sources import Chunk

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
    """A classifier, and the threads that decode for it.

    Raises:
        EngineError: the device is not available, or the graph contradicts the manifest.

    """

    def __init__(self, artifact: Artifact, settings: Settings) -> None:
        engine = choose_engine(artifact, device=settings.device, threads=settings.threads)
        self._classifier = Classifier(engine, max_pixels=MAX_PIXELS)
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.decoders, "decode")

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
        try:
            if body is None:
                raise MissingImage("the row has no image")
            return self._classifier.read(body)
        except LimelightError as error:
            return Problem(error.code, error.detail)
        except OSError as error:
            return Problem("unreadable_file", error.strerror or str(error))

    def _label(self, uploads: list[Upload]) -> pa.Table:
        """Label a batch; without `uploads` the columns are empty."""
        explanations: list[Explanation] = []
        predictions: Sequence[Prediction | Explanation]
        if self._settings.explain:
            predictions = explanations = self._classifier.explain_batch(uploads)
        else:
            predictions = self._classifier.predict_batch(uploads)
        scores = [each.scores for each in predictions]
        columns = {
            "label": pa.array([each.label for each in predictions], pa.string()),
            "confidence": pa.array([each.confidence for each in predictions], pa.float32()),
            "top_classes": pa.array([[s.label for s in row] for row in scores], _STRINGS),
            "top_probabilities": pa.array(
                [[s.probability for s in row] for row in scores], _FLOATS
            ),
        }
        if self._settings.explain:
            columns["box"] = pa.array([each.cam.box for each in explanations], _PIXELS)
        return pa.table(columns)


def _joined(pending: list[Future[list[Read]]]) -> list[Read]:
    return [read for future in pending for read in future.result()]


def _beside(ids: pa.Table, rows: list[int], columns: pa.Table) -> pa.Table:
    table = ids.take(pa.array(rows, pa.int64()))
    for name in columns.column_names:
        table = table.append_column(name, columns.column(name))
    return table
