"""The BentoML service: `bentoml serve` and `bentoml build` find it through pyproject.toml."""

import importlib.util
import logging
import os
from pathlib import Path

# Serving somebody's images is nobody else's business: BentoML reports usage unless told not to,
# and takes only this spelling for a no.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

from typing import Any

import bentoml
from bentoml._internal.context import server_context
from pydantic import ValidationError
from starlette.types import ASGIApp

from limelight.runtime import cuda
from service.process import malloc as allocator
from service.process import workers as parallelism
from service.process.connection_balancer import ConnectionCounts
from service.settings import Settings, settings_problem
from service.telemetry import logs

# Read here, so that a setting that makes no sense stops `bentoml serve` instead of its workers.
try:
    settings = Settings()
except ValidationError as error:
    raise SystemExit(f"limelight: {settings_problem(error)}") from None
if settings.grpc_port is not None and importlib.util.find_spec("grpc_health") is None:
    raise SystemExit("limelight: LIMELIGHT_GRPC_PORT is set: pip install 'limelight[grpc]'")
cores = parallelism.usable_cores()
parallel = parallelism.choose(
    workers=settings.workers,
    threads=settings.threads,
    cores=cores,
    gpu=settings.device != "cpu" and cuda.driver_problem() is None,
)


class OwnApplication(bentoml.Service[Any]):  # type: ignore[misc]  # BentoML has no types here
    """A service whose workers run our application and none of BentoML's middleware.

    That middleware costs ten times what a request of ours does (tracing, access log, metrics
    whose labels clients choose), and turns bad images into 500s.
    """

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Called once in each worker."""
        # Here, because the parent process has no use for them, and they take a second to load.
        from service.app import Application
        from service.inference.model_registry import ModelRegistry
        from service.telemetry.metrics import Metrics
        from service.telemetry.tracing import Tracing

        self.inject_config()
        allocator.keep_memory_flat()
        logs.configure(settings.log_format)
        metrics = Metrics(workers=parallel.workers, enabled=settings.metrics)
        trace = None
        if settings.trace_endpoint is not None:
            trace = Tracing(settings.trace_endpoint, ratio=settings.trace_ratio)
        registry = ModelRegistry(settings, metrics, threads=parallel.threads)
        return Application(
            settings,
            metrics,
            registry,
            trace=trace,
            connection_counts=_connection_counts(),
            threads=parallel.threads,
            workers=parallel.workers,
        )


def _connection_counts() -> ConnectionCounts | None:
    """Beside the workers' metrics, in the one folder that they have in common."""
    folder, worker = os.environ.get("PROMETHEUS_MULTIPROC_DIR"), server_context.worker_index
    if folder is None or worker is None or parallel.workers == 1:
        return None
    # BentoML counts from 1, and on where a worker is replaced.
    number = (worker - 1) % parallel.workers
    return ConnectionCounts(Path(folder) / "connections", worker=number, workers=parallel.workers)


@bentoml.service(name="limelight", service_class=OwnApplication, workers=parallel.workers)
class Limelight:
    """Image classifiers that show what they looked at."""

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def prepare_parent() -> None:
        """Called once in the parent process, before it starts the workers."""
        from service.process import supervisor as supervision  # of no use to the workers

        logs.configure(settings.log_format)
        supervision.supervise(drain_s=settings.drain_s)
        logging.getLogger("bentoml.serve").info(
            "%d worker(s) of %d thread(s) on %d usable core(s)",
            *(parallel.workers, parallel.threads, cores),
        )
