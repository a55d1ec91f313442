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
START_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Server:
    """A running `seq2serve serve`; `log_file` collects its standard error."""

    process: subprocess.Popen[bytes]
    url: str
    log_file: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def log(self) -> str:
        return self.log_file.read_text("utf-8")

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of a metric that have these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        found = [line for line in lines if re.match(rf"{name}[{{ ]", line) and all(each in line for each in wanted)]
        return sum(float(line.rpartition(" ")[2]) for line in found)


StartServer = Callable[..., Server]


@pytest.fixture(scope="module")
def start_server(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """`start_server(QUEUE_LIMIT="5")`: settings without their prefix; the process is ready, and ends with the module."""
    servers: list[Server] = []

    def start(**settings: str) -> Server:
        log_file = tmp_path_factory.mktemp("server") / "log"
        chosen = {"MODEL_STORE": str(tiny_store), "PORT": "0", "THREADS": "1", "DRAIN_DELAY_S": "0", **settings}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SEQ2SERVE_")}
        environment |= {f"SEQ2SERVE_{name}": value for name, value in chosen.items()}
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "app.cli", "serve"], cwd=ROOT, env=environment, stderr=log
            )
        url = _wait_for_url(process, log_file)
        servers.append(Server(process, url, log_file))
        _wait_until_ready(url)
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGKILL)
        server.process.wait()


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Server:
    """One with the default settings."""
    return start_server()


def _wait_for_url(process: subprocess.Popen[bytes], log_file: Path) -> str:
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"http://[\d.]+:\d+", log_file.read_text("utf-8")):
            return found[0]
        time.sleep(0.05)
    pytest.fail(f"the server did not start:\n{log_file.read_text('utf-8')}")


def _wait_until_ready(url: str) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until:
        if httpx.get(f"{url}/health/ready").status_code == 200:
            return
        time.sleep(0.05)
    pytest.fail(f"the server was not ready: {httpx.get(f'{url}/health/ready').text}")
