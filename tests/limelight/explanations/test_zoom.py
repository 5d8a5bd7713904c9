"""Zoomed crop: its position, and its effect on a small object."""

import httpx
import pytest
from PIL import Image

from limelight.explanations.bounding_box import Box
from limelight.explanations.zoom import zoomed_view
from limelight.imaging.image_rule import ImageRule
from limelight.imaging.preprocessing import View
from tests.service.http.test_routes import expect_problem
from tests.serving_kit import encode

RULE = ImageRule(height=32, width=32, mode="RGB", fit="crop", invert="never", background=255)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(100, 60, 140, 90), View(100, 55, 40, 40)),  # of the input's proportions
        (Box(0, 0, 40, 20), View(0, 0, 40, 40)),  # moved into the image
        (Box(380, 260, 400, 300), View(360, 260, 40, 40)),
        (Box(100, 100, 110, 110), View(89, 89, 32, 32)),  # not smaller than the input
    ],
)
def test_zoomed_crop_is_centred_on_the_box(box: Box, expected: View) -> None:
    assert zoomed_view(box, (400, 300), RULE) == expected


def test_crop_of_nearly_the_whole_upload_is_omitted() -> None:
    assert zoomed_view(Box(0, 0, 250, 250), (400, 300), RULE) is None
    assert zoomed_view(Box(10, 10, 20, 20), (32, 32), RULE) is None


def test_small_object_is_more_probable_in_the_zoomed_crop(client: httpx.Client) -> None:
    scene = Image.new("RGB", (640, 480), (60, 72, 86))
    scene.paste((220, 30, 30), (300, 200, 370, 270))
    answer = client.post("/explain?zoom=true&target=red", content=encode(scene)).json()
    zoom = answer["zoom"]

    def red(result: dict[str, list[dict[str, float | str]]]) -> float:
        return next(float(s["probability"]) for s in result["scores"] if s["label"] == "red")

    assert answer["label"] == "blue"
    assert zoom["label"] == "red"
    assert red(zoom) > red(answer) + 0.1
    left, top, right, bottom = zoom["view"]
    # The crop contains most of the object. A part in a cell with little red may be cut off.
    assert min(right, 370) - max(left, 300) > 45
    assert min(bottom, 270) - max(top, 200) > 45
    # The box of the zoomed crop is in pixels of the whole upload.
    edges = zoom["cam"]["box"]
    assert left <= edges[0] < 335 < edges[2] <= right
    assert top <= edges[1] < 235 < edges[3] <= bottom
    whole = client.post("/explain?target=red", content=encode(scene)).json()
    assert {name: value for name, value in answer.items() if name != "zoom"} == whole


def test_small_image_has_no_zoomed_crop(client: httpx.Client) -> None:
    answer = client.post("/explain?zoom=true", content=encode(Image.new("RGB", (8, 8)))).json()
    assert "zoom" not in answer


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("zoom=yes", "true or false"),
        ("zoom=true&format=png", "one map"),
        ("zoom=true&model=digits", "leave zoom out"),
    ],
)
def test_invalid_zoom_is_rejected(client: httpx.Client, query: str, words: str) -> None:
    body = encode(Image.new("RGB", (64, 64)))
    problem = expect_problem(
        client.post(f"/explain?{query}", content=body), 422, "invalid_parameter"
    )
    assert words in problem["detail"]
