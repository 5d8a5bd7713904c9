"""The project's protobuf definitions, compared with those of Triton's client."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from service.oip.grpc.messages import FILE, METHODS, SERVICE, input_class, message_class
from service.oip.grpc.wire import reader

OURS = descriptor_pb2.FileDescriptorSet.FromString(FILE.read_bytes()).file[0]
THEIRS = service_pb2.DESCRIPTOR.pool


def published(name: str) -> Any:
    """Return the published descriptor of a message or an enumeration."""
    proto: Any
    try:
        found, proto = THEIRS.FindMessageTypeByName(name), descriptor_pb2.DescriptorProto()
    except KeyError:
        found, proto = THEIRS.FindEnumTypeByName(name), descriptor_pb2.EnumDescriptorProto()
    found.CopyToProto(proto)
    return proto


def fields(message: Any) -> dict[str, tuple[Any, ...]]:
    oneofs = [oneof.name for oneof in message.oneof_decl]
    return {
        field.name: (
            *(field.number, field.type, field.label, field.type_name),
            oneofs[field.oneof_index] if field.HasField("oneof_index") else None,
        )
        for field in message.field
    }


def agree(ours: Any, theirs: Any) -> None:
    found, expected = fields(ours), fields(theirs)
    assert found.items() <= expected.items()
    nested = {message.name: message for message in theirs.nested_type}
    for message in ours.nested_type:
        agree(message, nested[message.name])
    enums = {enum.name: enum for enum in theirs.enum_type}
    for enum in ours.enum_type:
        assert values(enum) == values(enums[enum.name])


def values(enum: Any) -> dict[str, int]:
    return {value.name: value.number for value in enum.value}


@pytest.mark.parametrize("message", OURS.message_type, ids=lambda message: str(message.name))
def test_fields_match_the_published_protocol(message: Any) -> None:
    agree(message, published(f"inference.{message.name}"))


def test_enumerations_and_methods_match_the_published_protocol() -> None:
    for enum in OURS.enum_type:
        assert values(enum) == values(published(f"inference.{enum.name}"))
    service = THEIRS.FindServiceByName(SERVICE)
    for name, method in METHODS.items():
        theirs = service.FindMethodByName(name)
        assert method.input_type.full_name == theirs.input_type.full_name
        assert method.output_type.full_name == theirs.output_type.full_name


def test_inference_messages_have_every_published_field() -> None:
    """No field of the requests and answers of inference is missing."""
    for name in ("ModelInferRequest", "ModelInferResponse", "InferTensorContents"):
        ours = descriptor_pb2.DescriptorProto()
        message_class(name).DESCRIPTOR.CopyToProto(ours)
        assert fields(ours) == fields(published(f"inference.{name}"))


@given(st.binary(max_size=80))
def test_reader_agrees_with_protobuf_on_any_bytes(content: bytes) -> None:
    request_class = input_class("ModelInfer")
    found = reader(request_class)(content)
    try:
        expected = request_class.FromString(content)
    except DecodeError:
        assert found is None
    else:
        assert found is None or found == expected


@given(st.text(max_size=9), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9), st.binary())
def test_message_with_few_fields_is_read(name: str, shape: list[int], content: bytes) -> None:
    request = input_class("ModelInfer")(model_name=name, raw_input_contents=[content] * 3)
    tensor = request.inputs.add(name=name, shape=shape)
    tensor.parameters[name].double_param = 0.5
    request.outputs.add(name=name).parameters["a"].bool_param = True
    assert reader(type(request))(request.SerializeToString()) == request
    request.raw_input_contents.extend([b""] * 2000)
    assert reader(type(request))(request.SerializeToString()) is None


def test_compiled_descriptor_is_up_to_date(tmp_path: Path) -> None:
    compiled = tmp_path / "compiled.binpb"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={FILE.parent}"]
    command += [f"--descriptor_set_out={compiled}", "open_inference.proto"]
    subprocess.run(command, check=True)
    parse = descriptor_pb2.FileDescriptorSet.FromString
    assert parse(FILE.read_bytes()) == parse(compiled.read_bytes()), "make protocol"
