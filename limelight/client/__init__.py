"""A typed client of the service, with and without `await`."""

from limelight.client.client import (
    AsyncClient,
    Client,
    ClientError,
    RefusedError,
    UnreachableError,
)

__all__ = ["AsyncClient", "Client", "ClientError", "RefusedError", "UnreachableError"]
