"""HTTP routes and errors of a real `bentoml serve`."""

import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from openapi_spec_validator import validate
from PIL import Image

from service.http.parameters import NAMES
from tests.service.telemetry.scraping import let_workers_count
from tests.serving_kit import (
    COLOUR_NETWORK,
    COLOURS,
    DIGIT_NETWORK,
    DIGITS,
    Server,
    colour_image,
    encode,
)

PNG = encode(colour_image(np.random.default_rng(3)))


def expect_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert set(problem) == {"status", "code", "title", "detail"}
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["title"]
    assert problem["detail"]
    return problem


def images_nhwc(body: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(body)) as image:
        return np.array(image)[None]


# Answers


def test_prediction_matches_numpy(client: httpx.Client) -> None:
    answer = client.post("/predict", content=PNG).json()
    probabilities = COLOUR_NETWORK.probabilities(images_nhwc(PNG))[0]
    ranked = np.argsort(-probabilities)
    assert list(answer) == [
        *("model", "version", "label", "index", "confidence"),
        *("abstain", "ood_score", "out_of_distribution", "scores"),
    ]
    assert (answer["model"], answer["version"]) == ("colours", "1")
    assert answer["label"] == COLOURS[ranked[0]]
    assert answer["index"] == ranked[0]
    assert answer["confidence"] == answer["scores"][0]["probability"]
    assert [score["index"] for score in answer["scores"]] == ranked.tolist()
    assert [score["label"] for score in answer["scores"]] == [COLOURS[i] for i in ranked]
    assert [score["probability"] for score in answer["scores"]] == pytest.approx(
        probabilities[ranked].tolist(), abs=1e-6
    )


def test_an_explanation_adds_the_map_of_the_winner(client: httpx.Client) -> None:
    answer = client.post("/explain", content=PNG).json()
    prediction = client.post("/predict", content=PNG).json()
    cam, view = answer.pop("cam"), answer.pop("view")
    assert answer == prediction
    assert view == [0, 0, 8, 8]
    assert (cam["target"], cam["index"]) == (prediction["label"], prediction["index"])
    assert cam["shape"] == [4, 4]
    expected = COLOUR_NETWORK.cams(images_nhwc(PNG))[0, cam["index"]]
    np.testing.assert_allclose(cam["values"], expected, atol=1e-5)
    assert cam["peak"] == np.max(cam["values"])
    left, top, right, bottom = cam["box"]
    assert 0 <= left < right <= 8
    assert 0 <= top < bottom <= 8


@pytest.mark.parametrize("target", ["blue", "2"])
def test_a_target_is_a_label_or_an_index(client: httpx.Client, target: str) -> None:
    cam = client.post("/explain", params={"target": target}, content=PNG).json()["cam"]
    assert (cam["target"], cam["index"]) == ("blue", 2)
    expected = COLOUR_NETWORK.cams(images_nhwc(PNG))[0, 2]
    np.testing.assert_allclose(cam["values"], expected, atol=1e-5)


def test_box_surrounds_a_patch_in_a_large_upload(client: httpx.Client) -> None:
    image = Image.new("RGB", (640, 320), "white")
    image.paste("red", (400, 80, 480, 160))
    cam = client.post("/explain?target=red", content=encode(image)).json()["cam"]
    left, top, right, bottom = cam["box"]
    assert left < 440 < right
    assert top < 120 < bottom
    assert right - left < 160


@pytest.mark.parametrize(
    ("query", "accept"), [("format=png", "*/*"), ("", "image/png"), ("", "image/png, */*;q=0.1")]
)
def test_an_overlay_is_a_png_of_the_uploads_size(
    client: httpx.Client, query: str, accept: str
) -> None:
    upload = encode(Image.new("RGB", (123, 45), "red"), "JPEG")
    response = client.post(f"/explain?{query}", content=upload, headers={"Accept": accept})
    assert response.headers["content-type"] == "image/png"
    assert response.headers["vary"] == "Accept"
    with Image.open(io.BytesIO(response.content)) as picture:
        assert picture.size == (123, 45)


@pytest.mark.parametrize(
    "accept", ["*/*", "application/json", "text/html,*/*;q=0.8", "image/*;q=0"]
)
def test_json_is_the_default_format(client: httpx.Client, accept: str) -> None:
    response = client.post("/explain", content=PNG, headers={"Accept": accept})
    assert response.headers["content-type"] == "application/json"


def test_opacity_and_colormap_of_the_query_change_the_overlay(client: httpx.Client) -> None:
    query = "/explain?format=png&colormap="
    clear = client.post(query + "jet&opacity=0", content=PNG).content
    np.testing.assert_array_equal(images_nhwc(clear), images_nhwc(PNG))
    answers = {client.post(query + name, content=PNG).content for name in ("jet", "magma")}
    assert len(answers) == 2


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/octet-stream",
        "application/x-www-form-urlencoded",  # what `curl --data-binary` sends
        "image/png",
        "image/jpeg",  # wrong but harmless, because the format is read from the bytes
        "IMAGE/PNG; charset=binary",
    ],
)
def test_a_raw_body_needs_no_particular_content_type(
    client: httpx.Client, content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    assert client.post("/predict", content=PNG, headers=headers).status_code == 200


def test_the_image_may_be_a_multipart_field(client: httpx.Client) -> None:
    raw = client.post("/predict", content=PNG).json()
    typed = client.post("/predict", data={"note": "x"}, files={"image": ("a", PNG, "image/png")})
    untyped = client.post("/predict", files={"image": ("a", PNG)})
    assert typed.json() == untyped.json() == raw


def test_a_body_may_come_in_chunks_without_a_length(client: httpx.Client) -> None:
    pieces = (PNG[i : i + 10] for i in range(0, len(PNG), 10))
    assert client.post("/predict", content=pieces).json()["model"] == "colours"


def test_model_is_selected_by_the_query(client: httpx.Client) -> None:
    digit = np.random.default_rng(5).integers(0, 256, (28, 28), np.uint8)
    digit[[0, -1]] = digit[:, [0, -1]] = 0
    body = encode(Image.fromarray(digit))
    answer = client.post("/predict?model=digits&top_k=10", content=body).json()
    assert (answer["model"], answer["version"]) == ("digits", "12")
    expected = DIGIT_NETWORK.probabilities(digit[None, :, :, None])[0]
    actual = {score["label"]: score["probability"] for score in answer["scores"]}
    assert [actual[label] for label in DIGITS] == pytest.approx(expected.tolist(), abs=1e-6)


def test_concurrent_requests_get_their_own_results(client: httpx.Client) -> None:
    rng = np.random.default_rng(11)
    uploads = [encode(colour_image(rng)) for _ in range(120)]

    def ask(index: int) -> None:
        route = "/explain?target=green" if index % 3 == 0 else "/predict"
        answer = client.post(route, content=uploads[index]).json()
        images = images_nhwc(uploads[index])
        by_label = {score["label"]: score["probability"] for score in answer["scores"]}
        expected = COLOUR_NETWORK.probabilities(images)[0]
        assert [by_label[label] for label in COLOURS] == pytest.approx(expected, abs=1e-6)
        if index % 3 == 0:
            cam = COLOUR_NETWORK.cams(images)[0, 1]
            np.testing.assert_allclose(answer["cam"]["values"], cam, atol=1e-5)

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(ask, range(len(uploads))))


def test_bad_image_fails_alone_among_concurrent_requests(client: httpx.Client) -> None:
    bodies = [PNG] * 15 + [PNG[:100]] + [PNG] * 15
    with ThreadPoolExecutor(31) as pool:
        answers = list(pool.map(lambda body: client.post("/predict", content=body), bodies))
    assert [answer.status_code for answer in answers] == [200] * 15 + [422] + [200] * 15
    assert len({answer.text for answer in answers}) == 2


# Errors


@pytest.mark.parametrize("route", ["/predict", "/explain"])
class TestEveryUploadRoute:
    def test_an_empty_body_is_a_missing_image(self, client: httpx.Client, route: str) -> None:
        expect_problem(client.post(route), 400, "missing_image")
        headers = {"Content-Type": "image/png"}
        expect_problem(client.post(route, content=b"", headers=headers), 400, "missing_image")

    def test_a_form_without_the_field_is_a_missing_image(
        self, client: httpx.Client, route: str
    ) -> None:
        other = client.post(route, files={"photo": ("a.png", PNG, "image/png")})
        assert "'image'" in expect_problem(other, 400, "missing_image")["detail"]
        empty = client.post(route, files={"image": ("a.png", b"", "image/png")})
        expect_problem(empty, 400, "missing_image")
        text = client.post(route, files={"image": (None, "text")})
        expect_problem(text, 400, "missing_image")

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            ("multipart/form-data", b"--x\r\n\r\n"),
            ("multipart/form-data; boundary=x", b"no boundary at all"),
            ("multipart/form-data; boundary=x", b"--x\r\nnonsense\r\n\r\nabc\r\n--x--\r\n"),
            ("multipart/form-data; boundary=x", b"--x\r\nA: b\r\n\r\nabc\r\n--x--\r\n"),
        ],
    )
    def test_malformed_form_is_rejected(
        self, client: httpx.Client, route: str, content_type: str, body: bytes
    ) -> None:
        response = client.post(route, content=body, headers={"Content-Type": content_type})
        expect_problem(response, 400, "invalid_multipart")

    def test_unknown_model_is_404_and_names_the_known_ones(
        self, client: httpx.Client, route: str
    ) -> None:
        response = client.post(route, params={"model": "nope"}, content=PNG)
        problem = expect_problem(response, 404, "unknown_model")
        assert "colours" in problem["detail"]
        assert "digits" in problem["detail"]

    def test_body_over_the_limit_is_rejected_and_the_connection_stays_usable(
        self, client: httpx.Client, route: str
    ) -> None:
        body = PNG + b"\0" * 5_000_000
        expect_problem(client.post(route, content=body), 413, "body_too_large")
        pieces = (body[i : i + 65536] for i in range(0, len(body), 65536))
        expect_problem(client.post(route, content=pieces), 413, "body_too_large")
        assert client.post(route, content=PNG).status_code == 200

    def test_the_limit_itself_is_allowed(self, client: httpx.Client, route: str) -> None:
        body = PNG + b"\0" * (200_000 - len(PNG))
        assert client.post(route, content=body).status_code == 200
        expect_problem(client.post(route, content=body + b"\0"), 413, "body_too_large")

    def test_too_many_pixels_are_rejected(self, client: httpx.Client, route: str) -> None:
        allowed = encode(Image.new("1", (1000, 1000)))
        assert client.post(route, content=allowed).status_code == 200
        bomb = encode(Image.new("1", (1000, 1001)))
        assert len(bomb) < 2000
        expect_problem(client.post(route, content=bomb), 413, "image_too_large")

    @pytest.mark.parametrize("content_type", ["application/json", "text/plain", "image/tiff"])
    def test_other_content_types_are_rejected(
        self, client: httpx.Client, route: str, content_type: str
    ) -> None:
        headers = {"Content-Type": content_type}
        expect_problem(
            client.post(route, content=PNG, headers=headers), 415, "unsupported_media_type"
        )
        part = ("a", PNG, content_type)
        expect_problem(client.post(route, files={"image": part}), 415, "unsupported_media_type")

    @pytest.mark.parametrize(
        "body", [b"hello", b"\0\0\0\0", encode(Image.new("L", (9, 9)), "TIFF")]
    )
    def test_bytes_of_another_format_are_rejected(
        self, client: httpx.Client, route: str, body: bytes
    ) -> None:
        expect_problem(client.post(route, content=body), 415, "unsupported_media_type")

    @pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
    def test_a_truncated_image_is_undecodable(
        self, client: httpx.Client, route: str, image_format: str
    ) -> None:
        body = encode(colour_image(np.random.default_rng(0), 64), image_format)
        for length in (12, len(body) // 2):
            expect_problem(client.post(route, content=body[:length]), 422, "undecodable_image")

    @pytest.mark.parametrize("top_k", ["0", "4", "-1", "1.5", "many", "", "9" * 40, "²"])
    def test_top_k_out_of_range_is_rejected(
        self, client: httpx.Client, route: str, top_k: str
    ) -> None:
        response = client.post(route, params={"top_k": top_k}, content=PNG)
        expect_problem(response, 422, "invalid_parameter")

    @pytest.mark.parametrize("name", ["topk", "Model", "image", "_", "", "model ", "x" * 5000])
    def test_unknown_parameter_is_rejected_and_the_known_ones_are_named(
        self, client: httpx.Client, route: str, name: str
    ) -> None:
        response = client.post(route, params={"top_k": "1", name: "1"}, content=PNG)
        detail = expect_problem(response, 422, "invalid_parameter")["detail"]
        assert f"no parameter {name[:100]!r}: {route} takes model, version, top_k" in detail
        assert ("target" in detail) == (route == "/explain")
        assert len(detail) < 300
        form = {"files": {"image": ("a", PNG)}, "params": {name: "1"}}
        expect_problem(client.post(route, **form), 422, "invalid_parameter")  # type: ignore[arg-type]

    def test_known_parameters_are_those_of_the_openapi_document(
        self, client: httpx.Client, route: str
    ) -> None:
        parameters = client.get("/openapi.json").json()["paths"][route]["post"]["parameters"]
        names = [each["name"] for each in parameters if each["in"] == "query"]
        assert sorted(names) == sorted(NAMES[route])

    def test_other_methods_are_rejected_and_the_allowed_one_is_named(
        self, client: httpx.Client, route: str
    ) -> None:
        for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
            response = client.request(method, route)
            expect_problem(response, 405, "method_not_allowed")
            assert response.headers["allow"] == "POST"


def test_parameter_of_the_other_route_is_unknown(client: httpx.Client) -> None:
    detail = expect_problem(
        client.post("/predict?target=blue", content=PNG), 422, "invalid_parameter"
    )["detail"]
    assert detail == "there is no parameter 'target': /predict takes model, version, top_k"


def test_routes_without_parameters_ignore_a_query(client: httpx.Client) -> None:
    """Probes, scrapers and browsers add some of their own."""
    for path in (
        "/",
        "/livez",
        "/readyz",
        "/metrics",
        "/models",
        "/models/colours",
        "/page/page.js",
    ):
        assert client.get(path, params={"_": "1"}).status_code == 200


@pytest.mark.parametrize("target", ["purple", "3", "-1", "", "1.0", "9" * 5000])
def test_unknown_target_is_rejected_and_the_classes_are_named(
    client: httpx.Client, target: str
) -> None:
    response = client.post("/explain", params={"target": target}, content=PNG)
    problem = expect_problem(response, 422, "unknown_target")
    assert "red, green, blue" in problem["detail"]
    assert len(problem["detail"]) < 500


@pytest.mark.parametrize(
    "query",
    ["opacity=1.1", "opacity=nan", "opacity=x", "opacity=-0.1", "colormap=pink", "format=gif"],
)
def test_overlay_parameter_out_of_range_is_rejected(client: httpx.Client, query: str) -> None:
    expect_problem(client.post(f"/explain?{query}", content=PNG), 422, "invalid_parameter")


@pytest.mark.parametrize("path", ["/nope", "/predict/", "/models/", "/models/a/b"])
def test_unknown_path_is_404(client: httpx.Client, path: str) -> None:
    for method in ("GET", "POST"):
        expect_problem(client.request(method, path), 404, "no_such_route")


def test_page_of_an_unknown_model_is_404(client: httpx.Client) -> None:
    expect_problem(client.get("/models/nope"), 404, "unknown_model")


# Models, health, metrics and the OpenAPI document


def test_models_are_listed_with_their_manifests_and_provider(client: httpx.Client) -> None:
    models = client.get("/models").json()["models"]
    assert [model["name"] for model in models] == ["colours", "digits"]
    for model in models:
        assert client.get(f"/models/{model['name']}").json() == model
        assert model["provider"] in ("CPU", "CUDA", "TensorRT")
        assert model["precision"] == "float32"  # neither has an fp16 graph
        assert model["manifest"]["version"] == model["version"]
    assert [model["default"] for model in models] == [True, False]
    assert models[0]["manifest"]["classes"] == list(COLOURS)


def test_health_routes_report_a_ready_service(client: httpx.Client) -> None:
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    assert client.get("/healthz").json() == {"status": "alive", "ready": True}


def test_head_gives_the_headers_of_get(client: httpx.Client) -> None:
    for path in ("/", "/models", "/livez", "/readyz", "/metrics", "/openapi.json"):
        head = client.head(path)
        assert head.status_code == 200
        assert head.content == b""
        assert int(head.headers["content-length"]) > 0


def test_metrics_count_requests_and_do_not_grow_with_unknown_paths(client: httpx.Client) -> None:
    def count(text: str) -> float:
        labels = r'code="200",model="colours",route="/predict",version="1"'
        pattern = rf"limelight_requests_total\{{{labels}\}} (\S+)"
        found = re.search(pattern, text)
        return float(found[1]) if found else 0.0

    client.get("/nope")
    client.post("/predict?model=nope", content=PNG)
    let_workers_count()
    before = client.get("/metrics").text
    client.post("/predict", content=PNG)
    for index in range(50):
        client.get(f"/nope/{index}")
        client.post(f"/predict?model=nope{index}", content=PNG)
    let_workers_count()
    after = client.get("/metrics").text
    assert count(after) == count(before) + 1
    assert after.count("\n") == before.count("\n")
    assert re.search(
        r'limelight_model_info\{model="colours",precision="float32",provider="\w+",sha256="\w{64}"',
        after,
    )
    assert "limelight_batch_size_bucket" in after
    assert "limelight_request_duration_seconds_bucket" in after


def test_openapi_document_is_valid_and_lists_every_route_and_error(
    client: httpx.Client,
) -> None:
    document = client.get("/openapi.json").json()
    validate(document)
    assert client.get("/docs.json").json() == document
    assert document["openapi"].startswith("3.1")
    assert [server["url"] for server in document["servers"]] == ["/"]
    routes = {"/predict", "/explain", "/models", "/models/{name}", "/livez", "/readyz", "/healthz"}
    assert routes <= set(document["paths"])
    responses = document["paths"]["/explain"]["post"]["responses"]
    assert set(responses) == {"200", "400", "404", "408", "413", "415", "422", "500", "503"}
    text = json.dumps(document)
    for code in ("missing_image", "unknown_target", "overloaded", "method_not_allowed"):
        assert code in text


def test_log_contains_no_errors(client: httpx.Client, server: Server) -> None:
    """Runs last: no test above caused an internal error of the service."""
    assert client.get("/livez").status_code == 200
    assert "Traceback" not in server.log()
    assert "[ERROR]" not in server.log()
