"""gRPC interface of the protocol, with the same event loop and the same batches as HTTP.

It needs the extra `grpc`. Other packages import it only if a gRPC port is set.
"""
