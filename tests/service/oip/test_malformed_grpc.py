"""Malformed gRPC calls are rejected with a reason, and never cause an internal error."""

import gc
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from service.oip.grpc.messages import SERVICE, input_class
from tests.service.oip.kit import rpc_message
from tests.service.oip.test_grpc_limits import port_of
from tests.serving_kit import Server

STREAM = f"/{SERVICE}/ModelStreamInfer"
ROUTE = f"/{SERVICE}/ModelInfer"


def broken() -> list[tuple[str, Any, grpc.StatusCode]]:
    images_nhwc = np.zeros((1, 8, 8, 3), np.uint8)
    raw, invalid = images_nhwc.tobytes(), grpc.StatusCode.INVALID_ARGUMENT

    def changed(**changes: Any) -> Any:
        request = rpc_message(images_nhwc, raw_input_contents=[raw])
        tensor = request.inputs[0]
        for name, value in changes.items():
            if name == "shape":
                del tensor.shape[:]
                tensor.shape.extend(value)
            else:
                setattr(tensor if name in ("name", "datatype") else request, name, value)
        return request

    both, few = changed(), changed()
    both.inputs[0].contents.uint_contents.append(1)
    few.raw_input_contents.append(b"")
    empty, shared, classes, shared_output = changed(), changed(), changed(), changed()
    empty.parameters["a"].Clear()
    shared.inputs[0].parameters["shared_memory_region"].string_param = "a"
    region = shared_output.outputs.add(name="logits").parameters["shared_memory_region"]
    region.string_param = "a"
    classes.outputs.add(name="logits").parameters["classification"].int64_param = -1
    many = changed()
    for number in range(2000):
        many.parameters[str(number)].bool_param = True
    nothing = rpc_message(images_nhwc)
    large = rpc_message(images_nhwc)
    large.inputs[0].contents.uint_contents.extend([300] * 192)
    return [
        ("an unknown model", changed(model_name="nope"), grpc.StatusCode.NOT_FOUND),
        ("another version", changed(model_version="2"), grpc.StatusCode.NOT_FOUND),
        ("a shape that overflows", changed(shape=[2**62, 8, 8, 3]), invalid),
        ("a dimension below 0", changed(shape=[-1, 8, 8, 3]), invalid),
        ("no dimensions", changed(shape=[]), invalid),
        ("thousands of dimensions", changed(shape=[1] * 100_000), invalid),
        ("thousands of parameters", many, invalid),
        ("another datatype", changed(datatype="FP32"), invalid),
        ("another input", changed(name="x"), invalid),
        ("contents twice", both, invalid),
        ("more contents than inputs", few, invalid),
        ("no contents", nothing, invalid),
        ("a number that is no byte", large, invalid),
        ("a parameter without a value", empty, invalid),
        ("shared memory", shared, invalid),
        ("shared memory for an output", shared_output, invalid),
        ("a version below -1", changed(model_version="-2"), grpc.StatusCode.NOT_FOUND),
        ("fewer than no classes", classes, invalid),
    ]


@pytest.mark.parametrize(
    ("request_message", "code"), [case[1:] for case in broken()], ids=[c[0] for c in broken()]
)
def test_malformed_request_is_rejected_with_a_reason(
    stub: Any, request_message: Any, code: grpc.StatusCode
) -> None:
    with pytest.raises(grpc.RpcError) as rejected:
        stub.ModelInfer(request_message)
    assert rejected.value.code() == code
    assert rejected.value.details()


@pytest.mark.parametrize(
    "content",
    [b"\xff" * 20, b"\x2a\x00" * 2000, b"\x2a\xff\xff\xff\x7f", b"\x0a", b"\x08", b"\x0d\0", b"\0"],
)
def test_bytes_that_are_not_a_message_are_an_invalid_argument(
    remote: Any, grpc_address: str, content: bytes
) -> None:
    """Includes a message with two thousand empty inputs."""
    with grpc.insecure_channel(grpc_address) as channel:
        with pytest.raises(grpc.RpcError) as rejected:
            channel.unary_unary(ROUTE)(content)
        assert rejected.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        (answer,) = channel.stream_stream(STREAM)(iter([content]))
        parsed = service_pb2.ModelStreamInferResponse.FromString(answer)
        assert "malformed" in parsed.error_message


@pytest.mark.parametrize("packing", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_message_over_the_limit_is_rejected(stub: Any, packing: Any) -> None:
    request = rpc_message(np.zeros((1, 8, 8, 3), np.uint8), raw_input_contents=[bytes(3_000_000)])
    with pytest.raises(grpc.RpcError) as rejected:
        stub.ModelInfer(request, compression=packing)
    assert rejected.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_log_contains_no_errors(server: Server) -> None:
    """Runs last: no test above caused an internal error of the service."""
    assert "Traceback" not in server.log()


async def test_rejected_call_does_not_keep_its_message(zoo: Path) -> None:
    """gRPC keeps the exception of an aborted call until the next collection of cycles."""
    images_nhwc = np.zeros((33, 8, 8, 3), np.uint8)
    content = rpc_message(images_nhwc, raw_input_contents=[images_nhwc.tobytes()])
    kind = input_class("ModelInfer")
    async with (
        port_of(zoo) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        infer = channel.unary_unary(ROUTE)
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                with pytest.raises(grpc.aio.AioRpcError, match="33 images"):
                    await infer(content.SerializeToString())
            assert not [each for each in gc.get_objects() if type(each) is kind]
        finally:
            gc.enable()
