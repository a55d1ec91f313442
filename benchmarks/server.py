"""Servers started for a measurement, on a free port each, and the memory that they take."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx


def serve_command(*arguments: str) -> list[str]:
    """`seq2serve serve` of this environment."""
    script = Path(sys.executable).parent / "seq2serve"
    return [*([str(script)] if script.exists() else [sys.executable, "-m", "app.cli"]), "serve", *arguments]


@dataclass
class Start:
    """How a server came up; `processor_s` is what that takes where nothing else runs and nothing is read from disk."""

    seconds: float
    processor_s: float
    resident_mb: float


@dataclass
class Server:
    url: str
    process: "subprocess.Popen[bytes] | None" = None
    starts: list[Start] = field(default_factory=list)

    def memory_mb(self, name: str = "VmRSS") -> float | None:
        """Resident memory of the process and those that it started; `VmHWM` gives the most it ever was."""
        return None if self.process is None else round(sum(_memory_kb(self.process.pid, name)) / 1024, 1)


def _memory_kb(pid: int, name: str) -> Iterator[int]:
    with contextlib.suppress(FileNotFoundError):
        for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
            if line.startswith(f"{name}:"):
                yield int(line.split()[1])
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text("utf-8").split():
                yield from _memory_kb(int(child), name)


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started_server(
    command: list[str],
    limit_s: float,
    ready_path: str = "/health/ready",
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Iterator[Server]:
    """A server on a free port (`--port` is put behind `command`), ready; it is ended when the context is left.

    `environment` is added to this process's own, `folder` is where it works.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(environment or {}),
            cwd=folder,
        )
        server = Server(url, process)
        try:
            with httpx.Client(base_url=url, timeout=1.0) as client:
                while not _is_ready(client, ready_path):
                    if process.poll() is not None or time.perf_counter() - began > limit_s:
                        log.seek(0)
                        raise SystemExit(f"{log.read().decode()[-2000:]}\nnot ready within {limit_s:.0f} s, or ended")
                    time.sleep(0.01)
            seconds = time.perf_counter() - began
            server.starts.append(Start(round(seconds, 3), _processor_s(process.pid), server.memory_mb() or 0.0))
            yield server
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_ready(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).status_code == 200
    except httpx.HTTPError:
        return False
