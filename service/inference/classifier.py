"""Classifier of one served model. All requests share its batches."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelight import predict_explain
from limelight.artifact.manifest import Manifest
from limelight.errors import LimelightError
from limelight.explanations.methods import METHODS
from limelight.explanations.options import ExplainOptions, OverlayStyle
from limelight.explanations.overlay import png
from limelight.image_source import EncodedImage
from limelight.imaging.image_rule import ImageRule
from limelight.imaging.preprocessing import Upload
from limelight.result_builder import ResultBuilder
from limelight.results import Explanation, Prediction
from limelight.runtime.engine import Engine
from service.headers import DIGEST_HEADER, VERSION_HEADER
from service.inference.batching import Batcher, Row
from service.inference.decoding import DecodingPool
from service.inference.decoding_budget import MemoryHold
from service.request_context import RequestContext


class Classifier:
    """Served model: decodes and prepares images, runs them in shared batches, builds the results.

    Args:
        decoding: threads that decode, shared by all models of a worker.
        max_pixels: largest image that is accepted, width x height.
        max_picture_pixels: most pixels of the picture that a map is drawn over.
        digest: digest of the artefact.
        signature: who signed it; None if that is not verified here.

    Attributes:
        digest: SHA-256 of `manifest.json`, which has that of every other file of the artefact.
        signature: the `signature` of `/models`.
        key: name and version of the model.
        headers: HTTP headers of answers, which name the version.
        results: builds results from outputs, with the model's classes, thresholds and methods.
        memory_bytes: memory that the worker took while it loaded the model and warmed it up.
    """

    def __init__(
        self,
        *,
        manifest: Manifest,
        digest: str,
        signature: Mapping[str, Any] | None,
        engine: Engine,
        batcher: Batcher,
        decoding: DecodingPool,
        max_pixels: int,
        max_picture_pixels: int,
        max_evaluations: int = 256,
        memory_bytes: int = 0,
    ) -> None:
        self.manifest = manifest
        self.digest = digest
        self.key = manifest.name, manifest.version
        self.headers = (
            (VERSION_HEADER.encode(), "/".join(self.key).encode()),
            (DIGEST_HEADER.encode(), digest.encode()),
        )
        self.signature = signature
        self.engine = engine
        self.batcher = batcher
        self.decoding = decoding
        self.memory_bytes = memory_bytes
        self.results = ResultBuilder(manifest, max_evaluations=max_evaluations)
        # Score-CAM evaluates one masked image for each channel.
        shapes = {tensor.name: tensor.shape for tensor in manifest.outputs}
        channels = shapes.get("features", ("batch", max_evaluations))[1]
        self._channels = channels if isinstance(channels, int) else max_evaluations
        self._max_pixels = max_pixels
        self._max_picture_pixels = max_picture_pixels

    def rejection(
        self, context: RequestContext, *, low_priority: bool, masked_images: int = 0
    ) -> LimelightError | None:
        """Return the reason to reject an image and its masked images now; see `Admission`."""
        admission = self.batcher.admission
        reason = admission.rejection(context, low_priority=low_priority)
        if reason is None and masked_images:
            reason = admission.rejection(
                context, low_priority=True, images=masked_images, background=True
            )
        return reason

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
        with _Batched(self.batcher, self.decoding, context) as runner:
            return await predict_explain.predict(
                self.results, runner, self.source(body), top_k=top_k
            )

    async def explain(
        self,
        body: bytes,
        options: ExplainOptions,
        *,
        top_k: int | None = None,
        style: OverlayStyle | None = None,
        context: RequestContext,
    ) -> tuple[Explanation, bytes]:
        """Classify an encoded image, and map which positions support the requested class.

        With `style`, also draw the map over the image, as PNG. The picture of a large image is
        reduced. The second result is empty without `style`.

        Raises:
            LimelightError: the image or a parameter is rejected; see `limelight.errors`.
        """
        with _Batched(self.batcher, self.decoding, context) as runner:
            runner.reserve(self.masked_images(options.method, options.evaluations))
            explanation = await predict_explain.explain(
                self.results,
                runner,
                self.source(body),
                options,
                top_k=top_k,
                with_picture=style is not None,
            )
            if style is None:
                return explanation, b""

            def draw() -> bytes:
                return png(explanation.overlay(opacity=style.opacity, colormap=style.colormap))

            started = time.perf_counter()
            picture = await self.decoding.draw(draw, runner.picture_pixels, context)
            context.end_stage("render", started)
            return explanation, picture

    async def read_all(
        self,
        bodies: Sequence[bytes],
        context: RequestContext,
        holds: ExitStack,
        *,
        with_pictures: bool,
    ) -> list[Upload]:
        """Decode the images of one request, one after the other.

        All together may take as long as one image may. With `with_pictures`, their pictures share
        the pixels of one, and their memory is reserved until `holds` ends.

        Raises:
            LimelightError: an image is rejected, or all of them take too much memory or time.
        """
        sources = [self.source(body, images=len(bodies)) for body in bodies]
        rule = self.manifest.image
        await self.decoding.check_together(sources, rule, context)
        uploads = []
        for source in sources:
            upload, hold = await self.decoding.read(
                source, rule, context, with_picture=with_pictures
            )
            if hold is not None:
                holds.callback(hold.shrink, 0)
            uploads.append(upload)
        return uploads

    def masked_images(self, name: str, evaluations: int | None = None) -> int:
        """Return the most masked images that an explanation by a method evaluates."""
        method, limit = METHODS[name], self.results.max_evaluations
        if not method.masks:
            return 0
        most = self._channels if method.most is None else method.most
        return min(limit if evaluations is None else evaluations, limit, most)

    async def close(self) -> None:
        """Finish the images in progress, and end the batcher."""
        await self.batcher.close()

    def source(self, body: bytes, *, images: int = 1) -> EncodedImage:
        """Wrap one of the `images` encoded images of a request in a source."""
        return EncodedImage(body, self._max_pixels, max(1, self._max_picture_pixels // images))


class _Batched:
    """Runner of one request's forward passes in the shared batches.

    A context manager: at its end, the memory of the request's picture is released.
    """

    __slots__ = ("_batcher", "_context", "_decoding", "_hold", "_reserved", "picture_pixels")

    def __init__(self, batcher: Batcher, decoding: DecodingPool, context: RequestContext) -> None:
        self._batcher, self._decoding, self._context = batcher, decoding, context
        self._hold: MemoryHold | None = None
        self._reserved: AbstractContextManager[None] | None = None
        self.picture_pixels = 0

    def __enter__(self) -> "_Batched":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._hold is not None:
            self._hold.shrink(0)
        self._release()

    def reserve(self, images: int) -> None:
        """Admit the masked images of the request before any work is done for it.

        Raises:
            Overloaded, DeadlineExceeded: see `Admission.rejection`.
        """
        if images:
            reserved = self._admit(images)
            reserved.__enter__()
            self._reserved = reserved

    def _admit(self, images: int) -> AbstractContextManager[None]:
        return self._batcher.admission.admit(
            self._context, low_priority=True, images=images, background=True
        )

    def _release(self) -> None:
        if self._reserved is not None:
            self._reserved.__exit__(None, None, None)
            self._reserved = None

    async def read(self, source: EncodedImage, rule: ImageRule, *, with_picture: bool) -> Upload:
        started = time.perf_counter()
        upload, self._hold = await self._decoding.read(
            source, rule, self._context, with_picture=with_picture
        )
        if upload.picture is not None:
            self.picture_pixels = upload.picture.width * upload.picture.height
        self._context.end_stage("decode", started)
        return upload

    async def prepare(self, work: Callable[[], Upload]) -> Upload:
        started = time.perf_counter()
        upload = await self._decoding.prepare(work, self._context)
        self._context.end_stage("decode", started)
        return upload

    async def run(self, pixels_hwc: NDArray[np.uint8], outputs: tuple[str, ...]) -> Row:
        found = await self._batcher.submit(pixels_hwc, outputs, self._context)
        if self._context.trial is not None:
            batch = {name: values[None] for name, values in found.items()}
            self._context.trial.keep(pixels_hwc[None], batch)
        return found

    async def run_again(self, pixels_hwc: NDArray[np.uint8], outputs: tuple[str, ...]) -> Row:
        with self._batcher.admission.admit(self._context, low_priority=True):
            return await self.run(pixels_hwc, outputs)

    async def compute(self, work: Callable[[], Any]) -> Any:
        return await self._decoding.compute(work, self._context)

    async def evaluate(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._release()  # they may be fewer than were expected
        with self._admit(len(images_nhwc)):
            found = await self._batcher.submit_all(
                images_nhwc, ("logits",), self._context, background=True
            )
        return found["logits"]
