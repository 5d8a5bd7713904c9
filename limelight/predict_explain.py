"""Use cases "predict" and "explain", shared by the service and the in-process classifier.

A `Runner` decides how an image is decoded and how a forward pass is run: through a queue that
batches requests, or directly.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelight.explanations.map_request import MapRequest
from limelight.explanations.methods import METHODS
from limelight.explanations.options import ExplainOptions
from limelight.explanations.zoom import zoomed_view
from limelight.imaging.image_rule import ImageRule
from limelight.imaging.preprocessing import Upload, prepare_part
from limelight.result_builder import Found, ResultBuilder, Row
from limelight.results import Explanation, Prediction, fields_of


class Source(Protocol):
    """Image of a request."""

    def read(self, rule: ImageRule, *, with_picture: bool = False) -> Upload:
        """Convert the image to the network's input, and keep a picture if one is wanted."""


SourceT = TypeVar("SourceT", bound=Source, contravariant=True)


class Runner(Protocol[SourceT]):
    """Executor of one request: decodes images and runs forward passes."""

    async def read(self, source: SourceT, rule: ImageRule, *, with_picture: bool) -> Upload:
        """Decode an image."""

    async def prepare(self, work: Callable[[], Upload]) -> Upload:
        """Prepare a part of the picture of an image that was read."""

    async def run(self, pixels_hwc: NDArray[np.uint8], outputs: tuple[str, ...]) -> Row:
        """Run a forward pass of one image and return the outputs by name."""

    async def run_again(self, pixels_hwc: NDArray[np.uint8], outputs: tuple[str, ...]) -> Row:
        """Run a forward pass of another image of the same request, at low priority."""

    async def compute(self, work: Callable[[], Any]) -> Any:
        """Run work that takes milliseconds and no forward pass, such as making masked images."""

    async def evaluate(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the logits of masked images: uint8 (N, H, W, C) -> (N, K)."""


async def predict(
    results: ResultBuilder, runner: Runner[SourceT], source: SourceT, *, top_k: int | None
) -> Prediction:
    """Classify an image.

    Raises:
        LimelightError: the image or a parameter is rejected; see `limelight.errors`.
    """
    count = results.top_k(top_k)
    upload = await runner.read(source, results.manifest.image, with_picture=False)
    return results.prediction(await runner.run(upload.pixels_hwc, results.read_always), count)


async def explain(
    results: ResultBuilder,
    runner: Runner[SourceT],
    source: SourceT,
    options: ExplainOptions,
    *,
    top_k: int | None,
    with_picture: bool = False,
) -> Explanation:
    """Classify an image and compute the map of the requested class.

    With `with_picture`, the explanation has the picture that its map can be laid over.

    Raises:
        LimelightError: the image or a parameter is rejected; see `limelight.errors`.
    """
    count = results.top_k(top_k)
    results.check(options)
    method, every = METHODS[options.method], results.wants_every_class(options)
    target = None if every or options.target is None else results.index(options.target)
    against = None if options.against is None else results.index(options.against)
    upload = await runner.read(
        source, results.manifest.image, with_picture=with_picture or options.zoom
    )
    outputs = await runner.run(upload.pixels_hwc, (*results.read_always, method.output))
    prediction = results.prediction(outputs, count)
    index = prediction.index if target is None else target
    if method.contrasts:
        against = results.rival(outputs["probabilities"], index, against)
    limit = results.max_evaluations if options.evaluations is None else options.evaluations
    request = MapRequest(
        *(upload.pixels_hwc, outputs, index, against, limit), runner.evaluate, runner.compute
    )
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
        explanation.zoom = await _zoom(results, runner, upload, found, target, count)
    if with_picture:
        explanation.attach(lambda: picture_in(upload), full_size=size)
    return explanation


def picture_in(upload: Upload) -> Image.Image:
    """Return the picture of an upload that was read with one."""
    if upload.picture is None:
        raise ValueError("the image was read without a picture")
    return upload.picture


async def _zoom(
    results: ResultBuilder,
    runner: Runner[SourceT],
    upload: Upload,
    first: Found,
    target: int | None,
    top_k: int,
) -> Explanation | None:
    """Evaluate the zoomed crop around the box; None if it would show no more detail."""
    rule, size = results.manifest.image, (upload.width, upload.height)
    part = zoomed_view(first.box, size, rule)
    if part is None:
        return None
    picture = picture_in(upload)
    crop = await runner.prepare(lambda: prepare_part(picture, rule, part, full_size=size))
    outputs = await runner.run_again(crop.pixels_hwc, (*results.read_always, "cams"))
    return explain_by_cam(results, crop, outputs, target=target, top_k=top_k)


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
        **fields_of(prediction),
        view=(view.left, view.top, view.left + view.width, view.top + view.height),
        cam=found.cam,
    )
