"""Log lines: JSON or plain, one event a line, with the id of the request that they belong to."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

request_id: ContextVar[str] = ContextVar("request_id", default="")

_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def configure_logs(log_format: Literal["plain", "json"], level: str) -> None:
    """Send every logger's lines to standard error in this shape; to be called once, at start-up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else PlainFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


def describe_exception(error: BaseException) -> str:
    """The type of an exception and where it came from, without its message: that may quote what a user sent."""
    return f"{type(error).__name__} at {' < '.join(_frames(error.__traceback__)) or 'unknown'}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, request_id and the fields given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_fields(self, record), default=str)


class PlainFormatter(logging.Formatter):
    """`time level logger event key=value …`; a value with white space or quotes is written as a JSON string."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(self, record)
        head = f"{fields.pop('time')} {fields.pop('level'):7} {fields.pop('logger')} {fields.pop('event')!s}"
        return " ".join([_one_line(head), *(f"{name}={_plain(value)}" for name, value in fields.items())])


def _fields(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": record.getMessage(),
    }
    if request_id.get():
        fields["request_id"] = request_id.get()
    fields |= {name: value for name, value in vars(record).items() if name not in _OWN_FIELDS}
    if record.exc_info:
        fields["exception"] = formatter.formatException(record.exc_info)
    return fields


def _plain(value: object) -> str:
    text = str(value)
    return text if text.isascii() and text.isprintable() and not {" ", '"'} & set(text) else json.dumps(text)


def _one_line(text: str) -> str:
    # A line break inside an event could pass for a line of its own.
    return text if text.isprintable() else json.dumps(text)


def _frames(traceback: TracebackType | None) -> list[str]:
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename.rpartition('/')[2]}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return frames[::-1]
