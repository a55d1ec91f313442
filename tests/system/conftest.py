"""A real server process on a free port."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "app.cli", "serve"]
# Generous: the machine may be busy, and a test that fails for that says nothing.
PATIENCE_S = 120


@dataclass(frozen=True, slots=True)
class Server:
    """A running `seq2serve serve`; `log_file` collects its standard error, `client` opens a connection a request."""

    process: subprocess.Popen[bytes]
    url: str
    log_file: Path
    client: httpx.Client

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def log(self) -> str:
        return self.log_file.read_text("utf-8")

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of a metric that have these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = self.client.get("/metrics").text.splitlines()
        found = [line for line in lines if re.match(rf"{name}[{{ ]", line) and all(each in line for each in wanted)]
        return sum(float(line.rpartition(" ")[2]) for line in found)


StartServer = Callable[..., Server]


@pytest.fixture(scope="module")
def start_server(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """`start_server(QUEUE_LIMIT="5")`: settings without their prefix; what comes is ready, and ends with the module."""
    servers: list[Server] = []

    def start(**settings: str) -> Server:
        log_file = tmp_path_factory.mktemp("server") / "log"
        chosen = {"MODEL_STORE": str(tiny_store), "PORT": "0", "THREADS": "1", "DRAIN_DELAY_S": "0", **settings}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SEQ2SERVE_")}
        environment |= {f"SEQ2SERVE_{name}": value for name, value in chosen.items()}
        with log_file.open("wb") as log:
            process = subprocess.Popen(COMMAND, cwd=ROOT, env=environment, stderr=log)
        url = _wait_for_url(process, log_file)
        client = httpx.Client(base_url=url, timeout=PATIENCE_S, limits=httpx.Limits(max_keepalive_connections=0))
        servers.append(Server(process, url, log_file, client))
        wait_until(lambda: client.get("/health/ready").status_code == 200, servers[-1])
        return servers[-1]

    yield start
    for server in servers:
        server.client.close()
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        print(server.log())  # shown with a test that fails


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Server:
    """One with the default settings."""
    return start_server()


def wait_until(happens: Callable[[], bool], server: Server) -> None:
    """Ask until the answer is yes."""
    until = time.monotonic() + PATIENCE_S
    while not happens():
        assert time.monotonic() < until, f"waited for {PATIENCE_S} s; the log so far:\n{server.log()}"
        time.sleep(0.02)


def _wait_for_url(process: subprocess.Popen[bytes], log_file: Path) -> str:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"http://[\d.]+:\d+", log_file.read_text("utf-8")):
            return found[0]
        time.sleep(0.05)
    pytest.fail(f"the server did not start:\n{log_file.read_text('utf-8')}")
