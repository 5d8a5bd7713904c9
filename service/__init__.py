"""Service: HTTP, gRPC, admission, batching, metrics and worker processes. Never imports torch."""
