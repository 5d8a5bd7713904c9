"""Keys in front of the routes, in the process of the test: statuses, errors, and what is open."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate

from limelight.api_keys import entry, hash_key
from service.caller import Caller
from service.errors import Unauthenticated
from service.request_context import RequestContext
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.recorder import Recorder
from tests.service.access.kit import KEYS, bearer, keys_text
from tests.service.test_app import PNG, Served

CHOSEN = "correct-horse-battery"
OPEN = {"/livez", "/readyz"}
PAGES = {"/", "/docs", "/page/page.js", "/examples/seven.png"}
INFER = "/v2/models/colours/infer"
PIXELS = {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [0] * 192}


def settings(zoo: Path, folder: Path, **changes: Any) -> Settings:
    (folder / "keys.toml").write_text(
        keys_text(more=entry("person", hash_key(CHOSEN), scopes=("predict",)))
    )
    return Settings(
        models=zoo,
        default_model="colours",
        device="cpu",
        keys_file=folder / "keys.toml",
        **changes,
    )


@pytest.fixture
async def http(zoo: Path, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with Served(settings(zoo, tmp_path)) as served:
        yield served.http


def problem(response: httpx.Response, status: int, code: str) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == code
    challenge: str = response.headers["www-authenticate"]
    return challenge


async def test_every_route_but_health_and_the_page_asks_for_a_key(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json", headers=bearer("shop"))).json()
    routes = {
        path.format(name="colours", version="1"): list(item)
        for path, item in document["paths"].items()
    }
    assert len(routes) > 20
    for path, methods in {**routes, "/nothing": ["get"], "/livez/": ["get"]}.items():
        for method in set(methods) & {"get", "post"}:
            response = await http.request(method, path)
            expected = path not in OPEN | PAGES
            assert (response.status_code == 401) == expected, path
            if expected and path.startswith("/v2"):
                assert list(response.json()) == ["error"]
                assert response.headers["www-authenticate"] == 'Bearer realm="limelight"'
            elif expected:
                assert problem(response, 401, "unauthenticated") == 'Bearer realm="limelight"'


async def test_page_and_metrics_follow_the_settings(zoo: Path, tmp_path: Path) -> None:
    for page, metrics in ((True, False), (False, True)):
        changed = settings(zoo, tmp_path, public_page=page, public_metrics=metrics)
        async with Served(changed) as served:
            for path in PAGES:
                status = (await served.http.get(path)).status_code
                assert status == (200 if page else 401), path
                assert (await served.http.get(path, headers=bearer("shop"))).status_code == 200
            status = (await served.http.get("/metrics")).status_code
            assert status == (200 if metrics else 401)


async def test_key_that_is_taken_back_between_two_checks_has_no_rights(
    zoo: Path, tmp_path: Path
) -> None:
    """gRPC checks a call by its head, and finds its caller again when the message has arrived."""
    async with Served(settings(zoo, tmp_path)) as served:
        access, context = served.application._access, RequestContext()
        assert access is not None
        headers = {b"x-api-key": KEYS["shop"].encode()}
        access.recognise(INFER, headers, context)
        assert context.caller.name == "shop"
        later = RequestContext()
        with pytest.raises(Unauthenticated):
            access.recognise(INFER, {b"x-api-key": b"taken-back"}, later)
        with pytest.raises(Unauthenticated):
            access.recognise(INFER, {}, later)
        access.recognise("/livez", {}, later)


@pytest.mark.parametrize(
    "headers",
    [
        bearer("shop"),
        {"Authorization": f"bearer  {KEYS['shop']}"},
        {"X-Api-Key": KEYS["shop"]},
        {"Authorization": "Basic c2hvcDpzaG9w", "X-Api-Key": KEYS["shop"]},
        {"X-Api-Key": CHOSEN},
    ],
)
async def test_key_is_accepted_in_both_headers(
    http: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    for _ in range(2):
        response = await http.post("/predict", content=PNG, headers=headers)
        assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {KEYS['shop']}x"},
        {"X-Api-Key": hash_key(KEYS["shop"])},
        # The one that counts is wrong, whatever stands beside it.
        {"Authorization": "Bearer wrong", "X-Api-Key": KEYS["shop"]},
    ],
)
async def test_wrong_key_is_named_as_invalid(
    http: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    response = await http.post("/predict", content=PNG, headers=headers)
    assert 'error="invalid_token"' in problem(response, 401, "unauthenticated")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/predict", {"shop", "maps", "chief"}),
        ("POST", "/explain", {"maps", "chief"}),
        ("GET", "/metrics", {"scraper", "chief"}),
        ("GET", "/v2/models/stats", {"scraper", "chief"}),
        ("GET", "/v2/models/colours/versions/1/stats", {"scraper", "chief"}),
        ("POST", INFER, {"shop", "maps", "chief"}),
        ("GET", "/models", set(KEYS)),
        ("GET", "/v2/models/colours", set(KEYS)),
    ],
)
async def test_each_route_needs_its_scope(
    http: httpx.AsyncClient, method: str, path: str, allowed: set[str]
) -> None:
    for name in KEYS:
        response = await http.request(method, path, headers=bearer(name))
        assert (response.status_code == 403) == (name not in allowed), name
        if response.status_code == 403:
            challenge = response.headers["www-authenticate"]
            assert 'error="insufficient_scope", scope="' in challenge


async def test_inference_request_for_maps_needs_the_scope_of_explanations(
    http: httpx.AsyncClient,
) -> None:
    for outputs, explains in (
        ([{"name": "probabilities"}], False),
        ([{"name": "cams"}], True),
        ([{"name": "overlay_png"}], True),
        ([], True),  # all outputs, and so the maps too
    ):
        body = {"inputs": [PIXELS], "outputs": outputs}
        response = await http.post(INFER, json=body, headers=bearer("shop"))
        assert response.status_code == (403 if explains else 200), response.text
        assert (await http.post(INFER, json=body, headers=bearer("maps"))).status_code == 200


async def test_request_without_a_key_is_answered_before_its_body(zoo: Path, tmp_path: Path) -> None:
    async with Served(settings(zoo, tmp_path)) as served:
        for path in ("/predict", "/explain", INFER, "/v2/repository/index"):
            for headers in ([], [(b"x-api-key", KEYS["scraper"].encode())]):
                if path == "/v2/repository/index" and headers:
                    continue
                sent: list[Any] = []

                async def send(message: Any, sent: list[Any] = sent) -> None:
                    sent.append(message)

                async def receive() -> Any:
                    raise AssertionError("the body is read")

                scope = {
                    **{"type": "http", "method": "POST", "path": path},
                    **{"query_string": b"", "headers": headers},
                }
                await asyncio.wait_for(served.application(scope, receive, send), 5)
                assert sent[0]["status"] == (403 if headers else 401)


async def test_browser_may_read_the_refusal_from_another_origin(zoo: Path, tmp_path: Path) -> None:
    changed = settings(zoo, tmp_path, cors_origins=("https://shop.example",))
    origin = {"Origin": "https://shop.example"}
    async with Served(changed) as served:
        asked = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        preflight = await served.http.options("/predict", headers={**origin, **asked})
        assert preflight.status_code == 200
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        refused = await served.http.post("/predict", content=PNG, headers=origin)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://shop.example"
        assert "WWW-Authenticate" in refused.headers["access-control-expose-headers"]


async def test_worker_whose_file_was_never_readable_answers_503(zoo: Path, tmp_path: Path) -> None:
    changed = settings(zoo, tmp_path)
    (tmp_path / "keys.toml").write_text("")
    async with Served(changed) as served:
        assert (await served.http.get("/livez")).status_code == 200
        ready = await served.http.get("/readyz")
        assert ready.status_code == 503
        assert "LIMELIGHT_KEYS_FILE is not used: keys: Field required" in ready.text
        response = await served.http.post("/predict", content=PNG, headers=bearer("shop"))
        assert response.status_code == 503
        assert response.headers["retry-after"]


async def test_openapi_document_describes_the_keys(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json", headers=bearer("shop"))).json()
    validate(document)
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
    assert document["security"] == [{"bearer": []}, {"header": []}]
    for path, item in document["paths"].items():
        for operation in (item[method] for method in item if method in ("get", "post")):
            if path in OPEN | PAGES:
                assert operation["security"] == []
            else:
                assert {"401", "403"} <= set(operation["responses"])
                assert "security" not in operation
    assert "`explain`" in document["paths"]["/explain"]["post"]["description"]


async def test_service_without_keys_asks_for_none(zoo: Path) -> None:
    open_settings = Settings(models=zoo, default_model="colours", device="cpu")
    async with Served(open_settings) as served:
        response = await served.http.post("/explain", content=PNG, headers={"X-Api-Key": "any"})
        assert response.status_code == 200
        document = (await served.http.get("/openapi.json")).json()
        assert "securitySchemes" not in document["components"]
        assert "401" not in document["paths"]["/predict"]["post"]["responses"]


def test_name_of_the_key_is_an_attribute_of_the_span() -> None:
    attributes: dict[str, Any] = {}

    class Tracing:
        def end(self, span: Any, context: RequestContext, found: dict[str, Any]) -> None:
            attributes.update(found)

    class Exchange:
        model = version = "none"
        digest = None
        winners = ()
        method = None

        class request:  # noqa: N801
            method = "GET"
            context = RequestContext(caller=Caller(name="shop", scopes=frozenset()))

    recorder = Recorder(Metrics(enabled=False), Tracing(), access_log=False)  # type: ignore[arg-type]
    recorder.record(Exchange, "/models", 200, None, 0.1, object())  # type: ignore[arg-type]
    assert attributes["limelight.key"] == "shop"
