"""Use cases "predict" and "explain", shared by the service and the in-process classifier.

A `Runner` decides how an image is decoded and how a forward pass is run: through a queue that
batches requests, or directly.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from limelight.artifact.manifest import ImageRule
from limelight.explanations.map_request import MapRequest
from limelight.explanations.methods import METHODS
from limelight.explanations.options import ExplainOptions
from limelight.explanations.zoom import zoomed_view
from limelight.imaging.fitting import View
from limelight.imaging.preprocessing import Upload
from limelight.result_builder import Found, ResultBuilder, Row
from limelight.results import Explanation, Prediction


class Source(Protocol):
    """Image of a request."""

    def is_quick(self, rule: ImageRule) -> bool:
        """Return whether `read` is too fast for a switch of threads to pay off."""

    def read(self, rule: ImageRule) -> Upload:
        """Convert the image to the network's input."""

    def read_part(self, rule: ImageRule, part: View) -> Upload:
        """Convert a rectangle of the image to the network's input."""


class Runner(Protocol):
    """Executor of one request: decodes images and runs forward passes."""

    async def read(self, read: Callable[[], Upload], *, quick: bool) -> Upload:
        """Decode an image."""

    async def run(self, pixels_hwc: NDArray[np.uint8], outputs: tuple[str, ...]) -> Row:
        """Run a forward pass of one image and return the outputs by name."""

    async def run_again(self, pixels_hwc: NDArray[np.uint8], outputs: tuple[str, ...]) -> Row:
        """Run a forward pass of another image of the same request, at low priority."""

    async def evaluate(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the logits of masked images: uint8 (N, H, W, C) -> (N, K)."""


async def predict(
    results: ResultBuilder, runner: Runner, source: Source, *, top_k: int | None
) -> Prediction:
    """Classify an image.

    Raises:
        LimelightError: the image or a parameter is rejected; see `limelight.errors`.
    """
    count = results.top_k(top_k)
    upload = await _read(results, runner, source)
    return results.prediction(await runner.run(upload.pixels_hwc, results.read_always), count)


async def explain(
    results: ResultBuilder,
    runner: Runner,
    source: Source,
    options: ExplainOptions,
    *,
    top_k: int | None,
) -> Explanation:
    """Classify an image and compute the map of the requested class.

    Raises:
        LimelightError: the image or a parameter is rejected; see `limelight.errors`.
    """
    count = results.top_k(top_k)
    results.check(options)
    method, every = METHODS[options.method], results.wants_every_class(options)
    target = None if every or options.target is None else results.index(options.target)
    against = None if options.against is None else results.index(options.against)
    upload = await _read(results, runner, source)
    outputs = await runner.run(upload.pixels_hwc, (*results.read_always, method.output))
    prediction = results.prediction(outputs, count)
    index = prediction.index if target is None else target
    if method.contrasts:
        against = results.rival(outputs["probabilities"], index, against)
    limit = results.max_evaluations if options.evaluations is None else options.evaluations
    request = MapRequest(upload.pixels_hwc, outputs, index, against, limit, runner.evaluate)
    values_hw = await method.explain(request)
    size = upload.width, upload.height
    found = results.found(
        index,
        values_hw,
        upload.view,
        size,
        method=options.method,
        evaluations=request.evaluations,
        against=against,
    )
    cams = None
    if every:
        cams = tuple(
            results.found(at, cam_hw, upload.view, size, method=options.method).cam
            for at, cam_hw in enumerate(outputs[method.output])
        )
    explanation = _explanation(prediction, upload, found)
    explanation.cams = cams
    if options.zoom:
        explanation.zoom = await _zoom(results, runner, source, found, size, target, count)
    return explanation


async def _read(results: ResultBuilder, runner: Runner, source: Source) -> Upload:
    rule = results.manifest.image
    return await runner.read(lambda: source.read(rule), quick=source.is_quick(rule))


async def _zoom(
    results: ResultBuilder,
    runner: Runner,
    source: Source,
    first: Found,
    size: tuple[int, int],
    target: int | None,
    top_k: int,
) -> Explanation | None:
    """Evaluate the zoomed crop around the box; None if it would show no more detail."""
    rule = results.manifest.image
    part = zoomed_view(first.box, size, rule)
    if part is None:
        return None
    upload = await runner.read(lambda: source.read_part(rule, part), quick=False)
    outputs = await runner.run_again(upload.pixels_hwc, (*results.read_always, "cams"))
    return explain_by_cam(results, upload, outputs, target=target, top_k=top_k)


def explain_by_cam(
    results: ResultBuilder, upload: Upload, outputs: Row, *, target: int | None, top_k: int
) -> Explanation:
    """Build an explanation by `cam` from the outputs of one forward pass.

    `target` is the index of the class whose map is wanted; None means the predicted class.
    """
    prediction = results.prediction(outputs, top_k)
    index = prediction.index if target is None else target
    size = upload.width, upload.height
    found = results.found(index, outputs["cams"][index], upload.view, size)
    return _explanation(prediction, upload, found)


def _explanation(prediction: Prediction, upload: Upload, found: Found) -> Explanation:
    """Add the visible part of the upload and a map to a prediction."""
    view = upload.view
    return Explanation(
        model=prediction.model,
        version=prediction.version,
        label=prediction.label,
        index=prediction.index,
        confidence=prediction.confidence,
        abstain=prediction.abstain,
        ood_score=prediction.ood_score,
        out_of_distribution=prediction.out_of_distribution,
        scores=prediction.scores,
        view=(view.left, view.top, view.left + view.width, view.top + view.height),
        cam=found.cam,
    )
