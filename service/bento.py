"""BentoML service: `bentoml serve` and `bentoml build` find it through pyproject.toml."""

import importlib.util
import logging
import os
from typing import Any

import bentoml
from bentoml._internal.utils.analytics import usage_stats
from pydantic import ValidationError
from starlette.types import ASGIApp

from service.access.keys_file import KeysFileError, read_keys
from service.process import workers as parallelism
from service.process.metrics_folder import accept_full_disk
from service.settings import Settings, settings_problem
from service.telemetry import logs

# BentoML sends usage statistics by default; this spelling of the value turns them off. Its command
# line has read the variable before it imports this module, and sends after it, so it must read it
# again.
os.environ.setdefault(usage_stats.BENTOML_DO_NOT_TRACK, "True")
usage_stats.do_not_track.cache_clear()
accept_full_disk()
# Read at import, so that an invalid setting stops `bentoml serve` itself, and not each worker.
try:
    settings = Settings()
except ValidationError as error:
    raise SystemExit(f"limelight: {settings_problem(error)}") from None
if settings.keys_file is not None:
    try:
        read_keys(settings.keys_file)
    except KeysFileError as error:
        raise SystemExit(
            f"limelight: LIMELIGHT_KEYS_FILE is {str(settings.keys_file)!r}: {error}"
        ) from None
for package in ("grpc_health", *(("grpc_reflection",) if settings.grpc_reflection else ())):
    if settings.grpc_port is not None and importlib.util.find_spec(package) is None:
        raise SystemExit("limelight: LIMELIGHT_GRPC_PORT is set: pip install 'limelight[grpc]'")
parallel = parallelism.planned(settings)


class OwnApplication(bentoml.Service[Any]):  # type: ignore[misc]  # BentoML has no types here
    """BentoML service whose workers run our ASGI application without BentoML's middleware.

    That middleware (tracing, access log, metrics with labels that clients choose) takes ten times
    as long as one of our requests, and answers bad images with status 500.
    """

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Create the application for a process of BentoML's; our own workers do without this."""
        # Imported here, because the parent process does not need it and it loads slowly.
        from service.worker import create_application

        return create_application(settings)


def _check_tracing() -> None:
    """Stop the start if the workers could not trace: they would end, and be replaced for ever."""
    if settings.trace_endpoint is None:
        return
    from service.telemetry import tracing

    try:
        trace = tracing.configured(settings.trace_endpoint, ratio=settings.trace_ratio)
    except Exception as error:  # OpenTelemetry's settings, in its own variables, are checked too
        raise SystemExit(f"limelight: there can be no tracing: {error}") from None
    if trace is not None:
        trace.close()


@bentoml.service(name="limelight", service_class=OwnApplication, workers=parallel.workers)
class Limelight:
    """Image classifiers that show what they looked at."""

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def prepare_parent() -> None:
        """Set up the parent process; BentoML calls this once, before it starts the workers."""
        from service.process import supervisor as supervision  # the workers do not need it

        logs.configure(settings.log_format)
        _check_tracing()
        supervision.supervise(settings)
        logging.getLogger("bentoml.serve").info(
            "%d worker(s) of %d thread(s) on %d usable core(s)",
            *(parallel.workers, parallel.threads, parallelism.usable_cores()),
        )
