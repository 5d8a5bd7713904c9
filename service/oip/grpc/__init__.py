"""The protocol over gRPC, in the same event loop and through the same batches as over HTTP.

Needs the extra `grpc`; nothing outside this package imports it unless a port is set.
"""
