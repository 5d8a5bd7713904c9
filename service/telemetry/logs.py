"""Log lines: BentoML's own text, or JSON with one object a line."""

import datetime
import logging
from typing import Literal

import orjson

_FIELDS = ("request_id", "trace_id", "method", "route", "status", "duration_ms", "model")


class JsonFormatter(logging.Formatter):
    """One JSON object a line; what a call gives as `extra` under a known name comes along."""

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


def configure(log_format: Literal["text", "json"]) -> None:
    """Let our lines through, and bring those of every logger of the process to one format."""
    logging.getLogger("limelight").setLevel(logging.INFO)
    # Uvicorn's access log, which nobody would see, costs each request until it has no handler.
    logging.getLogger("uvicorn.access").propagate = False
    if log_format == "text":
        return
    formatter = JsonFormatter()
    for name in ("", "bentoml", "circus", "uvicorn", "uvicorn.error"):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(formatter)
            # BentoML's filter overwrites `request_id` with its own, which it does not have.
            handler.filters.clear()
