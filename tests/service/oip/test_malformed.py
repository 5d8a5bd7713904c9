"""Any body gives a result or a client error, and memory does not depend on claimed sizes."""

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limelight.artifact.store import Artifact
from limelight.errors import InvalidParameter
from service.oip.binary_codec import decode_request
from service.oip.errors import InvalidInference
from service.oip.tensors import read_bytes, read_uint8
from service.oip.types import InputTensor
from service.oip.validation import plan
from tests.service.oip.kit import INFER, LENGTH, binary, expect_error, images_input, request

PIXELS = bytes(range(192))
MAX_BATCH = 32

numbers = st.sampled_from([-1, 0, 1, 2, 8, 192, 2**31, 2**32 + 1, 2**62, 2**63, 2**64, 1.0, 1.5])
scalars = numbers | st.none() | st.booleans() | st.text(max_size=5)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
shapes = st.lists(numbers, max_size=5) | st.just([1, 8, 8, 3]) | trees
sizes = st.sampled_from([0, 191, 192, 193, 384, 10**9, 2**63, -1]) | trees
parameters = st.fixed_dictionaries(
    {},
    optional={
        "binary_data_size": sizes,
        "binary_data": trees,
        "binary_data_output": trees,
        "classification": trees,
        "opacity": trees,
        "target": trees,
        "shared_memory_region": trees,
    },
)
inputs = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["images", "image_bytes"]) | trees,
        "datatype": st.sampled_from(["UINT8", "BYTES", "FP32"]) | trees,
        "shape": shapes,
        "data": st.lists(st.integers(-1, 300), max_size=200) | trees,
        "parameters": parameters | trees,
    },
)
outputs = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["logits", "cams", "overlay_png"]) | trees,
        "parameters": parameters | trees,
    },
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "id": trees,
        "inputs": st.lists(inputs, max_size=3) | trees,
        "outputs": st.lists(outputs, max_size=3) | trees,
        "parameters": parameters | trees,
    },
)


def good(**changes: Any) -> dict[str, Any]:
    """Create a valid request, with changes to its single input."""
    tensor = {
        "name": "images",
        "datatype": "UINT8",
        "shape": [1, 8, 8, 3],
        "parameters": {"binary_data_size": len(PIXELS)},
    }
    return {"inputs": [tensor | changes], "outputs": [{"name": "probabilities"}]}


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, str | None]:
    """Draw a body and the value of its length header; often one of the two is valid."""
    one_changed = inputs.map(lambda changes: good(**changes))
    text = json.dumps(draw(headers | one_changed | trees)).encode()
    body = text + draw(st.sampled_from([b"", PIXELS, PIXELS * 2, PIXELS[:9], b"\xff\xff\xff\x7f"]))
    body = body[: draw(st.just(len(body)) | st.integers(0, len(body)))]
    said = draw(
        st.just(str(len(text)))
        | st.none()
        | st.integers(0, len(body) + 1).map(str)
        | st.sampled_from(["-1", "0", "", "+1", "1e3", "9" * 30, "٣"])
    )
    return body, said


@contextmanager
def allocating_at_most(most_bytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= most_bytes


@given(bodies())
@settings(max_examples=400, deadline=None)
def test_any_body_is_planned_or_rejected_within_its_memory(
    colours: Artifact, sent: tuple[bytes, str | None]
) -> None:
    body, said = sent
    with allocating_at_most(200_000 + 100 * len(body)):
        reason, planned = None, None
        try:
            wanted = decode_request(body, said, colours.manifest, max_batch=MAX_BATCH)
            planned = plan(wanted, colours.manifest, max_batch=MAX_BATCH)
        except (InvalidInference, InvalidParameter) as error:
            reason = error.detail
    if planned is None:
        assert reason
        assert len(reason) < 500
    else:
        assert 1 <= len(planned.images) <= MAX_BATCH
        assert sum(map(len, planned.images)) <= len(body)


@given(bodies())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_body_is_answered_with_200_or_400(
    client: httpx.Client, sent: tuple[bytes, str | None]
) -> None:
    body, said = sent
    raw = {} if said is None else {LENGTH.encode(): said.encode()}
    response = client.post(INFER, content=body, headers=raw)
    if response.status_code != 200:
        expect_error(response, 400)


@given(st.binary(max_size=60), st.integers(0, 40))
@settings(max_examples=300, deadline=None)
def test_bytes_elements_are_not_read_beyond_the_content(content: bytes, count: int) -> None:
    tensor = InputTensor(name="image_bytes", datatype="BYTES", shape=(count, 1), content=content)
    try:
        elements = read_bytes(tensor)
    except InvalidInference:
        return
    assert len(elements) == count
    assert sum(4 + len(element) for element in elements) == len(content)


@pytest.mark.parametrize("value", [b"1", b"[]", b"{}", b'""'])
@pytest.mark.parametrize("header", ["", "behind a length"])
def test_too_many_values_are_rejected_before_they_are_parsed(
    colours: Artifact, value: bytes, header: str
) -> None:
    tensor = b'{"name":"images","datatype":"UINT8","shape":[1,8,8,3],"data":[%s]}'
    body = b'{"inputs":[%s]}' % tensor % b",".join([value] * 1_000_000)
    said = str(len(body)) if header else None
    with allocating_at_most(10_000), pytest.raises(InvalidInference, match="more values"):
        decode_request(body, said, colours.manifest, max_batch=MAX_BATCH)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=300))
def test_nested_values_are_read_or_rejected_by_their_number(numbers: list[int]) -> None:
    """Only content with more elements than the shape is rejected for its length."""
    tensor = InputTensor(name="images", datatype="UINT8", shape=(1, 2, 2, 3), content=[numbers, []])
    fits = len(numbers) == 12 and max(numbers) < 256
    if fits:
        assert read_uint8(tensor).ravel().tolist() == numbers
    else:
        with pytest.raises(InvalidInference):
            read_uint8(tensor)


def test_elements_beyond_the_shape_are_not_allocated() -> None:
    content = bytes(4_000_000)  # a million empty elements
    tensor = InputTensor(name="image_bytes", datatype="BYTES", shape=(1,), content=content)
    with allocating_at_most(10_000), pytest.raises(InvalidInference):
        read_bytes(tensor)


CONTRADICTIONS = {
    "a gigabyte in ten bytes": (good(parameters={"binary_data_size": 10**9}), b"0123456789"),
    "a shape that overflows": (good(shape=[2**62, 8, 8, 3]), PIXELS),
    "a shape whose product is right": (good(shape=[1, 8, 3, 8]), PIXELS),
    "a shape that wraps around to nothing": (good(shape=[2**32, 2**32, 8, 3]), b""),
    "a dimension below 0": (good(shape=[-1, 8, 8, 3]), PIXELS),
    "two dimensions below 0": (good(shape=[-1, -8, 8, 3]), PIXELS),
    "no images": (good(shape=[0, 8, 8, 3], parameters={"binary_data_size": 0}), b""),
    "more images than a batch": (
        good(shape=[33, 8, 8, 3], parameters={"binary_data_size": 33 * 192}),
        PIXELS * 33,
    ),
    "floats": (good(datatype="FP32"), PIXELS),
    "too few bytes": (good(parameters={"binary_data_size": 191}), PIXELS[:191]),
    "too many bytes": (good(), PIXELS + b"!"),
    "a truncated element": (
        good(name="image_bytes", datatype="BYTES", shape=[1], parameters={"binary_data_size": 8}),
        b"\xff\xff\xff\x7fabcd",
    ),
    "a truncated length": (
        good(name="image_bytes", datatype="BYTES", shape=[1], parameters={"binary_data_size": 3}),
        b"\1\0\0",
    ),
    "a million empty elements": (
        good(
            name="image_bytes",
            datatype="BYTES",
            shape=[1],
            parameters={"binary_data_size": 400_000},
        ),
        bytes(400_000),
    ),
    "too many dimensions": (good(shape=[1] * 1000), PIXELS),
}


@pytest.mark.parametrize("contradiction", CONTRADICTIONS)
def test_contradictory_request_is_a_400(client: httpx.Client, contradiction: str) -> None:
    body, said = binary(*CONTRADICTIONS[contradiction])
    expect_error(client.post(INFER, content=body, headers=said), 400)
    assert client.get("/v2/health/ready").status_code == 200


@pytest.mark.parametrize("name", ["binary_data_output", "binary_data"])
def test_wrong_flag_is_rejected_before_the_forward_pass(name: str, colours: Artifact) -> None:
    pixels_nhwc = np.zeros((1, 8, 8, 3), np.uint8)
    output: dict[str, Any] = {"name": "logits"}
    content: dict[str, Any] = {"inputs": [images_input(pixels_nhwc)], "outputs": [output]}
    holder = content if name == "binary_data_output" else output
    holder["parameters"] = {name: True}
    decode_request(json.dumps(content).encode(), None, colours.manifest, max_batch=32)
    holder["parameters"] = {name: "x"}
    with pytest.raises(InvalidInference, match=name):
        decode_request(json.dumps(content).encode(), None, colours.manifest, max_batch=32)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"inputs":' * 2000, "[[[]]]" * 10])
def test_too_deeply_nested_json_is_rejected(client: httpx.Client, text: str) -> None:
    expect_error(client.post(INFER, content=text), 400)
    assert client.get("/livez").status_code == 200


def test_deeply_nested_list_of_values_is_rejected(client: httpx.Client) -> None:
    data: Any = []
    for _ in range(900):
        data = [data]
    tensor = images_input(np.zeros((1, 8, 8, 3), np.uint8), data=data)
    expect_error(client.post(INFER, json=request(tensor)), 400)


def test_log_contains_no_errors(client: httpx.Client, server: Any) -> None:
    """Runs last: no test above caused an internal error of the service."""
    assert client.get("/livez").status_code == 200
    assert "Traceback" not in server.log()
