"""A server's life: slim, private, quick to forget who left, and polite when it has to go."""

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import httpx
import pytest

from app.store.registry import Registry
from tests.system.conftest import COMMAND, PATIENCE_S, ROOT, Server, StartServer, wait_until

MANY = {"q": ["Please close the window before you leave."] * 200, "source": "en", "target": "de", "beam_size": 8}


def _num_busy(server: Server) -> float:
    return server.metric("seq2serve_requests_in_progress") + server.metric("seq2serve_queue_requests")


def test_the_server_is_slim(start_server: StartServer) -> None:
    server = start_server()
    server.client.post("/translate", json=MANY)
    status = Path(f"/proc/{server.process.pid}/status")
    if not status.exists():
        pytest.skip("needs /proc")
    found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text())
    assert found and int(found[1]) < 400 * 1024


def test_a_client_that_goes_away_frees_its_rows(start_server: StartServer) -> None:
    server = start_server()
    body = server.client.build_request("POST", "/translate", json=MANY)
    head = (
        "POST /translate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body.content)}\r\n\r\n"
    )
    connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
    for connection in connections:
        connection.sendall(head.encode() + body.content)
    wait_until(lambda: _num_busy(server) > 0, server)
    for connection in connections:
        connection.close()
    wait_until(lambda: _num_busy(server) == 0, server)
    assert server.metric("seq2serve_requests_finished_total", reason="cancelled") > 100
    wait_until(lambda: server.metric("seq2serve_http_requests_total", code="499") == 3, server)
    assert server.client.post("/translate", json={**MANY, "q": "Hello."}).status_code == 200


def test_neither_text_nor_key_is_written_down(start_server: StartServer) -> None:
    server = start_server(API_KEYS="canarykey", LOG_LEVEL="debug", LOG_FORMAT="json")
    url, text = "/translate", "canarytext goes home."
    asked = {"q": text, "source": "en", "target": "de", "api_key": "canarykey"}
    server.client.post(url, json=asked)
    server.client.post(url, data=asked)
    server.client.post(url, params=asked)
    server.client.post(url, json={**asked, "api_key": "canarykeywrong"})
    server.client.post(url, json={**asked, "source": "canarytext"})
    server.client.post(url, json={**asked, "model": "canarytext"})
    server.client.post(url, json={**asked, "q": [text, {"canarytext": "canarykey"}]})
    server.client.post(url, content=b'{"q": "canarytext', headers={"content-type": "application/json"})
    server.client.post(url, content=b"canarytext", headers={"content-type": "canarytext/canarykey"})
    server.client.post("/detect", data={"q": text})
    server.client.get("/canarytext?key=canarykey", headers={"authorization": "Bearer canarykey"})
    server.client.request("CANARYTEXT", url)
    metrics = server.client.get("/metrics").text
    assert "seq2serve_http_requests_total" in metrics and '"event": "request"' in server.log()
    assert "canary" not in (server.log() + metrics).lower()


def test_sigterm_refuses_new_work_and_keeps_listening(start_server: StartServer) -> None:
    server = start_server(DRAIN_DELAY_S="300")
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: server.client.get("/health/ready").status_code == 503, server)
    refused = server.client.post("/translate", json={**MANY, "q": "Hello."})
    assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
    assert server.client.get("/health/live").status_code == 200


def test_sigterm_lets_running_work_end(start_server: StartServer) -> None:
    server = start_server(DRAIN_TIMEOUT_S="300")
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(server.client.post("/translate", json=MANY)))
    asking.start()
    wait_until(lambda: _num_busy(server) > 0, server)
    server.process.send_signal(signal.SIGTERM)
    asking.join()
    assert answers[0].status_code == 200 and len(answers[0].json()["translatedText"]) == 200
    assert server.process.wait(PATIENCE_S) == 0


def test_work_that_outlives_the_drain_time_is_called_off(start_server: StartServer) -> None:
    server = start_server(DRAIN_TIMEOUT_S="0", MAX_ROWS="8")
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(server.client.post("/translate", json=MANY)))
    asking.start()
    wait_until(lambda: _num_busy(server) > 0, server)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE_S) == 0
    asking.join()
    assert answers[0].status_code == 503 and "stopped before" in answers[0].json()["error"]
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once(start_server: StartServer, second: signal.Signals) -> None:
    server = start_server(DRAIN_DELAY_S="300")
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "draining" in server.log(), server)
    server.process.send_signal(second)
    assert server.process.wait(PATIENCE_S) == 0


def test_a_promoted_version_takes_over_without_a_failed_request(
    start_server: StartServer, tiny_store: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(tiny_store, store)
    server = start_server(MODEL_STORE=str(store), REFRESH_S="0.5")
    versions = store / "tiny-en-de" / "versions"
    shutil.copytree(versions / "1", versions / "2")
    manifest = versions / "2" / "manifest.json"
    manifest.write_text(re.sub(r'"version":\s*"1"', '"version": "2"', manifest.read_text()))
    Registry(store).promote("tiny-en-de", "2")
    seen: list[str] = []

    def ask() -> bool:
        answer = server.client.post("/translate", json={**MANY, "q": "Hello."})
        assert answer.status_code == 200, answer.text
        seen.append(answer.json()["model"])
        return seen[-1] == "tiny-en-de@2"

    wait_until(ask, server)
    assert sorted(seen) == seen
    states = {model["version"]: model["state"] for model in server.client.get("/models").json()}
    assert states["2"] == "ready" and states["1"] in ("draining", "unloaded")


def _serve_in_vain(**settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEQ2SERVE_")}
    environment |= {f"SEQ2SERVE_{name}": value for name, value in settings.items()}
    return subprocess.run(
        COMMAND, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"PORTT": "1"}, "SEQ2SERVE_PORTT: no such setting; did you mean SEQ2SERVE_PORT?"),
        ({"PORT": "x"}, "SEQ2SERVE_PORT"),
        ({"REQUIRE_API_KEY": "1"}, "there are no keys"),
    ],
)
def test_a_wrong_setting_stops_the_start(tiny_store: Path, settings: dict[str, str], complaint: str) -> None:
    run = _serve_in_vain(**{"MODEL_STORE": str(tiny_store), "PORT": "0", **settings})
    assert run.returncode == 1
    assert complaint in run.stderr and "Traceback" not in run.stderr


def test_a_taken_port_is_said(server: Server, tiny_store: Path) -> None:
    run = _serve_in_vain(MODEL_STORE=str(tiny_store), PORT=str(server.port))
    assert run.returncode == 1
    assert f"can not serve on 127.0.0.1:{server.port}" in run.stderr and "Traceback" not in run.stderr


def test_a_client_that_stops_listening_frees_its_windows(
    start_server: StartServer, tiny_whisper_store: Path, jfk: Path
) -> None:
    server = start_server(MODEL_STORE=str(tiny_whisper_store), MAX_ROWS="8", BATCHES="1")
    content = server.client.build_request(
        "POST", "/transcribe", files=[("file", ("a.flac", jfk.read_bytes()))] * 8, data={"beam_size": "8"}
    )
    head = f"POST /transcribe HTTP/1.1\r\nHost: x\r\nContent-Type: {content.headers['content-type']}\r\n"
    body = content.read()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: _num_busy(server) > 0, server)
    wait_until(lambda: server.metric("seq2serve_http_requests_total", code="499") == 1, server)
    wait_until(lambda: _num_busy(server) == 0, server)
    assert server.metric("seq2serve_requests_finished_total", reason="cancelled") > 0
