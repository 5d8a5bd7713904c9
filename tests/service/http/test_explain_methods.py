"""Explanations by every method from a real `bentoml serve`, compared with numpy."""

from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from limelight.explanations import occlusion, scorecam
from tests.service.http.test_routes import expect_problem, images_nhwc
from tests.serving_kit import COLOUR_NETWORK, COLOURS, colour_image, encode

PNG = encode(colour_image(np.random.default_rng(8)))


def explain(client: httpx.Client, **query: str | int) -> dict[str, Any]:
    response = client.post("/explain", params=query, content=PNG)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_target_all_returns_the_same_maps_as_single_targets(client: httpx.Client) -> None:
    answer = explain(client, target="all")
    winner = explain(client)
    cams = answer.pop("cams")
    assert answer == winner
    assert cams == [explain(client, target=label)["cam"] for label in COLOURS]


def test_the_view_is_the_part_that_the_maps_cover(client: httpx.Client) -> None:
    assert explain(client)["view"] == [0, 0, 8, 8]
    wide = encode(colour_image(np.random.default_rng(1)).resize((40, 20)))
    assert client.post("/explain", content=wide).json()["view"] == [10, 0, 30, 20]


def test_a_contrast_is_the_difference_of_two_maps(client: httpx.Client) -> None:
    cam = explain(client, method="contrast", target="red", against="blue")["cam"]
    cams = COLOUR_NETWORK.cams(images_nhwc(PNG))[0]
    np.testing.assert_allclose(cam["values"], cams[0] - cams[2], atol=1e-5)
    assert (cam["target"], cam["against"], cam["evaluations"]) == ("red", "blue", 1)


def test_contrast_defaults_to_the_most_probable_other_class(client: httpx.Client) -> None:
    ranked = np.argsort(-COLOUR_NETWORK.probabilities(images_nhwc(PNG))[0])
    cam = explain(client, method="contrast")["cam"]
    assert (cam["index"], cam["against"]) == (ranked[0], COLOURS[ranked[1]])
    cam = explain(client, method="contrast", target=COLOURS[ranked[1]])["cam"]
    assert cam["against"] == COLOURS[ranked[0]]


def test_layercam_maps_match_numpy(client: httpx.Client) -> None:
    answer = explain(client, method="layercam", target="all")
    maps = COLOUR_NETWORK.layercams(images_nhwc(PNG))[0]
    for cam, expected in zip(answer["cams"], maps, strict=True):
        assert (cam["method"], cam["evaluations"], cam["shape"]) == ("layercam", 1, [8, 8])
        np.testing.assert_allclose(cam["values"], expected, atol=1e-5)
    assert answer["cam"] == answer["cams"][answer["index"]]


def test_ood_score_and_flags_match_numpy_and_the_thresholds(client: httpx.Client) -> None:
    rng, flags = np.random.default_rng(3), set()
    for _ in range(40):
        image = Image.fromarray((rng.random((8, 8, 3)) * rng.random(3) * 255).astype(np.uint8))
        content = encode(image)
        answers = [client.post(path, content=content).json() for path in ("/predict", "/explain")]
        for answer in answers:
            ood_score = COLOUR_NETWORK.ood_scores(images_nhwc(content))[0]
            assert answer["ood_score"] == pytest.approx(ood_score, abs=1e-5)
            assert answer["out_of_distribution"] == (answer["ood_score"] > -1.3)
            assert answer["abstain"] == (answer["confidence"] < 0.5)
        flags.add((answers[0]["out_of_distribution"], answers[0]["abstain"]))
    assert {flag for flag, _ in flags} == {flag for _, flag in flags} == {True, False}


def test_occlusion_map_is_the_drop_of_the_logit(client: httpx.Client) -> None:
    cam = explain(client, method="occlusion", target="green", evaluations=9)["cam"]
    image = images_nhwc(PNG)[0]
    masked = occlusion.occlude(image, 9)
    expected = occlusion.occlusion_map(
        COLOUR_NETWORK.logits(image[None])[0, 1], COLOUR_NETWORK.logits(masked)[:, 1]
    )
    assert cam["evaluations"] == 10
    assert cam["shape"] == [4, 4]
    np.testing.assert_allclose(cam["values"], expected, atol=1e-5)


def test_score_cam_matches_numpy(client: httpx.Client) -> None:
    cam = explain(client, method="scorecam", target="green")["cam"]
    image = images_nhwc(PNG)[0]
    features = image.reshape(4, 2, 4, 2, 3).mean((1, 3)).transpose(2, 0, 1) / 255
    seen = scorecam.unveil(image, features.astype(np.float32))
    scores = np.exp(COLOUR_NETWORK.logits(seen)[:, 1])
    expected = np.einsum("c,chw->hw", scores / scores.sum(), features)
    assert cam["evaluations"] == 4
    np.testing.assert_allclose(cam["values"], expected, atol=1e-3)


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ({"method": "gradcam"}, "invalid_parameter", "contrast, layercam, occlusion"),
        (
            {"method": "scorecam", "model": "digits"},
            "unsupported_method",
            "digits cannot explain by scorecam: use one of cam, contrast, occlusion",
        ),
        ({"method": "contrast", "target": "red", "against": "0"}, "invalid_parameter", "same"),
        ({"against": "red"}, "invalid_parameter", "method=contrast"),
        ({"method": "contrast", "against": "pink"}, "unknown_target", "pink"),
        ({"method": "occlusion", "target": "all"}, "invalid_parameter", "name one class"),
        ({"target": "all", "format": "png"}, "invalid_parameter", "one map"),
        ({"evaluations": "9"}, "invalid_parameter", "one image"),
        ({"method": "occlusion", "evaluations": "3"}, "invalid_parameter", "4 to 256"),
        ({"method": "occlusion", "evaluations": "257"}, "invalid_parameter", "4 to 256"),
        ({"method": "occlusion", "evaluations": "many"}, "invalid_parameter", "positive integer"),
    ],
)
def test_invalid_explain_parameters_are_rejected(
    client: httpx.Client, query: dict[str, str], code: str, words: str
) -> None:
    body = (
        PNG
        if query.get("model") != "digits"
        else encode(colour_image(np.random.default_rng(1), 28))
    )
    problem = expect_problem(client.post("/explain", params=query, content=body), 422, code)
    assert words in problem["detail"]


def test_overlay_of_every_method_is_an_image(client: httpx.Client) -> None:
    for method in ("contrast", "occlusion", "scorecam"):
        response = client.post("/explain", params={"method": method, "format": "png"}, content=PNG)
        assert images_nhwc(response.content).shape == (1, 8, 8, 3)


def test_server_timing_lists_the_stages(client: httpx.Client) -> None:
    timing = client.post("/explain", content=PNG).headers["server-timing"]
    stages = dict(entry.split(";dur=") for entry in timing.split(", "))
    assert list(stages) == ["read", "decode", "queue", "compute", "render"]
    assert all(0 <= float(duration) < 10_000 for duration in stages.values())
    assert "server-timing" not in client.get("/livez").headers


def test_a_blank_image_has_an_empty_score_cam(client: httpx.Client) -> None:
    blank = encode(Image.new("RGB", (8, 8), "grey"))
    cam = client.post("/explain?method=scorecam", content=blank).json()["cam"]
    assert cam["evaluations"] == 1
    assert np.abs(cam["values"]).max() == 0
