"""Log lines: one event, one line, whatever the values hold."""

import io
import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.logs import JsonFormatter, PlainFormatter, describe_exception, request_id


def _line(formatter: logging.Formatter, event: str, extra: dict[str, object], exc_info: bool = False) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.info(event, extra=extra, exc_info=exc_info)
    return stream.getvalue()


def test_json_lines_hold_the_event_its_fields_and_the_request() -> None:
    token = request_id.set("abc")
    try:
        fields = json.loads(_line(JsonFormatter(), "published", {"version": "1"}))
    finally:
        request_id.reset(token)
    assert {"event": "published", "version": "1", "request_id": "abc", "level": "info", "logger": "test"}.items() <= (
        fields.items()
    )


def test_outside_a_request_there_is_no_request_id() -> None:
    assert "request_id" not in _line(JsonFormatter(), "started", {})


@given(st.text(max_size=50), st.text(max_size=50))
def test_no_value_can_begin_a_line_of_its_own(event: str, value: str) -> None:
    for formatter in (PlainFormatter(), JsonFormatter()):
        assert len(_line(formatter, event.replace("%", ""), {"value": value}).splitlines()) == 1


def test_an_exception_stays_on_the_line() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        for formatter in (PlainFormatter(), JsonFormatter()):
            line = _line(formatter, "failed", {}, exc_info=True)
            assert len(line.splitlines()) == 1 and "ValueError: first" in line


def test_a_description_has_the_place_and_not_the_message() -> None:
    with pytest.raises(ValueError, match="canary") as caught:
        raise ValueError("canary text")
    description = describe_exception(caught.value)
    assert description.startswith("ValueError at test_logs.py:") and "canary" not in description
    assert describe_exception(KeyError()) == "KeyError at unknown"
    assert sys.exc_info() == (None, None, None)
