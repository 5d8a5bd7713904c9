"""The protocol's messages, as classes of protobuf.

`open_inference.binpb` is open_inference.proto as `make protocol` compiles it. The classes are made
from it here and kept to ourselves: generated modules put theirs into a registry of the whole
process, where Triton's and KServe's clients have other ones under the same names.
"""

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
FILE = Path(__file__).with_name("open_inference.binpb")

_POOL = DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(FILE.read_bytes()).file:
    _POOL.Add(_file)

METHODS: dict[str, Any] = {
    method.name: method for method in _POOL.FindServiceByName(SERVICE).methods
}
"""Descriptors of the service's methods by name."""


def message_class(name: str) -> Any:
    """The class of a message of the protocol."""
    return GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


def input_class(method: str) -> Any:
    """Of the messages that a method takes."""
    return GetMessageClass(METHODS[method].input_type)
