"""Typed client of the service, synchronous and asynchronous."""

from limelight.client.client import AsyncClient, Client
from limelight.client.errors import ClientError, RefusedError, UnreachableError

__all__ = ["AsyncClient", "Client", "ClientError", "RefusedError", "UnreachableError"]
