"""`make test-triton`: send the same requests to Triton and to this service and compare the answers.

A difference that is not listed here is a failure, and so is a listed difference that is absent.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bench.serving.environments import NotInstallableError
from tests.long.triton_server import NotRunnableError, Triton, triton
from tests.service.oip.kit import INFER, LENGTH, binary, images_input, outputs, request
from tests.serving_kit import Server, bentoml_serve, write_artifact

pytestmark = pytest.mark.timeout(900)

IMAGES = np.random.default_rng(20261121).integers(0, 256, (2, 8, 8, 3), np.uint8)
RAW = IMAGES.tobytes()
MODEL = "/v2/models/colours"
NEWEST = "-1 means the newest version over HTTP and gRPC; Triton has no such path"
PARSED = "Triton reports a request that it cannot parse as an internal error"
Case = tuple[str, str, bytes, dict[str, str]]


def infer(tensor: dict[str, Any] | None = None, path: str = INFER, **fields: Any) -> Case:
    tensors = [images_input(IMAGES)] if tensor is None else [tensor]
    fields = {"inputs": tensors, "outputs": [{"name": "probabilities"}]} | fields
    return "POST", path, json.dumps(fields).encode(), {}


def changed(**changes: Any) -> Case:
    return infer(images_input(IMAGES, **changes))


def asked(name: str = "probabilities", **parameters: Any) -> Case:
    return infer(outputs=[{"name": name, "parameters": parameters}])


def without(key: str) -> Case:
    tensor = images_input(IMAGES)
    del tensor[key]
    return infer(tensor)


def blob(size: object = len(RAW), rest: bytes = RAW, said: str | None = None) -> Case:
    tensor = images_input(IMAGES, parameters={"binary_data_size": size})
    del tensor["data"]
    fields = request(tensor, outputs=[{"name": "probabilities"}])
    body, headers = binary(fields, rest)
    return "POST", INFER, body, headers if said is None else {LENGTH: said}


def packed(encoding: str, body: bytes | None = None) -> Case:
    method, path, content, headers = blob()
    if body is not None:
        content = body
    elif encoding == "gzip":
        content = gzip.compress(content)
    elif encoding == "deflate":
        content = zlib.compress(content)
    return method, path, content, headers | {"Content-Encoding": encoding}


def plain(method: str, path: str) -> Case:
    return method, path, b"", {}


CASES: dict[str, Case] = {
    **{f"GET {path}": plain("GET", path) for path in (
        *("/v2", "/v2/", "/v2/nope", "/v2/health/live", "/v2/health/ready", "/v2/models"),
        *(MODEL, f"{MODEL}/versions/1", f"{MODEL}/versions/2", f"{MODEL}/versions/x"),
        f"{MODEL}/versions/-1",
        *(f"{MODEL}/ready", f"{MODEL}/versions/1/ready", f"{MODEL}/versions/2/ready"),
        *(f"{MODEL}/config", f"{MODEL}/versions/1/config", f"{MODEL}/stats", f"{MODEL}/nope"),
        *("/v2/models/nope", "/v2/models/nope/ready", "/v2/models/nope/config"),
        *("/v2/models/nope/stats", "/v2/models/stats", INFER),
    )},
    "POST /v2": plain("POST", "/v2"),
    "HEAD /v2": plain("HEAD", "/v2"),
    "PUT infer": plain("PUT", INFER),
    "index": plain("POST", "/v2/repository/index"),
    "load": plain("POST", "/v2/repository/models/colours/load"),
    "json": infer(id="a"),
    "nested json": changed(data=IMAGES.tolist()),
    "json nested otherwise": changed(data=IMAGES.reshape(16, 24).tolist()),
    "version 1": infer(path=f"{MODEL}/versions/1/infer"),
    "version 2": infer(path=f"{MODEL}/versions/2/infer"),
    "version -1": infer(path=f"{MODEL}/versions/-1/infer"),
    "an output in shared memory": asked(shared_memory_region="a", shared_memory_byte_size=12),
    "another model": infer(path="/v2/models/nope/infer"),
    "every output": infer(outputs=[]),
    "an output twice": infer(outputs=[{"name": "logits"}] * 2),
    "binary output": asked(binary_data=True),
    "binary output by default": infer(outputs=[], parameters={"binary_data_output": True}),
    "binary output by default, some named": infer(parameters={"binary_data_output": True}),
    "classes": asked(classification=2),
    "classes in binary": asked(classification=2, binary_data=True),
    "more classes than there are": asked(classification=9),
    "no classes": asked(classification=0),
    "fewer than no classes": asked(classification=-1),
    "classes of maps": asked("cams", classification=1),
    "unknown parameters": infer(parameters={"a": 1, "b": "c", "d": True}),
    "a parameter that is a number with a point": infer(parameters={"a": 1.5}),
    "a parameter that is a list": infer(parameters={"a": [1]}),
    "parameters that are none": infer(parameters=5),
    "an id that is a number": infer(id=5),
    "an unknown output": asked("nope"),
    "an output without a name": infer(outputs=[{}]),
    "an unknown input": changed(name="nope"),
    "an input twice": infer(inputs=[images_input(IMAGES)] * 2),
    "no inputs": infer(inputs=[]),
    "nothing of inputs": ("POST", INFER, b"{}", {}),
    "another datatype": changed(datatype="FP32"),
    "no datatype there is": changed(datatype="nope"),
    "without a datatype": without("datatype"),
    "without a shape": without("shape"),
    "without data": without("data"),
    "a dimension below 0": changed(shape=[-1, 8, 8, 3]),
    "a shape that overflows": changed(shape=[2**62, 8, 8, 3]),
    "a shape beyond 64 bits": changed(shape=[2**64, 8, 8, 3]),
    "a shape with a point": changed(shape=[2.0, 8, 8, 3]),
    "a shape of another rank": changed(shape=[16, 8, 3]),
    "a shape that does not fit": changed(shape=[2, 8, 8, 4]),
    "an empty batch": changed(shape=[0, 8, 8, 3], data=[]),
    "too large a batch": changed(shape=[33, 8, 8, 3], data=[1] * 192 * 33),
    "too few values": changed(data=[1, 2]),
    "too many values": changed(data=[1] * (IMAGES.size + 1)),
    "a value over 255": changed(data=[256] * IMAGES.size),
    "a value below 0": changed(data=[-1] * IMAGES.size),
    "a value with a point": changed(data=[1.5] * IMAGES.size),
    "whole values with a point": changed(data=[1.0] * IMAGES.size),
    "values that are texts": changed(data=["1"] * IMAGES.size),
    "no json": ("POST", INFER, b"{", {}),
    "an empty body": ("POST", INFER, b"", {}),
    "binary": blob(),
    "a truncated blob": blob(rest=RAW[:100]),
    "a blob with something behind it": blob(rest=RAW + b"!"),
    "a gigabyte": blob(size=10**9),
    "a size below 0": blob(size=-1),
    "a size that is not the shape's": blob(size=100, rest=RAW[:100]),
    "a length beyond the body": blob(said="99999999"),
    "a length below 0": blob(said="-1"),
    "a length that is no number": blob(said="x"),
    "one raw tensor": ("POST", INFER, RAW[:192], {LENGTH: "0"}),
    "half a raw tensor": ("POST", INFER, RAW[:96], {LENGTH: "0"}),
    "two raw tensors": ("POST", INFER, RAW, {LENGTH: "0"}),
    "gzip": packed("gzip"),
    "deflate": packed("deflate"),
    "another encoding": packed("br"),
    "no gzip": packed("gzip", b"nonsense"),
    "truncated gzip": packed("gzip", gzip.compress(blob()[2])[:-20]),
}  # fmt: skip

STATUSES: dict[str, tuple[int, int, str]] = {
    "HEAD /v2": (405, 200, "HEAD is supported wherever GET is (RFC 9110, 9.1)"),
    f"GET {MODEL}/versions/2/ready": (400, 404, "as in the specification's OpenAPI document"),
    "GET /v2/models/nope/ready": (400, 404, "as in the specification's OpenAPI document"),
    "load": (503, 403, "models are loaded and unloaded only with an API key of the scope admin"),
    "GET /v2/models/nope/stats": (400, 404, "as with every other path of an unknown model"),
    f"GET {MODEL}/versions/-1": (404, 200, NEWEST),
    "version -1": (404, 200, NEWEST),
    "an output in shared memory": (404, 400, "there is no shared memory, as for inputs"),
    "another encoding": (501, 415, "the client can choose another encoding (RFC 9110, 15.5.16)"),
    "a value over 255": (200, 400, "Triton wraps the value around without an error"),
    "whole values with a point": (500, 200, "JSON has only one type of number"),
    **dict.fromkeys(
        (
            *("fewer than no classes", "parameters that are none", "an id that is a number"),
            *("an output without a name", "nothing of inputs", "without a datatype"),
            *("without a shape", "a dimension below 0", "a shape beyond 64 bits"),
            *("a shape with a point", "a shape that does not fit", "too few values"),
            *("too many values", "a value below 0", "a value with a point"),
            *("values that are texts", "no json", "a size below 0"),
        ),
        (500, 400, PARSED),
    ),
}
FORMS = {
    "binary output by default, some named": "by the extension's text, the request's default "
    "applies to outputs without a setting of their own; Triton ignores it if any output is named",
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    try:
        with triton(tmp_path_factory.mktemp("triton")) as running:
            yield running
    except (NotInstallableError, NotRunnableError) as error:
        pytest.skip(f"Triton is not available: {error}")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root: Path = tmp_path_factory.mktemp("zoo")
    write_artifact(root)
    serving = tmp_path_factory.mktemp("serving")
    with bentoml_serve(root, serving, LIMELIGHT_DEVICE="cpu") as running:
        yield running


def ask(url: str, case: Case) -> httpx.Response:
    method, path, body, headers = case
    return httpx.request(method, url + path, content=body, headers=headers, timeout=30)


@pytest.mark.parametrize("name", CASES)
def test_answer_equals_that_of_triton_or_is_a_known_difference(
    theirs: Triton, ours: Server, name: str
) -> None:
    expected, found = ask(theirs.url, CASES[name]), ask(ours.url, CASES[name])
    assert (expected.status_code, found.status_code) == STATUSES.get(
        name, (expected.status_code,) * 2
    )[:2], f"{expected.text[:300]} | {found.text[:300]}"
    for response in (expected, found):
        if response.status_code >= 400 and response.content:
            assert list(response.json()) == ["error"]
    if expected.status_code == found.status_code == 200 and CASES[name][0] == "POST":
        same = (LENGTH in found.headers) == (LENGTH in expected.headers)
        assert same == (name not in FORMS)
        if CASES[name][1].endswith("infer"):
            compare(outputs(expected), outputs(found))


def compare(expected: dict[str, Any], found: dict[str, Any]) -> None:
    """Compare the outputs; this service may return more of them if all were requested."""
    assert set(expected) <= set(found)
    for name, values in expected.items():
        if isinstance(values, np.ndarray):
            np.testing.assert_allclose(found[name], values, atol=1e-5)
        else:
            entries = [[entry.split(b":") for entry in each] for each in (values, found[name])]
            assert [entry[1:] for entry in entries[0]] == [entry[1:] for entry in entries[1]]


def test_every_known_difference_has_a_case() -> None:
    assert set(STATUSES) | set(FORMS) <= set(CASES)


def test_metadata_and_statistics_have_the_fields_of_triton(theirs: Triton, ours: Server) -> None:
    def told(path: str) -> list[Any]:
        return [httpx.get(f"{one.url}{MODEL}{path}").json() for one in (theirs, ours)]

    expected, found = told("")
    for side in ("inputs", "outputs"):
        known = {tensor["name"] for tensor in expected[side]}
        assert [tensor for tensor in found[side] if tensor["name"] in known] == expected[side]
    expected, found = told("/config")
    assert set(expected) >= set(found)
    expected, found = (one["model_stats"][0] for one in told("/stats"))
    assert set(expected) >= set(found)
    assert set(expected["inference_stats"]) == set(found["inference_stats"])
