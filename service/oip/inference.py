"""Inference by the Open Inference Protocol: images in, tensors out, in the shared batches."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelight.api_keys import Scope
from limelight.explanations.options import OverlayStyle
from limelight.explanations.overlay import overlay, png
from limelight.imaging.preprocessing import View, picture_of
from service.errors import PermissionDenied
from service.inference.admission import largest_request
from service.inference.batch_runner import Outputs
from service.inference.classifier import Classifier
from service.oip.classification import classified
from service.oip.errors import InvalidInference
from service.oip.metadata import OVERLAY
from service.oip.types import (
    InferRequest,
    InferResponse,
    OutputTensor,
    Parameters,
    RequestedOutput,
)
from service.oip.validation import Picture, Plan, plan
from service.request_context import RequestContext
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class _Shown:
    """Picture of an upload that its map can be drawn over."""

    picture: Image.Image
    view: View
    """Part of the picture that the network's input covers."""


class Inference:
    """Inference on the batcher of a classifier, for requests of the protocol."""

    def __init__(self, settings: Settings) -> None:
        self.max_batch = largest_request(settings)

    async def infer(
        self, classifier: Classifier, request: InferRequest, context: RequestContext
    ) -> InferResponse:
        """Answer a request: all of its images, or none.

        Raises:
            LimelightError: the request, an image or a parameter is rejected.
        """
        manifest = classifier.manifest
        _apply_timeout(context, request.parameters)
        planned = plan(request, manifest, max_batch=self.max_batch)
        _check_scope(context, planned)
        target = None
        if planned.picture is not None and planned.picture.target is not None:
            target = classifier.results.index(planned.picture.target)
        # Admit all images at once: a request that cannot be served is rejected before any work.
        admission = classifier.batcher.admission.admit(
            context, low_priority=planned.explains, images=len(planned.images)
        )
        with admission, ExitStack() as holds:
            pixels_nhwc, shown = await self._prepare(planned, classifier, context, holds)
            # The metrics count predictions, so the outputs that they need are always computed.
            wanted = tuple({*planned.graph_outputs, *classifier.results.read_always})
            found = await classifier.batcher.submit_all(pixels_nhwc, wanted, context)
            if context.trial is not None:
                context.trial.keep(pixels_nhwc, found)
            started = time.perf_counter()
            outputs = []
            for output in planned.outputs:
                if output.name == OVERLAY and planned.picture is not None:
                    pictures = await self._draw(
                        classifier, shown, found, planned.picture, target, context
                    )
                    outputs.append(_bytes_tensor(output, (len(pictures), 1), pictures))
                else:
                    outputs.append(_tensor(output, found, planned, manifest.classes))
            context.end_stage("render", started)
        return InferResponse(
            model=manifest.name,
            version=manifest.version,
            id=request.id,
            outputs=outputs,
            winners=classifier.results.winners(found),
            method=planned.method,
        )

    async def _prepare(
        self, planned: Plan, classifier: Classifier, context: RequestContext, holds: ExitStack
    ) -> tuple[NDArray[np.uint8], list[_Shown]]:
        """Return the network's input, (N, H, W, C), and the pictures that are drawn over.

        `holds` releases the memory of the pictures at its end.
        """
        if isinstance(planned.images, np.ndarray):
            rule = classifier.manifest.image
            whole = View(0, 0, rule.width, rule.height)
            images = () if planned.picture is None else planned.images
            return planned.images, [_Shown(picture_of(pixels), whole) for pixels in images]
        started = time.perf_counter()
        uploads = await classifier.read_all(
            planned.images, context, holds, with_pictures=planned.picture is not None
        )
        context.end_stage("decode", started)
        shown = [
            _Shown(upload.picture, upload.view_in(upload.picture))
            for upload in uploads
            if upload.picture is not None
        ]
        return np.stack([upload.pixels_hwc for upload in uploads]), shown

    async def _draw(
        self,
        classifier: Classifier,
        shown: Sequence[_Shown],
        found: Outputs,
        picture: Picture,
        target: int | None,
        context: RequestContext,
    ) -> list[bytes]:
        targets = found["probabilities"].argmax(1) if target is None else [target] * len(shown)
        cams_nhw = [found["cams"][image, index] for image, index in enumerate(targets)]
        # One after the other, so that a late request or one whose client has left ends between two.
        return [
            await classifier.decoding.draw(
                partial(_picture, one, cam_hw, picture.style),
                one.picture.width * one.picture.height,
                context,
            )
            for one, cam_hw in zip(shown, cams_nhw, strict=True)
        ]


def _picture(one: _Shown, cam_hw: NDArray[np.float32], style: OverlayStyle) -> bytes:
    picture = overlay(one.picture, cam_hw, one.view, opacity=style.opacity, colormap=style.colormap)
    return png(picture)


def _apply_timeout(context: RequestContext, parameters: Parameters) -> None:
    """Shorten the deadline by the parameter `timeout` of Triton's clients, in microseconds."""
    timeout = parameters.get("timeout", 0)
    if type(timeout) is not int or timeout < 0:
        raise InvalidInference("timeout must be a whole number of microseconds, 0 for none")
    if timeout:
        context.deadline = min(context.deadline, time.perf_counter() + timeout / 1e6)


def _check_scope(context: RequestContext, planned: Plan) -> None:
    """Check that the caller's key allows maps, or predictions if there are none.

    Raises:
        PermissionDenied: it does not.
    """
    needed: Scope = "explain" if planned.explains else "predict"
    if needed not in context.caller.scopes:
        raise PermissionDenied.of((needed,))


def _tensor(
    output: RequestedOutput, found: Outputs, planned: Plan, classes: Sequence[str]
) -> OutputTensor:
    values = found[output.name]
    count = planned.class_counts.get(output.name)
    if count is not None:
        shape, elements = classified(values, count, classes)
        return _bytes_tensor(output, shape, elements)
    return OutputTensor(
        name=output.name,
        datatype="FP32",
        shape=values.shape,
        content=values,
        parameters=output.parameters,
    )


def _bytes_tensor(
    output: RequestedOutput, shape: tuple[int, ...], elements: Sequence[bytes]
) -> OutputTensor:
    return OutputTensor(
        name=output.name,
        datatype="BYTES",
        shape=shape,
        content=elements,
        parameters=output.parameters,
    )
