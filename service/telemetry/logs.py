"""Log format: BentoML's text, or JSON with one object per line."""

import datetime
import logging
from typing import Literal

import orjson

_FIELDS = ("request_id", "trace_id", "method", "route", "status", "duration_ms", "model")


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


def configure(log_format: Literal["text", "json"]) -> None:
    """Enable the `limelight` loggers, and give every logger of the process the same format."""
    logging.getLogger("limelight").setLevel(logging.INFO)
    # Uvicorn's access log is not shown, but costs time in each request while it has a handler.
    logging.getLogger("uvicorn.access").propagate = False
    if log_format == "text":
        return
    formatter = JsonFormatter()
    for name in ("", "bentoml", "circus", "uvicorn", "uvicorn.error"):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(formatter)
            # BentoML's filter would overwrite our `request_id` with its own, which is empty.
            handler.filters.clear()
