"""Protobuf classes of the protocol's messages.

`make protocol` compiles open_inference.proto to `open_inference.binpb`. This module creates the
classes in a descriptor pool of its own. Generated modules would use the global pool, where Triton's
and KServe's clients register other classes under the same names.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
FILE = Path(__file__).with_name("open_inference.binpb")


def file_descriptors() -> Iterable[Any]:
    """Return the descriptors of the compiled files."""
    files: Iterable[Any] = descriptor_pb2.FileDescriptorSet.FromString(FILE.read_bytes()).file
    return files


_POOL = DescriptorPool()
for _file in file_descriptors():
    _POOL.Add(_file)

METHODS: dict[str, Any] = {
    method.name: method for method in _POOL.FindServiceByName(SERVICE).methods
}
"""Descriptors of the service's methods by name."""


def message_class(name: str) -> Any:
    """Return the class of a message of the protocol."""
    return GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


def input_class(method: str) -> Any:
    """Return the class of a method's input messages."""
    return GetMessageClass(METHODS[method].input_type)
