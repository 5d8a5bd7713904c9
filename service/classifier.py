"""The use case: an upload in, a label and what the network looked at out. Knows no HTTP."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service import images
from service.batching import Batcher
from service.engine import Engine, EngineError
from service.errors import InvalidParameter, MissingImage, UnknownTarget
from service.explanation import Box, bounding_box, overlay, png
from service.manifest import Manifest

P = ParamSpec("P")
T = TypeVar("T")

# Below this many pixels, decoding takes less time than it takes to change threads.
_QUICK_PIXELS = 128 * 128


@dataclass(frozen=True, slots=True)
class Score:
    label: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The winner, and the `top_k` classes from the most probable down."""

    model: str
    version: str
    label: str
    index: int
    confidence: float
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class ClassActivationMap:
    """How much each position speaks for `target`: raw values (h, w), box in upload pixels."""

    target: str
    index: int
    values_hw: NDArray[np.float32]
    box: Box

    @property
    def peak(self) -> float:
        return float(self.values_hw.max())


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
        self._batcher = batcher
        self._max_pixels = max_pixels
        self._indices = {label: index for index, label in enumerate(manifest.classes)}

    async def predict(self, body: bytes, *, top_k: int) -> Prediction:
        """Classify an encoded image.

        Raises:
            ServiceError: the image or a parameter is refused; see `service.errors`.
        """
        self._check_top_k(top_k)
        image = await self._decode(body, sketch=True)
        pixels, _ = await _in_thread_if_large(image, images.prepare, image, self.manifest.image)
        outputs = await self._run(pixels, ["probabilities"])
        return self._prediction(outputs["probabilities"], top_k)

    async def explain(
        self, body: bytes, *, top_k: int, target: str | None, style: OverlayStyle | None = None
    ) -> Explanation:
        """Classify an encoded image and say where it looks like `target` (default: the winner).

        `target` is a label or an index; a label wins where both would do. With `style`, the
        upload with the map laid over it comes along.

        Raises:
            ServiceError: the image or a parameter is refused; see `service.errors`.
        """
        self._check_top_k(top_k)
        index = None if target is None else self._index(target)
        image = await self._decode(body, sketch=True)
        pixels, view = await _in_thread_if_large(image, images.prepare, image, self.manifest.image)
        outputs = await self._run(pixels, ["probabilities", "cams"])
        prediction = self._prediction(outputs["probabilities"], top_k)
        if index is None:
            index = prediction.index
        cam_hw = outputs["cams"][index]
        cam = ClassActivationMap(
            target=self.manifest.classes[index],
            index=index,
            values_hw=cam_hw,
            box=bounding_box(cam_hw, view, images.upload_size(image)),
        )
        picture = None
        if style is not None:
            # What the network sees does not depend on whether a picture is wanted: a reduced
            # image is decoded anew for it.
            whole = image.size == images.upload_size(image)
            photo = image if whole else await self._decode(body, sketch=False)
            picture = await _in_thread_if_large(photo, _draw, photo, cam_hw, view, style)
        return Explanation(prediction=prediction, cam=cam, overlay_png=picture)

    async def close(self) -> None:
        """Finish what is in flight."""
        await self._batcher.close()

    async def _decode(self, body: bytes, *, sketch: bool) -> Image.Image:
        if not body:
            raise MissingImage("the body is empty: send the image's bytes as the body")
        header = images.read_header(body, max_pixels=self._max_pixels)
        rule = self.manifest.image if sketch else None
        return await _in_thread_if_large(header, images.load, header, sketch_for=rule)

    async def _run(
        self, pixels: NDArray[np.uint8], outputs: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        results = await self._batcher.submit(pixels, outputs)
        if not all(np.isfinite(result).all() for result in results.values()):
            raise EngineError(f"{self.manifest.name} gave values that are not finite")
        return results

    def _prediction(self, probabilities: NDArray[np.float32], top_k: int) -> Prediction:
        # Stable, so that the winner of a tie is the class that argmax names.
        ranked = np.argsort(-probabilities, kind="stable")[:top_k]
        classes = self.manifest.classes
        scores = tuple(Score(classes[i], int(i), float(probabilities[i])) for i in ranked)
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


def _draw(
    image: Image.Image, cam_hw: NDArray[Any], view: images.View, style: OverlayStyle
) -> bytes:
    return png(overlay(image, cam_hw, view, opacity=style.opacity, colormap=style.colormap))


async def _in_thread_if_large(
    image: Image.Image, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Call at once for a small image; elsewhere for one that would hold up the event loop."""
    if image.width * image.height <= _QUICK_PIXELS:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)
