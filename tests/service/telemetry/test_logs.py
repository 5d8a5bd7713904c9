import datetime
import json
import logging
from collections.abc import Iterator

import pytest

from service.telemetry.logs import JsonFormatter, configure


def formatted(level: int, message: str, *arguments: object, **extra: object) -> dict[str, object]:
    record = logging.getLogger("limelight.x").makeRecord(
        "limelight.x", level, "file.py", 1, message, arguments, None, extra=extra
    )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    content = json.loads(line)
    assert isinstance(content, dict)
    return content


def test_a_line_is_a_json_object_with_its_time() -> None:
    content = formatted(logging.WARNING, "%s is %d", "a", 3)
    moment = datetime.datetime.fromisoformat(str(content.pop("time")))
    age = datetime.datetime.now(datetime.UTC) - moment
    assert abs(age.total_seconds()) < 10
    assert content == {"level": "warning", "logger": "limelight.x", "message": "a is 3"}


@pytest.mark.parametrize(
    "message", ["two\nlines", 'a "quoted" \\ word', "\x00\x1b[31m", "ü \u2028"]
)
def test_any_message_is_logged_in_a_single_line(message: str) -> None:
    assert formatted(logging.INFO, "%s", message)["message"] == message


def test_only_known_extra_fields_are_logged() -> None:
    fields = {"request_id": "r", "route": "/predict", "status": 200, "duration_ms": 1.5}
    content = formatted(logging.INFO, "x", **fields, trace_id=None, secret="s")
    assert {name: content[name] for name in fields} == fields
    assert not {"trace_id", "secret"} & set(content)


def test_exception_is_part_of_its_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", (), info)
    content = json.loads(JsonFormatter().format(record))
    assert "ValueError: broken" in content["exception"]
    assert "Traceback" in content["exception"]


@pytest.fixture
def handlers() -> Iterator[dict[str, logging.Handler]]:
    """Add a handler to each logger that has one under `bentoml serve` or uvicorn."""
    made = {name: logging.NullHandler() for name in ("", "bentoml", "uvicorn.error")}
    ours = logging.getLogger("limelight")
    level = ours.level
    for name, handler in made.items():
        logging.getLogger(name).addHandler(handler)
    others = [(handler, handler.formatter) for handler in logging.getLogger().handlers]
    yield dict(made)
    for name, handler in made.items():
        logging.getLogger(name).removeHandler(handler)
    for other, formatter in others:
        other.setFormatter(formatter)
    ours.setLevel(level)


def test_json_format_applies_to_every_logger(handlers: dict[str, logging.Handler]) -> None:
    configure("json")
    assert all(isinstance(handler.formatter, JsonFormatter) for handler in handlers.values())
    assert logging.getLogger("limelight.app").isEnabledFor(logging.INFO)


def test_text_format_leaves_the_handlers_of_bentoml_unchanged(
    handlers: dict[str, logging.Handler],
) -> None:
    configure("text")
    assert not any(isinstance(handler.formatter, JsonFormatter) for handler in handlers.values())
    assert logging.getLogger("limelight.app").isEnabledFor(logging.INFO)
