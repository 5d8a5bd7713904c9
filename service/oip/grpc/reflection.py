"""Server reflection: tools such as grpcurl ask the port for its services and messages."""

from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service.oip.grpc.messages import SERVICE, file_descriptors

# Version 1 has the messages of v1alpha. Older tools only know the latter, newer ones ask for both.
_NAMES = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)


def reflection_handlers() -> tuple[Any, ...]:
    """Return the handlers of both versions of the service, for a gRPC server."""
    pool = DescriptorPool()
    for file in file_descriptors():
        pool.Add(file)
    for module in (health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    services = (SERVICE, health.SERVICE_NAME, *_NAMES)
    servicer = reflection.aio.ReflectionServicer(services, pool=pool)
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return tuple(
        grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method})
        for name in _NAMES
    )
