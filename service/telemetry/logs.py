"""Log format: BentoML's text, or JSON with one object per line."""

import datetime
import logging
import sys
from typing import Literal

import orjson

from service.telemetry.log_limit import RepeatFilter

logger = logging.getLogger("limelight.logs")

LEVELS = ("debug", "info", "warning", "error")

_FIELDS = (
    *("request_id", "trace_id", "method", "route", "status", "duration_ms"),
    *("model", "digest", "key"),
)


_limit = RepeatFilter()


class JsonFormatter(logging.Formatter):
    """Formatter that writes one JSON object per line, with the known fields of `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        content = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for field in _FIELDS:
            value = getattr(record, field, None)
            if value is not None:
                content[field] = value
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(content, default=str).decode()


def write_to_stdout(component: str) -> None:
    """Write the log lines of this process to stdout, in BentoML's form and with its levels."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        logging.Formatter(
            f"%(asctime)s [%(levelname)s] [{component}] %(message)s", "%Y-%m-%dT%H:%M:%S%z"
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def configure(log_format: Literal["text", "json"]) -> None:
    """Enable the `limelight` loggers, and give every logger of the process the same format.

    No logger writes the same line without limit: see `service.telemetry.log_limit`.
    """
    logging.getLogger("limelight").setLevel(logging.INFO)
    # Uvicorn's access log is not shown, but costs time in each request while it has a handler.
    logging.getLogger("uvicorn.access").propagate = False
    formatter = JsonFormatter()
    for name in ("", "bentoml", "circus", "uvicorn", "uvicorn.error"):
        each = logging.getLogger(name)
        if name and each.handlers:
            each.propagate = False  # BentoML's root logger has the same handler: a second line
        for handler in each.handlers:
            if log_format == "json":
                handler.setFormatter(formatter)
                # BentoML's filter would overwrite our `request_id` with its own, which is empty.
                handler.filters.clear()
            if _limit not in handler.filters:
                handler.addFilter(_limit)


def set_level(level: str) -> None:
    """Log what has at least this level, one of `LEVELS`; `debug` adds a line per request."""
    ours = logging.getLogger("limelight")
    if ours.level != (number := logging.getLevelNamesMapping()[level.upper()]):
        ours.setLevel(number)


def report_suppressed() -> None:
    """Say how many lines were suppressed, if any; call this regularly."""
    _limit.report(logger)
