"""Bad input against a real server: a clear answer, nothing crashes, and nobody else notices."""

import gzip
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.system.conftest import PATIENCE_S, Server

GOOD = {"q": "The cat sleeps on the warm stove.", "source": "en", "target": "de"}
JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


def _json(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


BAD = {
    "unknown language": (JSON, _json(source="xx"), 400),
    "missing q": (JSON, b'{"source": "en", "target": "de"}', 400),
    "q a number": (JSON, _json(q=5), 400),
    "q a list of lists": (JSON, _json(q=[["a"]]), 400),
    "q an empty list": (JSON, _json(q=[]), 400),
    "broken JSON": (JSON, b'{"q": "a', 400),
    "deeply nested JSON": (JSON, b"[" * 1_000_000, 400),
    "10 MB body": (JSON, _json(q="a" * 10_000_000), 413),
    "lone surrogate": (JSON, b'{"q": "a\\ud800", "source": "en", "target": "de"}', 400),
    "beam 1000": (JSON, _json(beam_size=1000), 400),
    "negative alternatives": (JSON, _json(alternatives=-1), 400),
    "a huge number": (JSON, b'{"q": "a", "source": "en", "target": "de", "beam_size": ' + b"9" * 4000 + b"}", 400),
    "wrong content type": ({"content-type": "text/plain"}, _json(), 415),
    "no content type": ({}, _json(), 415),
    "invalid UTF-8 JSON": (JSON, b'{"q": "\xff\xfe"}', 400),
    "invalid UTF-8 form": (FORM, b"q=%ff%fe&source=en&target=de", 400),
    "gzip body": ({**JSON, "content-encoding": "gzip"}, gzip.compress(_json()), 415),
    "a million items": (JSON, _json(q=[0] * 600_000), 400),
    "a million fields": (FORM, b"a=1&" * 400_000, 400),
    "multipart without a boundary": ({"content-type": "multipart/form-data"}, b"x", 400),
    "a text over the limit": (JSON, _json(q="a " * 60_000), 400),
}
UNCHANGED = {
    "only emoji": "😀🎉👍🏽",
    "NUL": "\0\0",
    "blank": " \n\t",
    "digits": "42",
    "marks": "?! … —",
    "bidi": "\u202e\u2066",
}


@pytest.fixture
def good_answers(server: Server) -> Iterator[list[tuple[int, str]]]:
    """Good requests go on beside the test; their answers (status, text) are here when it has ended."""
    answers: list[tuple[int, str]] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            answer = server.client.post("/translate", json=GOOD)
            answers.append((answer.status_code, answer.json().get("translatedText", "")))

    thread = threading.Thread(target=ask)
    thread.start()
    yield answers
    is_over.set()
    thread.join()
    assert len(answers) > 0
    assert {status for status, _ in answers} == {200}
    assert len({text for _, text in answers}) == 1, "the same text, whatever runs beside it"


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_clearly(server: Server, good_answers: list[tuple[int, str]], name: str) -> None:
    headers, body, status = BAD[name]
    answer = server.client.post("/translate", content=body, headers=headers)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"} and 5 < len(answer.json()["error"]) < 300


@pytest.mark.parametrize("name", UNCHANGED)
def test_what_has_nothing_to_translate_comes_back(
    server: Server, good_answers: list[tuple[int, str]], name: str
) -> None:
    answer = server.client.post("/translate", json={**GOOD, "q": UNCHANGED[name]})
    assert (answer.status_code, answer.json()["translatedText"]) == (200, UNCHANGED[name])


def test_odd_text_is_translated_and_harms_no_one(server: Server, good_answers: list[tuple[int, str]]) -> None:
    odd = [
        "a\0b",
        "e" + "\u0301" * 5000,
        "a" * 20_000,
        "\ufffe\uffff word",
        "x" + "\u200d" * 300,
        "ﷺ" * 500,
        "." * 30_000 + "a",
    ]
    answer = server.client.post("/translate", json={**GOOD, "q": odd, "beam_size": 1})
    assert answer.status_code == 200 and "errors" not in answer.json()
    assert all(isinstance(text, str) for text in answer.json()["translatedText"])


def test_a_chunked_body_without_end_is_cut_off(server: Server, good_answers: list[tuple[int, str]]) -> None:
    head = (
        b"POST /translate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as connection:
        connection.sendall(head)
        try:
            for _ in range(1000):
                connection.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            return  # it stopped reading
        assert b" 413 " in connection.recv(1000)


@pytest.mark.parametrize(
    "sent", [b"\0\1\2\3\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST /translate HTTP/1.1\r\nContent-Length: -5\r\n\r\n"]
)
def test_what_is_no_http_harms_no_one(server: Server, good_answers: list[tuple[int, str]], sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert b" 200 " not in connection.recv(1000)


def test_after_all_that_nothing_was_a_server_error(server: Server) -> None:
    assert server.metric("seq2serve_http_requests_total", code="500") == 0
    assert server.process.poll() is None
    assert "Traceback" not in server.log()
