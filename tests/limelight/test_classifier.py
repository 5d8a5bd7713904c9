"""The in-process classifier gives the same answers as the service, bit for bit."""

import asyncio
import pickle
import re
import subprocess
import sys
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import limelight
from limelight import Classifier
from limelight.artifact.store import ArtifactError
from limelight.errors import (
    ImageTooLarge,
    InvalidParameter,
    UndecodableImage,
    UnknownTarget,
    UnsupportedMediaType,
    UnsupportedMethod,
)
from limelight.image_source import ImageLike
from limelight.imaging.formats import FORMATS
from limelight.runtime.engine import Engine
from limelight.runtime.onnx_session import EngineError
from tests.own_images import OWN, encoded
from tests.serving_kit import COLOUR_NETWORK, COLOURS, colour_image, encode

ROOT = Path(__file__).parents[2]
LARGE = encode(colour_image(np.random.default_rng(1), 64).resize((96, 80)))
SMALL = encode(colour_image(np.random.default_rng(2)))
JPEG = encode(colour_image(np.random.default_rng(3), 64).resize((200, 150)), "JPEG")


@pytest.fixture
def classifier(zoo: Path) -> Classifier:
    return limelight.load(zoo / "colours", threads=1)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "picture.png"
    file.write_bytes(LARGE)
    return file


@pytest.mark.parametrize("body", [SMALL, LARGE, JPEG], ids=["small", "large", "jpeg"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target": "all", "top_k": 2},
        {"method": "contrast", "target": "0"},
        {"method": "layercam"},
        {"method": "occlusion", "evaluations": 9},
        {"method": "scorecam", "target": "green"},
        {"zoom": True},
    ],
    ids=str,
)
def test_explanations_equal_those_of_the_service(
    client: httpx.Client, classifier: Classifier, body: bytes, options: dict[str, Any]
) -> None:
    query = {name: str(value).lower() for name, value in options.items()}
    served = client.post("/explain?model=colours", params=query, content=body)
    assert served.status_code == 200, served.text
    assert classifier.explain(body, **options).to_dict() == served.json()


def test_predictions_equal_those_of_the_service(
    client: httpx.Client, classifier: Classifier
) -> None:
    bodies = [SMALL, LARGE, JPEG]
    served = [client.post("/predict?model=colours", content=body).json() for body in bodies]
    assert [classifier.predict(body).to_dict() for body in bodies] == served


def test_batches_give_the_results_of_single_images(classifier: Classifier) -> None:
    # More than one batch. On some processors the last bit depends on the size of a batch.
    images = np.random.default_rng(4).integers(0, 256, (40, 8, 8, 3), np.uint8)
    singles = [classifier.explain(image) for image in images]
    uploads = [classifier.read(image) for image in images]
    for single, listed, predicted, explained in zip(
        singles,
        classifier.predict(images),
        classifier.predict_batch(uploads),
        classifier.explain_batch(uploads),
        strict=True,
    ):
        for batched in (listed, predicted, explained):
            assert batched.label == single.label
            assert batched.confidence == pytest.approx(single.confidence, abs=1e-6)
        assert (explained.view, explained.cam.target) == (single.view, single.cam.target)
        np.testing.assert_allclose(explained.cam.values, single.cam.values, atol=1e-5)
    assert len({single.label for single in singles}) > 1
    assert classifier.predict([]) == classifier.predict_batch([]) == []


def test_overlays_equal_those_of_the_service(client: httpx.Client, classifier: Classifier) -> None:
    for body in (LARGE, JPEG):
        query = "/explain?model=colours&format=png&opacity=0.3&colormap=magma"
        served = Image.open(BytesIO(client.post(query, content=body).content))
        drawn = classifier.explain(body).overlay(opacity=0.3, colormap="magma")
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(served))


def test_every_type_of_image_source_gives_the_same_result(
    classifier: Classifier, picture: Path
) -> None:
    image = Image.open(picture)
    pixels = np.asarray(image)
    other = bytearray(LARGE), memoryview(LARGE)
    given: list[ImageLike] = [LARGE, *other, picture, str(picture), image, pixels]
    answers = [classifier.explain(each, zoom=True).to_dict() for each in given]
    assert all(answer == answers[0] for answer in answers)
    many = classifier.predict(np.stack([pixels, pixels[::-1]]))
    singles = [classifier.predict(pixels), classifier.predict(pixels[::-1])]
    assert [each.label for each in many] == [each.label for each in singles]


@pytest.mark.parametrize("name", OWN)
def test_formats_of_ones_own_files_are_read_from_paths_and_bytes(
    name: str, classifier: Classifier, tmp_path: Path
) -> None:
    image = colour_image(np.random.default_rng(5), 64)
    file = tmp_path / f"picture{FORMATS[name].suffixes[0]}"
    file.write_bytes(encoded(image, name))
    decoded = np.asarray(Image.open(file).convert("RGB"))
    answer = classifier.explain(file).to_dict()
    assert answer == classifier.explain(file.read_bytes()).to_dict()
    assert answer == classifier.explain(decoded).to_dict()
    assert classifier.explain(file).overlay().size == image.size


def test_probabilities_match_numpy(classifier: Classifier) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    expected = COLOUR_NETWORK.probabilities(pixels[None])[0]
    found = classifier.predict(pixels, top_k=3)
    assert found.index == expected.argmax()
    for score in found.scores:
        assert score.probability == pytest.approx(expected[score.index], abs=1e-6)


def test_explain_works_with_and_without_an_event_loop(classifier: Classifier) -> None:
    outside = classifier.explain(SMALL, method="occlusion").to_dict()

    async def inside() -> dict[str, Any]:
        return classifier.explain(SMALL, method="occlusion").to_dict()

    assert asyncio.run(inside()) == outside


@pytest.mark.parametrize(
    ("image", "options", "error"),
    [
        (b"no image", {}, UnsupportedMediaType),
        (SMALL[:40], {}, UndecodableImage),
        (SMALL, {"target": "pink"}, UnknownTarget),
        (SMALL, {"method": "gradcam"}, UnsupportedMethod),
        (SMALL, {"evaluations": 9}, InvalidParameter),
        (SMALL, {"top_k": 99}, InvalidParameter),
        (np.zeros((4, 4, 2), np.uint8), {}, UndecodableImage),
        (np.zeros((4, 4, 3), np.float32), {}, UndecodableImage),
        (Path("nothing.png"), {}, FileNotFoundError),
        (SMALL, {"colour": "red"}, TypeError),
    ],
)
def test_invalid_images_and_options_are_rejected(
    classifier: Classifier, image: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        classifier.explain(image, **options)
    with pytest.raises(TypeError, match="is no image"):
        classifier.predict([3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"file\.read\(\)"):
        classifier.predict(BytesIO(LARGE))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pillow_image_whose_values_have_no_known_range_is_rejected(
    mode: str, classifier: Classifier
) -> None:
    with pytest.raises(UndecodableImage, match="no known range"):
        classifier.predict(Image.new(mode, (8, 8)))


@pytest.mark.parametrize("options", [{"target": 1}, {"target": np.int64(1)}, {"target": "1"}])
def test_class_may_be_given_by_its_index(options: dict[str, Any], classifier: Classifier) -> None:
    assert classifier.explain(SMALL, **options).cam.index == 1
    contrasted = classifier.explain(SMALL, method="contrast", against=2, **options)
    assert contrasted.cam.against == COLOURS[2]


@pytest.mark.parametrize("index", [-1, 99])
def test_index_out_of_range_is_rejected(index: int, classifier: Classifier) -> None:
    with pytest.raises(UnknownTarget, match=f"no class '{index}'"):
        classifier.explain(SMALL, target=index)


def test_error_names_the_image_of_a_list(classifier: Classifier, picture: Path) -> None:
    (picture.parent / "bad.png").write_bytes(LARGE[:100])
    bad = str(picture.parent / "bad.png")
    images: list[ImageLike] = [picture, bad]
    for method in (classifier.predict, classifier.explain):
        with pytest.raises(UndecodableImage) as rejected:
            method(images)
        (note,) = rejected.value.__notes__
        assert note == f"This is image 1 of the list, {bad}."


def test_explanation_can_be_sent_to_another_process(classifier: Classifier) -> None:
    explanation = classifier.explain(LARGE, zoom=True)
    received = pickle.loads(pickle.dumps(explanation))  # our own
    assert received == explanation
    assert received.overlay() == explanation.overlay()


def test_importing_limelight_leaves_the_limit_of_pillow() -> None:
    code = (
        "import limelight; limelight.Client, limelight.load; from PIL import Image;"
        "import sys; sys.exit(Image.MAX_IMAGE_PIXELS is None)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_large_image_is_rejected_before_it_is_decoded(classifier: Classifier) -> None:
    small = Classifier(classifier._engine, max_pixels=100)
    for image in (LARGE, Image.open(BytesIO(LARGE)), np.zeros((11, 10, 3), np.uint8)):
        with pytest.raises(ImageTooLarge, match="send a smaller one"):
            small.predict(image)


def test_results_have_text_and_notebook_representations(classifier: Classifier) -> None:
    explanation = classifier.explain(LARGE)
    assert str(explanation).startswith(f"{explanation.label} ")
    assert f"{explanation.confidence:.1%}" in str(explanation)
    shown = explanation._repr_html_()
    assert f"<td>{explanation.label}</td>" in shown
    assert not hasattr(explanation, "_repr_png_")  # Jupyter would prefer the table to it
    (encoded,) = re.findall(r'src="data:image/png;base64,([^"]+)"', shown)
    assert Image.open(BytesIO(b64decode(encoded))).size == (96, 80)
    assert repr(classifier) == "<Classifier colours 1 on CPU>"


def test_overlay_without_an_attached_image_raises_an_error(classifier: Classifier) -> None:
    from limelight.results import Explanation, read

    bare = read(Explanation, classifier.explain(SMALL).to_dict())
    assert "<td>" in bare._repr_html_()
    assert "<img" not in bare._repr_html_()
    with pytest.raises(ValueError, match="does not know its image"):
        bare.overlay()


def test_a_shipped_model_is_loaded_by_its_name() -> None:
    assert limelight.load("digits").manifest.name == "digits"
    with pytest.raises(ArtifactError, match=r"nor a shipped model \(cifar10, cifar10-small, "):
        limelight.load("dogs")


def test_device_or_precision_that_does_not_exist_is_rejected(zoo: Path) -> None:
    for device in ("gpu", "CUDA"):
        with pytest.raises(EngineError, match="use one of auto, cpu, cuda, tensorrt"):
            limelight.load(zoo / "colours", device=device)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="use one of auto, float32, float16, int8"):
        limelight.load(zoo / "colours", precision="fp16")  # type: ignore[arg-type]


def test_importing_limelight_loads_no_heavy_module() -> None:
    code = (
        "import sys, time; started = time.perf_counter(); import limelight;"
        "taken = time.perf_counter() - started;"
        "from limelight import Client, AsyncClient, Prediction;"
        "heavy = {'onnxruntime', 'torch', 'bentoml', 'starlette', 'prometheus_client', 'orjson'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "assert taken < 0.3, taken"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_load_without_onnx_runtime_names_the_extra_to_install() -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "import limelight\n"
        "limelight.Client, limelight.Explanation\n"
        "try: limelight.load\n"
        "except ImportError as error: print(error)\n"
        "try: limelight.nothing\n"
        "except AttributeError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "running a model here needs ONNX Runtime: pip install 'limelight[runtime]'",
        "module 'limelight' has no attribute 'nothing'",
    ]


def test_classifier_accepts_an_existing_engine(zoo: Path) -> None:
    from limelight.artifact.store import load_artifact

    engine = Engine(load_artifact(zoo / "colours" / "1"), device="cpu", threads=1)
    assert Classifier(engine).predict(SMALL) == limelight.load(zoo / "colours").predict(SMALL)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "BMP"])
def test_the_zoomed_crop_lies_inside_the_upload(image_format: str) -> None:
    cat = Image.open(ROOT / "examples" / "cat.png").convert("RGB")
    stream = BytesIO()
    cat.save(stream, image_format)
    explanation = limelight.load("cifar10").explain(stream.getvalue(), zoom=True)
    assert explanation.zoom is not None
    left, top, right, bottom = explanation.zoom.view
    # The part around the box of the first map, as large in both directions as the input is.
    assert 0 <= left < right <= cat.width
    assert 0 <= top < bottom <= cat.height
    assert right - left == bottom - top
    box = explanation.zoom.cam.box
    assert left <= box[0] < box[2] <= right
    assert top <= box[1] < box[3] <= bottom
