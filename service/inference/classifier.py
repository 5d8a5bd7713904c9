"""Classifier of one served model. All requests share its batches."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from limelight import predict_explain
from limelight.artifact.manifest import Manifest
from limelight.errors import LimelightError
from limelight.explanations.options import ExplainOptions, OverlayStyle
from limelight.explanations.overlay import png
from limelight.image_source import EncodedImage
from limelight.imaging.preprocessing import Upload
from limelight.result_builder import ResultBuilder
from limelight.results import Explanation, Prediction
from limelight.runtime.engine import Engine
from service.inference.batching import Batcher, Row
from service.request_context import RequestContext


class Classifier:
    """Served model: decodes and prepares images, runs them in shared batches, builds the results.

    Attributes:
        results: builds results from outputs, with the model's classes, thresholds and methods.
    """

    def __init__(
        self,
        *,
        manifest: Manifest,
        engine: Engine,
        batcher: Batcher,
        max_pixels: int,
        max_evaluations: int = 256,
    ) -> None:
        self.manifest = manifest
        self.engine = engine
        self.batcher = batcher
        self.results = ResultBuilder(manifest, max_evaluations=max_evaluations)
        self._max_pixels = max_pixels

    def rejection(self, context: RequestContext, *, low_priority: bool) -> LimelightError | None:
        """Return the reason to reject an image now; see `Admission.rejection`."""
        return self.batcher.admission.rejection(context, low_priority=low_priority)

    def admit(self, context: RequestContext, *, low_priority: bool) -> AbstractContextManager[None]:
        """Admit one image until it is answered; see `Admission.admit`."""
        return self.batcher.admission.admit(context, low_priority=low_priority)

    async def predict(
        self, body: bytes, *, top_k: int | None = None, context: RequestContext
    ) -> Prediction:
        """Classify an encoded image.

        Raises:
            LimelightError: the image or a parameter is rejected; see `limelight.errors`.
        """
        runner = _Batched(self.batcher, context)
        return await predict_explain.predict(self.results, runner, self._source(body), top_k=top_k)

    async def explain(
        self,
        body: bytes,
        options: ExplainOptions,
        *,
        top_k: int | None = None,
        context: RequestContext,
    ) -> Explanation:
        """Classify an encoded image, and map which positions support the requested class.

        Raises:
            LimelightError: the image or a parameter is rejected; see `limelight.errors`.
        """
        runner = _Batched(self.batcher, context)
        return await predict_explain.explain(
            self.results, runner, self._source(body), options, top_k=top_k
        )

    async def overlay(
        self, body: bytes, explanation: Explanation, style: OverlayStyle, context: RequestContext
    ) -> bytes:
        """Draw the map of an explanation over its image, as PNG.

        The image is decoded again at full size. The network's input may be decoded at a reduced
        size, and must not depend on the output format.
        """

        def draw() -> bytes:
            explanation.attach(self._source(body).picture)
            return png(explanation.overlay(opacity=style.opacity, colormap=style.colormap))

        started = time.perf_counter()
        picture = await asyncio.to_thread(draw)
        context.end_stage("render", started)
        return picture

    async def close(self) -> None:
        """Finish the images in progress, and end the batcher."""
        await self.batcher.close()

    async def read(self, body: bytes) -> Upload:
        """Decode an encoded image; slow formats and sizes are decoded in a thread.

        Raises:
            LimelightError: the image is rejected; see `read_upload`.
        """
        source, rule = self._source(body), self.manifest.image
        return await _read(lambda: source.read(rule), quick=source.is_quick(rule))

    def _source(self, body: bytes) -> EncodedImage:
        return EncodedImage(body, self._max_pixels)


class _Batched:
    """Runner of one request's forward passes in the shared batches."""

    __slots__ = ("_batcher", "_context")

    def __init__(self, batcher: Batcher, context: RequestContext) -> None:
        self._batcher, self._context = batcher, context

    async def read(self, read: Callable[[], Upload], *, quick: bool) -> Upload:
        started = time.perf_counter()
        upload = await _read(read, quick=quick)
        self._context.end_stage("decode", started)
        return upload

    async def run(self, pixels_hwc: NDArray[np.uint8], outputs: tuple[str, ...]) -> Row:
        return await self._batcher.submit(pixels_hwc, outputs, self._context)

    async def run_again(self, pixels_hwc: NDArray[np.uint8], outputs: tuple[str, ...]) -> Row:
        with self._batcher.admission.admit(self._context, low_priority=True):
            return await self.run(pixels_hwc, outputs)

    async def evaluate(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        with self._batcher.admission.admit(
            self._context, low_priority=True, images=len(images_nhwc)
        ):
            found = await self._batcher.submit_all(images_nhwc, ("logits",), self._context)
        return found["logits"]


async def _read(read: Callable[[], Upload], *, quick: bool) -> Upload:
    return read() if quick else await asyncio.to_thread(read)
