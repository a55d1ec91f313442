"""How benchmark results are kept: the raw numbers with the command, the machine and the commit they came from."""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

RESULTS = Path(__file__).parent / "results"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def machine() -> dict[str, Any]:
    """The processor, and how busy it is: other work on the cores spoils a figure."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit of the working tree, `-dirty` behind it where files differ."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "none"


def make_console() -> Console:
    """Wide enough for a table, also where the output is a file."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def version_of(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def settings_of(arguments: argparse.Namespace) -> dict[str, str]:
    """What a benchmark was asked for."""
    return {name: _portable(str(value)) for name, value in vars(arguments).items()}


def _portable(word: str) -> str:
    """A word of the command line; of a path that only one machine has, its last part."""
    return Path(word).name if Path(word).is_absolute() else word


def write_result(name: str, content: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write `<name>.json`; the circumstances go in beside `content`."""
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    circumstances = {
        "command": " ".join(["python", *map(_portable, sys.orig_argv[1:])]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine_at_end": machine(),
    }
    path.write_text(json.dumps(circumstances | content, indent=2) + "\n", "utf-8")
    return path
