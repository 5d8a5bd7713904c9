"""The use case: an upload in, a label and what the network looked at out. Knows no HTTP."""

import asyncio
import heapq
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service import images
from service.batching import Batcher
from service.calls import Call
from service.engine import Engine
from service.errors import InvalidParameter, UnknownTarget
from service.explanation import Box, bounding_box, overlay, png
from service.images import Upload, View
from service.manifest import Manifest

_PREDICTION = ("probabilities",)
_EXPLANATION = ("probabilities", "cams")


@dataclass(frozen=True, slots=True)
class Score:
    label: str
    index: int
    probability: np.float32


@dataclass(frozen=True, slots=True)
class Prediction:
    """The winner, and the `top_k` classes from the most probable down."""

    model: str
    version: str
    label: str
    index: int
    confidence: np.float32
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class ClassActivationMap:
    """How much each position speaks for `target`: raw values (h, w), box in upload pixels."""

    target: str
    index: int
    values_hw: NDArray[np.float32]
    box: Box

    @property
    def peak(self) -> np.float32:
        peak: np.float32 = self.values_hw.max()
        return peak


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayStyle:
    opacity: float
    colormap: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A prediction, the map of one class from the same pass, and a picture if one was asked for."""

    prediction: Prediction
    cam: ClassActivationMap
    overlay_png: bytes | None


class Classifier:
    """One model: decodes, prepares, runs in a shared batch, and reads the outputs."""

    def __init__(
        self, *, manifest: Manifest, engine: Engine, batcher: Batcher, max_pixels: int
    ) -> None:
        self.manifest = manifest
        self.engine = engine
        self.batcher = batcher
        self._max_pixels = max_pixels
        self._indices = {label: index for index, label in enumerate(manifest.classes)}

    def place(self, call: Call, *, spare: bool) -> AbstractContextManager[None]:
        """A place in the queue, to be held until the answer; see `Batcher.place`."""
        return self.batcher.place(call, spare=spare)

    async def predict(self, body: bytes, *, top_k: int, call: Call) -> Prediction:
        """Classify an encoded image.

        Raises:
            ServiceError: the image or a parameter is refused; see `service.errors`.
        """
        self._check_top_k(top_k)
        upload = await self._read(body, call)
        outputs = await self.batcher.submit(upload.pixels_hwc, _PREDICTION, call)
        return self._prediction(outputs["probabilities"], top_k)

    async def explain(
        self,
        body: bytes,
        *,
        top_k: int,
        target: str | None,
        style: OverlayStyle | None = None,
        call: Call,
    ) -> Explanation:
        """Classify an encoded image and say where it looks like `target` (default: the winner).

        `target` is a label or an index; a label wins where both would do. With `style`, the
        upload with the map laid over it comes along.

        Raises:
            ServiceError: the image or a parameter is refused; see `service.errors`.
        """
        self._check_top_k(top_k)
        index = None if target is None else self._index(target)
        upload = await self._read(body, call)
        outputs = await self.batcher.submit(upload.pixels_hwc, _EXPLANATION, call)
        prediction = self._prediction(outputs["probabilities"], top_k)
        if index is None:
            index = prediction.index
        cam_hw = outputs["cams"][index]
        cam = ClassActivationMap(
            target=self.manifest.classes[index],
            index=index,
            values_hw=cam_hw,
            box=bounding_box(cam_hw, upload.view, (upload.width, upload.height)),
        )
        picture = None
        if style is not None:
            started = time.perf_counter()
            draw = body, cam_hw, upload.view, style
            # What the network sees does not depend on whether a picture is wanted: an image that
            # was decoded at a reduced size is decoded anew for it.
            picture = await asyncio.to_thread(self._draw, *draw)
            call.passed("render", started)
        return Explanation(prediction=prediction, cam=cam, overlay_png=picture)

    async def close(self) -> None:
        """Finish what is in flight."""
        await self.batcher.close()

    async def _read(self, body: bytes, call: Call) -> Upload:
        started, rule, most = time.perf_counter(), self.manifest.image, self._max_pixels
        if images.is_quick(body, rule):
            upload = images.read_upload(body, rule, max_pixels=most)
        else:
            upload = await asyncio.to_thread(images.read_upload, body, rule, max_pixels=most)
        call.passed("decode", started)
        return upload

    def _draw(
        self, body: bytes, cam_hw: NDArray[np.float32], view: View, style: OverlayStyle
    ) -> bytes:
        image = images.decode(body, max_pixels=self._max_pixels)
        return png(overlay(image, cam_hw, view, opacity=style.opacity, colormap=style.colormap))

    def _prediction(self, probabilities: NDArray[np.float32], top_k: int) -> Prediction:
        # Of a tie the first comes first, as with argmax. Sorting in numpy would give up the
        # interpreter's lock, and wait for a pass to give it back.
        values = probabilities.tolist()
        ranked = heapq.nlargest(top_k, range(len(values)), key=values.__getitem__)
        classes = self.manifest.classes
        scores = tuple(Score(classes[i], i, probabilities[i]) for i in ranked)
        return Prediction(
            model=self.manifest.name,
            version=self.manifest.version,
            label=scores[0].label,
            index=scores[0].index,
            confidence=scores[0].probability,
            scores=scores,
        )

    def _check_top_k(self, top_k: int) -> None:
        most = len(self.manifest.classes)
        if not 1 <= top_k <= most:
            raise InvalidParameter(f"top_k is {top_k}, and must be 1 to {most}")

    def _index(self, target: str) -> int:
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
