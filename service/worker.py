"""Worker process: runs the application with uvicorn, on the socket that the parent listens on.

`bentoml serve` starts it through our supervisor, in place of BentoML's own worker, and with the
same arguments. BentoML's worker imports all of BentoML, its cloud client and build tools included.
Our application uses none of it. Without it, a worker starts in 60 % of the processor time, and
takes 20 MB less.
"""

import gc
import signal

if __name__ == "__main__":
    # Nothing of what is imported becomes garbage.
    gc.disable()
    # The parent passes Ctrl+C on, which ends a worker without a traceback even while it imports.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import contextlib
import faulthandler
import socket
from collections.abc import Sequence
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from service.app import Application
from service.inference.model_registry import ModelRegistry
from service.inference.version_follower import Follower
from service.process import workers as parallelism
from service.process.metrics_folder import accept_full_disk
from service.process.orphans import end_with_parent
from service.process.worker_status import WorkerStatus
from service.repository.shared_json import SharedJson
from service.settings import Settings
from service.system.malloc import limit_memory_growth
from service.telemetry import logs, tracing
from service.telemetry.metrics import Metrics

_TLS = ("ssl_certfile", "ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs", "ssl_ciphers")
_TLS_NUMBERS = ("ssl_version", "ssl_cert_reqs")


def create_application(settings: Settings, *, worker: int | None = None) -> ASGIApp:
    """Create the application of this process.

    Args:
        settings: settings of the service.
        worker: number of this worker, from 0; None without a parent.
    """
    end_with_parent()
    # Fatal signals write where each thread was; the parent ends a hung worker with one.
    with contextlib.suppress(RuntimeError, OSError, ValueError):  # there may be no stderr
        faulthandler.enable()
    limit_memory_growth()
    logs.configure(settings.log_format)
    parallel = parallelism.planned(settings)
    metrics = Metrics(workers=parallel.workers, enabled=settings.metrics)
    trace = tracing.configured(settings.trace_endpoint, ratio=settings.trace_ratio)
    registry = ModelRegistry(settings, metrics, threads=parallel.threads)
    shared, follower, status = SharedJson.inherited(), None, None
    if worker is not None:
        status = WorkerStatus.of_worker(worker)
        if shared is not None:
            follower = Follower(shared, worker, registry, timeout_s=settings.timeout_s)
    return Application(
        settings,
        metrics,
        registry,
        trace=trace,
        worker_status=status,
        follower=follower,
        workers=parallel.workers,
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the arguments that BentoML gives its workers; those that it may add are ignored."""
    parser = argparse.ArgumentParser(prog="python -m service.worker", allow_abbrev=False)
    parser.add_argument("service", help="not used: there is one")
    parser.add_argument("--fd", type=int, required=True, help="descriptor of the socket")
    parser.add_argument("--worker-id", type=int, help="number of the worker, from 1")
    parser.add_argument("--backlog", type=int, default=2048)
    parser.add_argument("--timeout-keep-alive", type=int, default=5)
    parser.add_argument("--timeout-graceful-shutdown", type=int)
    for name in _TLS:
        parser.add_argument(f"--{name.replace('_', '-')}")
    for name in _TLS_NUMBERS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int)
    return parser.parse_known_args(arguments)[0]


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    given = parse()
    accept_full_disk()
    worker = None if given.worker_id is None else given.worker_id - 1
    logs.write_to_stdout(f"entry_service:limelight:{given.worker_id}")
    tls: dict[str, Any] = {
        name: value
        for name in (*_TLS, *_TLS_NUMBERS)
        if (value := getattr(given, name)) is not None
    }
    # The parent has checked the same settings.
    config = uvicorn.Config(
        create_application(Settings(), worker=worker),
        backlog=given.backlog,
        log_config=None,
        server_header=False,
        timeout_keep_alive=given.timeout_keep_alive,
        timeout_graceful_shutdown=given.timeout_graceful_shutdown,
        **tls,
    )
    server = uvicorn.Server(config)
    gc.freeze()
    gc.enable()
    # uvicorn raises SIGINT again once it has ended, and asyncio cancels the requests that are left.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[socket.socket(fileno=given.fd)])


if __name__ == "__main__":
    main()
