"""A classifier that runs in the caller's process, with the same results as the service.

classifier = limelight.load("zoo/cifar10")
print(classifier.explain("cat.png", target="cat"))
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from limelight import predict_explain
from limelight.artifact.manifest import Manifest
from limelight.artifact.store import ArtifactError, load_artifact, newest_version, shipped_models
from limelight.coroutines import finish
from limelight.errors import LimelightError
from limelight.explanations.options import ExplainOptions
from limelight.image_source import ImageLike, is_one, source_of
from limelight.imaging.image_rule import ImageRule
from limelight.imaging.preprocessing import Upload
from limelight.predict_explain import Source
from limelight.result_builder import ModelDescription, ResultBuilder, Row
from limelight.results import Explanation, Prediction
from limelight.runtime.engine import Engine
from limelight.runtime.onnx_session import Device, Precision
from limelight.runtime.precision import choose_engine

# Same as the service's default limit on uploads.
_MAX_PIXELS = 40_000_000
# Images in one forward pass.
_BATCH = 32


class Network(Protocol):
    """Network with the outputs of an exported graph. An `Engine` is one."""

    def run(
        self, images_nhwc: NDArray[np.uint8], outputs: Sequence[str]
    ) -> Mapping[str, NDArray[np.float32]]:
        """Run a forward pass: uint8 (N, H, W, C) -> each of `outputs` by name, N first."""


class LocalClassifier:
    """Any network that answers as an artefact does; `Classifier` is that of an artefact.

    Its methods may be called from any thread, with or without an event loop.

    Args:
        network: runs the forward passes.
        description: classes, image rule and explanation methods of the model.
        max_pixels: largest image that is accepted, width x height.
    """

    def __init__(
        self, network: Network, description: ModelDescription, *, max_pixels: int = _MAX_PIXELS
    ) -> None:
        self._network = network
        self._description = description
        self._max_pixels = max_pixels
        self._results = ResultBuilder(description)
        self._runner = _DirectRunner(network)

    @overload  # a string is one image, although it is also an iterable of strings
    def predict(  # type: ignore[overload-overlap]
        self, images: ImageLike, *, top_k: int | None = None
    ) -> Prediction: ...
    @overload
    def predict(
        self, images: Iterable[ImageLike], *, top_k: int | None = None
    ) -> list[Prediction]: ...
    def predict(
        self, images: ImageLike | Iterable[ImageLike], *, top_k: int | None = None
    ) -> Prediction | list[Prediction]:
        """Classify one image or several; several are run in batches of 32.

        Raises:
            LimelightError: an image or `top_k` is rejected; the message says what to do.
            OSError: a file cannot be read.
        """
        if is_one(images):
            source = source_of(images, max_pixels=self._max_pixels)
            return finish(predict_explain.predict(self._results, self._runner, source, top_k=top_k))
        predictions: list[Prediction] = []
        rest = enumerate(images)
        while batch := [self._read_one_of(*each) for each in itertools.islice(rest, _BATCH)]:
            predictions += self.predict_batch(batch, top_k=top_k)
        return predictions

    @overload
    def explain(
        self, images: ImageLike, *, top_k: int | None = None, **options: Any
    ) -> Explanation: ...
    @overload
    def explain(
        self, images: Iterable[ImageLike], *, top_k: int | None = None, **options: Any
    ) -> list[Explanation]: ...
    def explain(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        top_k: int | None = None,
        **options: Any,
    ) -> Explanation | list[Explanation]:
        """Classify one image or several, and compute the map of one class for each.

        `options` are the fields of `ExplainOptions`: target, method, against, evaluations and zoom.

        Raises:
            LimelightError: an image or an option is rejected; the message says what to do.
            TypeError: there is no such option.
            OSError: a file cannot be read.
        """
        wanted = ExplainOptions(**options)

        def one(image: ImageLike) -> Explanation:
            source = source_of(image, max_pixels=self._max_pixels)
            explanation = finish(
                predict_explain.explain(self._results, self._runner, source, wanted, top_k=top_k)
            )
            for each in (explanation, explanation.zoom):
                if each is not None:
                    each.attach(source.picture)
            return explanation

        if is_one(images):
            return one(images)
        explanations = []
        for number, image in enumerate(images):
            with _naming(number, image):
                explanations.append(one(image))
        return explanations

    def read(self, image: ImageLike) -> Upload:
        """Decode an image and convert it to the network's input, for the methods below.

        Raises:
            LimelightError: the image is rejected; the message says what to do.
            OSError: the file cannot be read.
        """
        return source_of(image, max_pixels=self._max_pixels).read(self._description.image)

    def _read_one_of(self, number: int, image: ImageLike) -> Upload:
        with _naming(number, image):
            return self.read(image)

    def predict_batch(
        self, uploads: Sequence[Upload], *, top_k: int | None = None
    ) -> list[Prediction]:
        """Classify the images that `read` returned, in one forward pass.

        Raises:
            InvalidParameter: `top_k` is out of range.
        """
        count = self._results.top_k(top_k)
        rows = self._run(uploads, self._results.read_always)
        return [self._results.prediction(row, count) for row in rows]

    def explain_batch(
        self, uploads: Sequence[Upload], *, top_k: int | None = None
    ) -> list[Explanation]:
        """Classify the images that `read` returned, with the map of each predicted class.

        The method is `cam`, whose maps come from the same forward pass.

        Raises:
            InvalidParameter: `top_k` is out of range.
        """
        count = self._results.top_k(top_k)
        rows = self._run(uploads, (*self._results.read_always, "cams"))
        return [
            predict_explain.explain_by_cam(self._results, upload, row, target=None, top_k=count)
            for upload, row in zip(uploads, rows, strict=True)
        ]

    def _run(self, uploads: Sequence[Upload], outputs: Sequence[str]) -> list[Row]:
        """Run one forward pass and return the outputs of each image."""
        if not uploads:
            return []
        images_nhwc = np.stack([upload.pixels_hwc for upload in uploads])
        found = self._network.run(images_nhwc, outputs)
        return [{name: values[at] for name, values in found.items()} for at in range(len(uploads))]


class Classifier(LocalClassifier):
    """A loaded artefact. Its methods may be called from any thread, with or without an event loop.

    Args:
        engine: runs the network.
        digest: digest of the artefact.
        max_pixels: largest image that is accepted, width x height.

    Attributes:
        manifest: the model's manifest: classes, accuracy, explanation methods, ...
        digest: SHA-256 of `manifest.json`, which has that of every other file.
    """

    def __init__(self, engine: Engine, *, digest: str = "", max_pixels: int = _MAX_PIXELS) -> None:
        super().__init__(engine, engine.manifest, max_pixels=max_pixels)
        self.manifest: Manifest = engine.manifest
        self.digest = digest
        self._engine = engine

    def __repr__(self) -> str:
        """Return the model's name, its version and its execution provider."""
        name, version = self.manifest.name, self.manifest.version
        return f"<Classifier {name} {version} on {self._engine.provider}>"


def load(
    path: str | Path,
    *,
    device: Device = "auto",
    threads: int = 0,
    precision: Literal["auto", Precision] = "auto",
) -> Classifier:
    """Load the newest version of a model.

    Args:
        path: the folder of a model or of one of its versions, or the name of a shipped model.
        device: ``auto`` selects a GPU if one is usable, otherwise the CPU. Any other value
            raises if that device is not usable.
        threads: CPU threads of a forward pass; 0 uses every core.
        precision: precision of the layers; ``auto`` is what the service chooses.

    Raises:
        ArtifactError: the model does not exist, or one of its files is missing or altered.
        EngineError: the device or the precision is not usable.
    """
    folder, shipped_folder = Path(path), shipped_models() / str(path)
    if not folder.exists() and shipped_folder.is_dir():
        folder = shipped_folder
    if not folder.exists():
        shipped = ", ".join(sorted(each.name for each in shipped_models().glob("*/"))) or "none"
        raise ArtifactError(
            f"{path} is neither a folder nor a shipped model ({shipped}): give the folder of a "
            "model, such as artifacts/my-photos"
        )
    artifact = load_artifact(newest_version(folder))
    engine = choose_engine(artifact, device=device, threads=threads, precision=precision)
    return Classifier(engine, digest=artifact.digest)


@contextmanager
def _naming(number: int, image: ImageLike) -> Iterator[None]:
    """Add the place of an image in a list, and its path, to an error about it."""
    try:
        yield
    except LimelightError as error:
        path = f", {image}" if isinstance(image, str | os.PathLike) else ""
        error.add_note(f"This is image {number} of the list{path}.")
        raise


class _DirectRunner:
    """Runner that executes each step immediately, in the caller's thread."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def read(self, source: Source, rule: ImageRule, *, with_picture: bool) -> Upload:
        return source.read(rule, with_picture=with_picture)

    async def prepare(self, work: Callable[[], Upload]) -> Upload:
        return work()

    async def compute(self, work: Callable[[], Any]) -> Any:
        return work()

    async def run(
        self, pixels_hwc: NDArray[np.uint8], outputs: tuple[str, ...]
    ) -> Mapping[str, NDArray[np.float32]]:
        found = self._network.run(pixels_hwc[None], outputs)
        return {name: values[0] for name, values in found.items()}

    run_again = run

    async def evaluate(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        starts = range(0, len(images_nhwc), _BATCH)
        parts = [self._network.run(images_nhwc[at : at + _BATCH], ("logits",)) for at in starts]
        return np.concatenate([part["logits"] for part in parts])
