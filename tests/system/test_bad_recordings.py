"""Bad recordings against a real server: a clear answer, nothing crashes, and nobody else notices."""

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.audio.recordings import encoded, silent_film, speech_like, wav
from tests.system.conftest import Server, StartServer, wait_until

ONCE = {"temperature": "0", "language": "en"}
GOOD = wav(speech_like(1.0))


def _lying_wav() -> bytes:
    """Announces 4 GB of samples, holds half a second."""
    content = bytearray(wav(speech_like(0.5)))
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", 0xFFFFFFF0)
    return bytes(content)


def _bomb() -> bytes:
    """An hour of silence in a few kilobytes."""
    return encoded(np.zeros(3600 * 16_000, np.float32), "flac", "flac").getvalue()


REFUSED = {
    "empty file": (b"", 400),
    "text renamed to wav": (b"Dear all, this is no sound. " * 50, 400),
    "a video without an audio track": (silent_film().getvalue(), 400),
    "only a header": (GOOD[:20], 400),
    "random bytes": (np.random.default_rng(0).bytes(100_000), 400),
    "an hour in a small file": (_bomb(), 413),
}
ANSWERED = {
    "header that lies about its length": (_lying_wav(), 0.5),
    "truncated mp3": (encoded(speech_like(2.0), "mp3", "mp3").getvalue()[:5_001], None),
    "no sample": (wav(np.zeros(0, np.float32)), 0.0),
    "one sample": (wav(np.zeros(1, np.float32)), 0.0),
    "eight channels at 192 kHz": (
        encoded(np.repeat(speech_like(1.0)[:, None], 8, 1), "wav", "pcm_s16le", 192_000, "7.1").getvalue(),
        1 / 12,
    ),
    "silence only": (wav(np.zeros(32_000, np.float32)), 2.0),
}


@pytest.fixture(scope="module")
def server(start_server: StartServer, tiny_whisper_store: Path) -> Server:
    return start_server(MODEL_STORE=str(tiny_whisper_store), VARIANT="fp32", MAX_AUDIO_S="30", LOG_LEVEL="debug")


@pytest.fixture
def good_answers(server: Server, talk: bytes) -> Iterator[None]:
    """Good requests go on beside the test, and get the same answer."""
    answers: list[tuple[int, str]] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            answer = server.client.post("/transcribe", files={"file": ("canaryname.wav", talk)}, data=ONCE)
            answers.append((answer.status_code, answer.json().get("text", "")))

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    is_over.set()
    thread.join()
    assert answers and {status for status, _ in answers} == {200}
    [text] = {text for _, text in answers}
    assert text


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_recording_is_refused_clearly(server: Server, good_answers: None, name: str) -> None:
    content, status = REFUSED[name]
    answer = server.client.post("/transcribe", files={"file": ("canaryname.wav", content)}, data=ONCE)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"} and 5 < len(answer.json()["error"]) < 300


@pytest.mark.parametrize("name", ANSWERED)
def test_what_can_be_heard_is_answered(server: Server, good_answers: None, name: str) -> None:
    content, duration_s = ANSWERED[name]
    answer = server.client.post("/transcribe", files={"file": ("canaryname.wav", content)}, data=ONCE)
    assert answer.status_code == 200, answer.text
    if duration_s is None:
        assert 0 < answer.json()["duration"] < 2
    else:
        assert answer.json()["duration"] == pytest.approx(duration_s, abs=0.01)
    if "sample" in name or name == "silence only":
        assert answer.json()["text"] == ""


def test_an_upload_that_breaks_off_is_nobodys_fault(server: Server) -> None:
    before = server.metric("seq2serve_http_requests_total", route="/transcribe", code="499")
    head = (
        b"POST /transcribe HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: 5000000\r\n\r\n--b\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head + bytes(2_000_000))
    wait_until(
        lambda: server.metric("seq2serve_http_requests_total", route="/transcribe", code="499") == before + 1, server
    )


def test_after_all_that_nothing_was_a_server_error(server: Server) -> None:
    assert server.metric("seq2serve_http_requests_total", code="500") == 0
    assert server.process.poll() is None
    assert "Traceback" not in server.log() and "canaryname" not in server.log()
