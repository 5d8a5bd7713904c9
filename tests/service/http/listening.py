"""An application behind uvicorn, the server of BentoML, in the test's event loop."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import uvicorn

from tests.service.test_app import Served


async def until(condition: Callable[[], object], timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def listening(served: Served) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    """Run the application behind uvicorn; gives the server and its port on loopback."""
    config = uvicorn.Config(served.application, lifespan="on", log_config=None, ws="none")
    # In the service this logger has no handler; here pytest adds one.
    access = logging.getLogger("uvicorn.access")
    level = access.level
    access.setLevel(logging.WARNING)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    # The application takes the listening socket over from the server.
    await until(lambda: server.started and not any(one.is_serving() for one in server.servers))
    try:
        yield server, port
    finally:
        server.should_exit = True
        await asyncio.wait_for(serving, 10)
        await served.http.aclose()
        access.setLevel(level)
