"""BentoML's clients, and the multipart forms that they send."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bentoml
import httpx
import pytest
from bentoml.exceptions import BentoMLException

from tests.service.http.test_routes import PNG, expect_problem
from tests.serving_kit import Server

# Warnings of packages that BentoML imports on first use.
pytestmark = [
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*__get_pydantic_core_schema__:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("upload") / "picture.png"
    path.write_bytes(PNG)
    return path


@pytest.fixture(scope="module")
def bento(server: Server) -> Iterator[Any]:
    with bentoml.SyncHTTPClient(server.url) as client:
        yield client
    client._temp_dir.cleanup()  # BentoML would leave this to the garbage collector


CALLS: list[tuple[str, dict[str, Any]]] = [
    ("predict", {}),
    ("predict", {"top_k": 2}),
    ("predict", {"model": "digits"}),
    ("explain", {"target": "blue"}),
    ("explain", {"target": "1", "top_k": 1}),
    ("explain", {"colormap": "viridis", "opacity": 0.3}),
    ("explain", {"model": "digits", "target": "7"}),
]


def expected(client: httpx.Client, method: str, arguments: dict[str, Any]) -> Any:
    return client.post(f"/{method}", params=arguments, content=PNG).raise_for_status().json()


@pytest.mark.parametrize(("method", "arguments"), CALLS)
def test_client_gets_the_same_answer_as_a_query(
    client: httpx.Client, bento: Any, picture: Path, method: str, arguments: dict[str, Any]
) -> None:
    answer = getattr(bento, method)(image=picture, **arguments)
    assert answer == expected(client, method, arguments)


async def test_async_client_gets_the_same_answer_as_a_query(
    client: httpx.Client, server: Server, picture: Path
) -> None:
    async with bentoml.AsyncHTTPClient(server.url) as bento:
        with bento._temp_dir:  # see above
            for method, arguments in CALLS:
                answer = await getattr(bento, method)(image=picture, **arguments)
                assert answer == expected(client, method, arguments)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"top_k": 0}, "invalid_parameter"),
        ({"model": "cats"}, "unknown_model"),
        ({"target": "purple"}, "unknown_target"),
        ({"opacity": 2}, "invalid_parameter"),
    ],
)
def test_client_raises_with_the_error_code(
    bento: Any, picture: Path, arguments: dict[str, Any], code: str
) -> None:
    with pytest.raises(BentoMLException, match=code):
        bento.explain(image=picture, **arguments)


def test_unknown_and_missing_arguments_are_type_errors(bento: Any, picture: Path) -> None:
    with pytest.raises(TypeError, match="nonsense"):
        bento.explain(image=picture, nonsense=1)
    with pytest.raises(TypeError, match="image"):
        bento.predict(top_k=1)


@pytest.mark.parametrize(
    "fields", [{"top_k": "1"}, {"model": "digits"}, {"target": "blue"}, {"target": "2"}]
)
def test_form_fields_are_parameters(client: httpx.Client, fields: dict[str, str]) -> None:
    answer = client.post("/explain", files={"image": ("a", PNG)}, data=fields).json()
    assert answer == expected(client, "explain", fields)


def test_query_takes_precedence_over_the_form(client: httpx.Client) -> None:
    files = {"image": ("a", PNG)}
    answer = client.post("/predict?top_k=1", files=files, data={"top_k": "2"}).json()
    assert len(answer["scores"]) == 1


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"top_k": "x"}, 422, "invalid_parameter"),
        ({"top_k": "4"}, 422, "invalid_parameter"),
        ({"opacity": "nan"}, 422, "invalid_parameter"),
        ({"colormap": "grey"}, 422, "invalid_parameter"),
        ({"format": "gif"}, 422, "invalid_parameter"),
        ({"target": "purple"}, 422, "unknown_target"),
        ({"model": "cats"}, 404, "unknown_model"),
    ],
)
def test_invalid_form_field_is_rejected(
    client: httpx.Client, fields: dict[str, str], status: int, code: str
) -> None:
    response = client.post("/explain", files={"image": ("a", PNG)}, data=fields)
    expect_problem(response, status, code)
    (value,) = fields.values()
    assert value in response.json()["detail"]
