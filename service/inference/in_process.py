"""The service without a server: its own application, asked by its own client, in one process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from limelight.client.client import AsyncClient
from service.app import Application
from service.inference.model_registry import ModelRegistry
from service.settings import Settings
from service.telemetry.metrics import Metrics


class NotServableError(Exception):
    """The models cannot be served; the message says why."""


@asynccontextmanager
async def in_process(settings: Settings) -> AsyncIterator[AsyncClient]:
    """A client whose answers are those of a service with these settings, on every core.

    Raises:
        NotServableError: a model cannot be loaded.
    """
    metrics = Metrics(enabled=False)
    registry = ModelRegistry(settings, metrics, threads=0)
    registry.load()
    try:
        if registry.rejection is not None:
            raise NotServableError(registry.rejection)
        transport = httpx.ASGITransport(Application(settings, metrics, registry))
        async with AsyncClient("http://in-process", transport=transport) as client:
            yield client
    finally:
        await registry.close()
