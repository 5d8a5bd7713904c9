"""Cross-origin requests, and headers for browsers that every response has."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import ValidationError

from service.settings import Settings, settings_problem
from tests.service.test_app import PNG, Served
from tests.serving_kit import Server, bentoml_serve

SHOP, OTHER = "https://shop.example", "http://localhost:5173"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type,x-timeout-ms",
}


def settings(zoo: Path, origins: tuple[str, ...]) -> Settings:
    return Settings(models=zoo, default_model="colours", device="cpu", cors_origins=origins)


@pytest.fixture
async def shop(zoo: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with Served(settings(zoo, (SHOP,))) as served:
        yield served.http


def headers_of(response: httpx.Response, prefix: str = "access-control-") -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith(prefix)}


async def test_no_other_origin_is_allowed_by_default(zoo: Path) -> None:
    async with Served(settings(zoo, ())) as served:
        answer = await served.http.post("/predict", content=PNG, headers={"Origin": SHOP})
        assert (answer.status_code, headers_of(answer)) == (200, {})
        preflight = await served.http.options("/predict", headers={"Origin": SHOP, **PREFLIGHT})
        assert (preflight.status_code, headers_of(preflight)) == (405, {})


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/predict", 200),
        ("POST", "/explain?format=png", 200),
        ("POST", "/predict?top_k=x", 422),
        ("GET", "/nope", 404),
        ("GET", "/v2/models/nope", 404),
        ("GET", "/openapi.json", 200),
    ],
)
async def test_allowed_origin_may_read_answers_and_errors(
    shop: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await shop.request(method, path, content=PNG, headers={"Origin": SHOP})
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == SHOP
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"X-Request-Id", "Retry-After", "Server-Timing"} <= set(exposed)
    assert "access-control-allow-credentials" not in answer.headers
    vary = {each.strip() for line in answer.headers.get_list("vary") for each in line.split(",")}
    assert "Origin" in vary
    assert ("Accept" in vary) == path.startswith("/explain")


async def test_preflight_of_an_allowed_origin_is_answered(shop: httpx.AsyncClient) -> None:
    answer = await shop.options("/predict", headers={"Origin": SHOP, **PREFLIGHT})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert "POST" in answer.headers["access-control-allow-methods"]
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert {"content-type", "x-timeout-ms"} <= set(allowed.split(","))
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("origin", [OTHER, "null", f"{SHOP}.evil", "http://shop.example"])
async def test_other_origins_stay_excluded(shop: httpx.AsyncClient, origin: str) -> None:
    answer = await shop.post("/predict", content=PNG, headers={"Origin": origin})
    assert "access-control-allow-origin" not in answer.headers
    preflight = await shop.options("/predict", headers={"Origin": origin, **PREFLIGHT})
    assert "access-control-allow-origin" not in preflight.headers


def test_setting_takes_several_origins_and_real_server_obeys_it(zoo: Path, tmp_path: Path) -> None:
    with bentoml_serve(
        zoo,
        tmp_path,
        LIMELIGHT_WORKERS="1",
        LIMELIGHT_CORS_ORIGINS=f"{SHOP}, {OTHER.upper()}",
        LIMELIGHT_MAX_QUEUED="1",
    ) as server:
        for origin in (SHOP, OTHER):
            for path in ("/predict", "/nope"):
                answer = httpx.post(f"{server.url}{path}", content=PNG, headers={"Origin": origin})
                assert answer.headers["access-control-allow-origin"] == origin
        # The request is rejected as soon as its head has arrived.
        late = {"Origin": SHOP, "X-Timeout-Ms": "1e-9"}
        answer = httpx.post(f"{server.url}/explain", content=PNG, headers=late)
        assert answer.status_code in (408, 503)
        assert answer.headers["access-control-allow-origin"] == SHOP


async def test_star_allows_any_origin(zoo: Path) -> None:
    async with Served(settings(zoo, ("*",))) as served:
        answer = await served.http.post("/predict", content=PNG, headers={"Origin": "null"})
        assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "value", ["shop.example", "https://shop.example/", "https://a.example/b", "https://*.a", "a b"]
)
def test_value_that_is_not_an_origin_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("LIMELIGHT_CORS_ORIGINS", value)
    with pytest.raises(ValidationError) as invalid:
        Settings()
    problem = settings_problem(invalid.value)
    assert problem.startswith(f"LIMELIGHT_CORS_ORIGINS is {value!r}")
    assert "write it as https://example.com" in problem


def test_every_response_forbids_to_guess_its_type(client: httpx.Client) -> None:
    paths = ["/", "/page/page.js", "/examples/cat.png", "/models", "/livez", "/readyz", "/healthz"]
    paths += ["/metrics", "/openapi.json", "/schema.json", "/nope", "/v2", "/v2/models/nope"]
    paths += ["/predict", "/page/nope.js"]
    answers = [client.get(path) for path in paths]
    tag = client.get("/").headers["etag"]
    answers += [client.get("/", headers={"If-None-Match": tag}), client.head("/models")]
    for path in ("/predict", "/explain", "/explain?format=png", "/predict?top_k=x"):
        answers.append(client.post(path, content=PNG))
    answers.append(client.post("/v2/models/colours/infer", content=PNG))
    late = {"X-Timeout-Ms": "1e-9"}
    answers.append(client.post("/predict", content=PNG, headers=late))
    for answer in answers:
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"], answer.url


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\nno header\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 40_000 + b"\r\n\r\n", 431),
    ],
)
def test_response_of_the_server_itself_forbids_it_as_well(
    server: Server, head: bytes, status: int
) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((str(address.hostname), address.port), timeout=10) as connection:
        connection.sendall(head)
        with connection.makefile("rb") as answer:
            lines = answer.read().partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert int(lines[0].split()[1]) == status
    assert b"x-content-type-options: nosniff" in lines
