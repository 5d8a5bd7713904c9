"""The use case: an upload in, a label and what the network looked at out. Knows no HTTP."""

import asyncio
import time
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
from numpy.typing import NDArray

from limelight.artifact.manifest import Manifest, Method
from limelight.errors import InvalidParameter, ServiceError, UnknownTarget, UnsupportedMethod
from limelight.explanations.bounding_box import Box, locate
from limelight.explanations.masked_maps import MASKING, masked_map
from limelight.explanations.overlay import overlay, png
from limelight.explanations.zoom import closer_view
from limelight.imaging import preprocessing as images
from limelight.imaging.decoding import decode
from limelight.imaging.preprocessing import Upload, View
from limelight.results import (
    ALL,
    ClassActivationMap,
    CloserLook,
    Explanation,
    OverlayStyle,
    Prediction,
    Question,
    Score,
    Winner,
    raised,
)
from limelight.runtime.engine import Engine
from service.inference.batching import Batcher, Outputs, Row
from service.request_context import RequestContext

# What each method reads beyond the prediction.
_OUTPUTS: dict[Method, str] = {
    "cam": "cams",
    "contrast": "cams",
    "layercam": "layercams",
    "occlusion": "logits",
    "scorecam": "features",
}
_OF_EVERY_CLASS: tuple[Method, ...] = ("cam", "layercam")
_LEAST_EVALUATIONS = 4


class Classifier:
    """One model: decodes, prepares, runs in a shared batch, and reads the outputs."""

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
        self._max_pixels = max_pixels
        self._max_evaluations = max_evaluations
        self._indices = {label: index for index, label in enumerate(manifest.classes)}
        abstention, detection = manifest.abstention, manifest.out_of_distribution
        self._least_confidence = None if abstention is None else abstention.threshold
        self._greatest_ood_score = None if detection is None else detection.threshold
        self.read_always = (
            ("probabilities",) if detection is None else ("probabilities", "ood_score")
        )
        """Outputs that a prediction is made of."""

    def rejection(self, context: RequestContext, *, low_priority: bool) -> ServiceError | None:
        """Why an image cannot be served in time; see `Batcher.rejection`."""
        return self.batcher.rejection(context, low_priority=low_priority)

    def admit(self, context: RequestContext, *, low_priority: bool) -> AbstractContextManager[None]:
        """A place in the queue, to be held until the answer; see `Batcher.place`."""
        return self.batcher.admit(context, low_priority=low_priority)

    async def predict(self, body: bytes, *, top_k: int, context: RequestContext) -> Prediction:
        """Classify an encoded image.

        Raises:
            ServiceError: the image or a parameter is refused; see `limelight.errors`.
        """
        self._check_top_k(top_k)
        upload = await self._timed_read(body, context)
        outputs = await self.batcher.submit(upload.pixels_hwc, self.read_always, context)
        return self._prediction(outputs, top_k)

    async def explain(
        self, body: bytes, question: Question, *, top_k: int, context: RequestContext
    ) -> Explanation:
        """Classify an encoded image and say where it looks like the class that is asked for.

        Raises:
            ServiceError: the image or a parameter is refused; see `limelight.errors`.
        """
        self._check_top_k(top_k)
        self._check_method(question)
        every = question.target == ALL and ALL not in self._indices
        target = None if every or question.target is None else self.index(question.target)
        against = None if question.against is None else self.index(question.against)
        upload = await self._timed_read(body, context)
        method, size = question.method, (upload.width, upload.height)
        wanted = (*self.read_always, _OUTPUTS[method])
        outputs = await self.batcher.submit(upload.pixels_hwc, wanted, context)
        prediction = self._prediction(outputs, top_k)
        index = prediction.index if target is None else target
        evaluations = 1
        if method == "contrast":
            against = self._rival(outputs["probabilities"], index, against)
            values_hw = outputs["cams"][index] - outputs["cams"][against]
        elif method in _OF_EVERY_CLASS:
            values_hw = outputs[_OUTPUTS[method]][index]
        else:
            values_hw, evaluations = await masked_map(
                partial(self._evaluate, context=context),
                method,
                upload.pixels_hwc,
                outputs,
                index,
                most=self._max_evaluations
                if question.evaluations is None
                else question.evaluations,
            )
        classes = self.manifest.classes
        rival = None if against is None else classes[against]
        cam = _map_of(
            classes[index], index, values_hw, upload.view, size, method, rival, evaluations
        )
        every_cam = None
        if every:
            maps = zip(classes, outputs[_OUTPUTS[method]], strict=True)
            every_cam = tuple(
                _map_of(label, at, cam_hw, upload.view, size, method)
                for at, (label, cam_hw) in enumerate(maps)
            )
        zoom = None
        if question.zoom:
            zoom = await self._look_closer(body, cam.box, size, target, top_k, context)
        picture = None
        if question.style is not None:
            started = time.perf_counter()
            draw = body, values_hw, upload.view, question.style
            # What the network sees does not depend on whether a picture is wanted: an image that
            # was decoded at a reduced size is decoded anew for it.
            picture = await asyncio.to_thread(self._draw, *draw)
            context.passed("render", started)
        return Explanation(prediction, upload.view, cam, every_cam, zoom, picture)

    def winners(self, outputs: Outputs) -> list[Winner]:
        """What predictions of these outputs, `read_always` of N images, count as."""
        probabilities = outputs["probabilities"]
        confidences = probabilities.max(1)
        weak = ood = [False] * len(confidences)
        if self._least_confidence is not None:
            weak = (confidences < self._least_confidence).tolist()
        if self._greatest_ood_score is not None:
            ood = (outputs["ood_score"] > self._greatest_ood_score).tolist()
        indices, classes = probabilities.argmax(1).tolist(), self.manifest.classes
        return [
            Winner(classes[index], confidence, raised(abstain=abstain, out_of_distribution=unlike))
            for index, confidence, abstain, unlike in zip(
                indices, confidences.tolist(), weak, ood, strict=True
            )
        ]

    async def close(self) -> None:
        """Finish what is in flight."""
        await self.batcher.close()

    async def read(self, body: bytes) -> Upload:
        """Decode an encoded image, in a thread where that takes a while.

        Raises:
            ServiceError: the image is refused; see `limelight.imaging.preprocessing.read_upload`.
        """
        rule, most = self.manifest.image, self._max_pixels
        if images.is_quick(body, rule):
            return images.read_upload(body, rule, max_pixels=most)
        return await asyncio.to_thread(images.read_upload, body, rule, max_pixels=most)

    async def _timed_read(self, body: bytes, context: RequestContext) -> Upload:
        started = time.perf_counter()
        upload = await self.read(body)
        context.passed("decode", started)
        return upload

    async def _evaluate(
        self, images_nhwc: NDArray[np.uint8], *, context: RequestContext
    ) -> NDArray[np.float32]:
        """Logits of masked images, which wait behind predictions."""
        with self.batcher.admit(context, low_priority=True, images=len(images_nhwc)):
            found = await self.batcher.submit_all(images_nhwc, ("logits",), context)
        return found["logits"]

    async def _look_closer(
        self,
        body: bytes,
        box: Box,
        size: tuple[int, int],
        target: int | None,
        top_k: int,
        context: RequestContext,
    ) -> CloserLook | None:
        rule = self.manifest.image
        part = closer_view(box, size, rule)
        if part is None:
            return None
        started = time.perf_counter()
        upload = await asyncio.to_thread(
            images.read_part, body, rule, part, max_pixels=self._max_pixels
        )
        context.passed("decode", started)
        with self.batcher.admit(context, low_priority=True):
            wanted = (*self.read_always, "cams")
            outputs = await self.batcher.submit(upload.pixels_hwc, wanted, context)
        prediction = self._prediction(outputs, top_k)
        index = prediction.index if target is None else target
        cam_hw = outputs["cams"][index]
        cam = _map_of(self.manifest.classes[index], index, cam_hw, upload.view, size)
        return CloserLook(prediction, upload.view, cam)

    def _rival(self, probabilities: NDArray[np.float32], index: int, against: int | None) -> int:
        """The class to contrast with: the one asked for, or the most probable other one."""
        if against == index:
            raise InvalidParameter("target and against are the same class: choose two")
        if against is not None:
            return against
        others = probabilities.copy()
        others[index] = -1.0
        return int(others.argmax())

    def _draw(
        self, body: bytes, cam_hw: NDArray[np.float32], view: View, style: OverlayStyle
    ) -> bytes:
        image = decode(body, max_pixels=self._max_pixels).image
        return png(overlay(image, cam_hw, view, opacity=style.opacity, colormap=style.colormap))

    def _prediction(self, outputs: Row, top_k: int) -> Prediction:
        probabilities = outputs["probabilities"]
        # Of a tie the first comes first, as with argmax. Sorting in numpy would give up the
        # interpreter's lock, and wait for a pass to give it back.
        values = probabilities.tolist()
        ranked = sorted(range(len(values)), key=values.__getitem__, reverse=True)[:top_k]
        classes = self.manifest.classes
        scores = tuple(Score(classes[i], i, probabilities[i]) for i in ranked)
        abstain, ood_score, ood = self._doubts(scores[0].probability, outputs)
        return Prediction(
            model=self.manifest.name,
            version=self.manifest.version,
            label=scores[0].label,
            index=scores[0].index,
            confidence=scores[0].probability,
            abstain=abstain,
            ood_score=ood_score,
            out_of_distribution=ood,
            scores=scores,
        )

    def _doubts(
        self, confidence: np.float32, outputs: Row
    ) -> tuple[bool | None, np.float32 | None, bool | None]:
        """Whether to abstain, how unlike the training images it is, and whether that is too much.

        None where the model cannot say.
        """
        abstain = ood_score = ood = None
        if self._least_confidence is not None:
            abstain = bool(confidence < self._least_confidence)
        if self._greatest_ood_score is not None:
            ood_score = np.float32(outputs["ood_score"])
            ood = bool(ood_score > self._greatest_ood_score)
        return abstain, ood_score, ood

    def _check_top_k(self, top_k: int) -> None:
        most = len(self.manifest.classes)
        if not 1 <= top_k <= most:
            raise InvalidParameter(f"top_k is {top_k}, and must be 1 to {most}")

    def _check_method(self, question: Question) -> None:
        supported = self.manifest.methods
        if question.method not in supported:
            raise UnsupportedMethod(
                f"{self.manifest.name} cannot explain by {question.method}: "
                f"use one of {', '.join(supported)}"
            )
        every = question.target == ALL and ALL not in self._indices
        if every and question.method not in _OF_EVERY_CLASS:
            methods = " and ".join(f"method={method}" for method in _OF_EVERY_CLASS)
            raise InvalidParameter(f"target={ALL} goes with {methods} only: name one class")
        if question.zoom and self.manifest.image.fit != "crop":
            raise InvalidParameter(
                f"{self.manifest.name} looks for the ink in an upload by itself: leave zoom out"
            )
        if question.zoom and question.style is not None:
            raise InvalidParameter("a picture shows one map: leave zoom out, or ask for JSON")
        if question.against is not None and question.method != "contrast":
            raise InvalidParameter("against goes with method=contrast only")
        evaluations = question.evaluations
        if evaluations is None:
            return
        if question.method not in MASKING:
            raise InvalidParameter(
                f"method={question.method} takes one pass: leave evaluations out"
            )
        if not _LEAST_EVALUATIONS <= evaluations <= self._max_evaluations:
            raise InvalidParameter(
                f"evaluations is {evaluations}, and must be {_LEAST_EVALUATIONS} to "
                f"{self._max_evaluations}"
            )

    def index(self, target: str) -> int:
        """Of a class by its label or its index, of which the label wins.

        Raises:
            UnknownTarget: the model has no such class.
        """
        if target in self._indices:
            return self._indices[target]
        classes = self.manifest.classes
        if (
            target.isascii()
            and target.isdigit()
            and len(target) < 10
            and int(target) < len(classes)
        ):
            return int(target)
        named = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
        raise UnknownTarget(
            f"{self.manifest.name} has no class {target[:100]!r}: use one of {named}, "
            f"or an index from 0 to {len(classes) - 1}"
        )


def _map_of(
    label: str,
    index: int,
    cam_hw: NDArray[np.float32],
    view: View,
    size: tuple[int, int],
    method: Method = "cam",
    against: str | None = None,
    evaluations: int = 1,
) -> ClassActivationMap:
    box, peak = locate(cam_hw, view, size)
    return ClassActivationMap(label, index, cam_hw, peak, box, method, against, evaluations)
