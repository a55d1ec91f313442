"""Question: how many requests a second does the service take, and how long do they wait, beside others?

Single sentences arrive at a fixed rate whatever the server does, so that a stall counts; the rate grows until a server
saturates. Each rate is tried on all servers in turn, with other sentences each time; all decode with the same beam:

1. `seq2serve serve` with the published model of --store,
2. FastAPI around CTranslate2 int8 with the weights of --run, those of the published model,
3. LibreTranslate with the same weights as Argos packages, where --libretranslate names its Python.

    SEQ2SERVE_DATA=... python -m benchmarks.load --run runs/translate-en-de --libretranslate /path/to/its/bin/python

The clients run on the server's machine and take their share of its cores.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot
from rich.console import Console
from rich.table import Table

from app.commands.loading import open_run
from benchmarks import argos_package, ctranslate2_model
from benchmarks.client import Answer, Service
from benchmarks.record import RESULTS, machine, make_console, settings_of, version_of, write_result
from benchmarks.server import Server, serve_command, started_server
from benchmarks.subjects import run_model, test_set

OURS = "seq2serve"
P95_LIMITS_MS = (50, 100, 200, 500, 1000)
# A server is saturated when its p95 is above this, or this share of its answers are errors.
SATURATED_MS, SATURATED_ERRORS = 2000.0, 0.01
WARM_UP = 32


@dataclass
class Step:
    """The answers of one server at one rate."""

    server: str
    rate: float
    answers: list[Answer]
    seconds: float

    @property
    def good(self) -> list[float]:
        """Milliseconds from when a request was due to its answer."""
        return [answer.seconds * 1000 for answer in self.answers if not answer.problem]

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.good, share)) if self.good else float("inf")

    @property
    def errors(self) -> float:
        return 1 - len(self.good) / len(self.answers)

    @property
    def is_saturated(self) -> bool:
        return self.percentile(95) > SATURATED_MS or self.errors > SATURATED_ERRORS

    def record(self) -> dict[str, Any]:
        percentiles = {f"p{share:g}_ms": round(self.percentile(share), 1) for share in (50, 95, 99, 99.9)}
        return {
            "server": self.server,
            "rate_per_s": round(self.rate, 2),
            "requests": len(self.answers),
            "answered_per_s": round(len(self.good) / self.seconds, 2),
            **percentiles,
            "error_share": round(self.errors, 4),
            "problems": sorted({answer.problem for answer in self.answers if answer.problem}),
        }


@contextlib.contextmanager
def servers(arguments: argparse.Namespace) -> Iterator[dict[str, Server]]:
    """Every server that takes part, ready."""
    opened, model = open_run(arguments.run, "cpu"), run_model(arguments.run)
    tokenizer = opened.tokenizer.path
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tokens = ctranslate2_model.id_tokens(opened.tokenizer.vocabulary_size)
        ctranslate2_model.convert(model, tokens, folder / "model")
        command = [sys.executable, "-m", "benchmarks.ctranslate2_server"]
        command += ["--model", str(folder / "model"), "--tokenizer", str(tokenizer.resolve())]
        found = {
            OURS: stack.enter_context(started_server(serve_command("--store", str(arguments.store)), 60.0)),
            "FastAPI + CTranslate2": stack.enter_context(started_server(command, 60.0, "/health")),
        }
        if arguments.libretranslate:
            packages = folder / "packages"
            argos_package.install(model, tokenizer, opened.recipe.data.directions, packages)
            environment = {
                "ARGOS_PACKAGES_DIR": str(packages),
                "ARGOS_BEAM_SIZE": str(arguments.beam_size),
                "ARGOS_COMPUTE_TYPE": "int8",
                "ARGOS_INTER_THREADS": str(len(os.sched_getaffinity(0))),
                "ARGOS_INTRA_THREADS": "1",
                **{f"XDG_{kind}_HOME": str(folder / kind) for kind in ("DATA", "CONFIG", "CACHE")},
            }
            script = Path(__file__).with_name("libretranslate_server.py").resolve()
            command = [str(arguments.libretranslate), "-P", str(script), "--disable-web-ui", "--threads", "8"]
            server = started_server(command, 120.0, "/languages", environment, folder)
            found["LibreTranslate"] = stack.enter_context(server)
        yield found


async def measure(arguments: argparse.Namespace, found: dict[str, Server], texts: list[str]) -> dict[str, Any]:
    options = {"source": arguments.source, "target": arguments.target, "beam_size": arguments.beam_size}
    clients = {name: Service(server.url, options) for name, server in found.items()}
    drawn = itertools.cycle(texts)
    steps: list[Step] = []
    try:
        answers = {name: await client.in_loops(texts[:WARM_UP], 4) for name, client in clients.items()}
        for name, warm in answers.items():
            if all(answer.problem for answer in warm):
                raise SystemExit(f"{name}: no translation came back, but {warm[0].problem}")
        rate, going = arguments.start, dict(clients)
        while going:
            for name, client in list(going.items()):
                sentences = [next(drawn) for _ in range(max(20, int(rate * arguments.seconds)))]
                began = time.perf_counter()
                answered = await client.at_rate(sentences, rate)
                steps.append(Step(name, rate, answered, time.perf_counter() - began))
                if steps[-1].is_saturated:
                    del going[name]
            rate *= arguments.factor
    finally:
        for client in clients.values():
            await client.close()
    same = {
        name: sum(a.text == b.text for a, b in zip(answers[OURS], warm, strict=True)) / WARM_UP
        for name, warm in answers.items()
    }
    return {"steps": steps, "same_translations_as_ours": same}


def best_rates(steps: list[Step]) -> dict[str, dict[str, float]]:
    """The highest rate whose p95 is within each limit: by limit in ms, then by server."""
    names = list(dict.fromkeys(step.server for step in steps))
    return {
        str(limit): {
            name: max(
                (
                    step.rate
                    for step in steps
                    if step.server == name and step.percentile(95) <= limit and step.errors <= SATURATED_ERRORS
                ),
                default=0.0,
            )
            for name in names
        }
        for limit in P95_LIMITS_MS
    }


def report(steps: list[Step], rates: dict[str, dict[str, float]], console: Console) -> None:
    table = Table(title="Single sentences at a fixed rate", title_justify="left")
    table.add_column("server")
    for heading in ("rate/s", "answered/s", "p50 ms", "p95 ms", "p99 ms", "p99.9 ms", "errors"):
        table.add_column(heading, justify="right")
    for step in sorted(steps, key=lambda step: step.server):
        latencies = (f"{step.percentile(share):,.0f}" for share in (50, 95, 99, 99.9))
        answered = f"{len(step.good) / step.seconds:,.1f}"
        table.add_row(step.server, f"{step.rate:,.1f}", answered, *latencies, f"{step.errors:.1%}")
    console.print(table)
    table = Table("p95 within", *(name for name in next(iter(rates.values()))), title="Requests a second")
    for limit, by_name in rates.items():
        cells = [
            f"{rate:,.1f}" + (f" (ours {by_name[OURS] / rate:.1f}x)" if rate and name != OURS else "")
            for name, rate in by_name.items()
        ]
        table.add_row(f"{limit} ms", *cells)
    console.print(table)


def draw(steps: list[Step], path: Path) -> None:
    figure, (latency, answered) = pyplot.subplots(1, 2, figsize=(11, 4))
    for name in dict.fromkeys(step.server for step in steps):
        mine = [step for step in steps if step.server == name]
        rates = [step.rate for step in mine]
        [line] = latency.plot(rates, [step.percentile(95) for step in mine], marker="o", label=f"{name}, p95")
        latency.plot(
            rates, [step.percentile(50) for step in mine], ls=":", color=line.get_color(), label=f"{name}, p50"
        )
        answered.plot(rates, [len(step.good) / step.seconds for step in mine], marker="o", label=name)
    latency.set(xlabel="requests a second", ylabel="ms", xscale="log", yscale="log", title="Latency")
    answered.set(xlabel="requests a second", ylabel="answers a second", xscale="log", yscale="log", title="Throughput")
    for axis in (latency, answered):
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="the run that the published model was made from")
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="where it is published")
    parser.add_argument("--libretranslate", type=Path, help="the Python that LibreTranslate is installed for")
    parser.add_argument("--source", default="en")
    parser.add_argument("--target", default="de")
    parser.add_argument("--beam-size", type=int, default=4)
    parser.add_argument("--start", type=float, default=8.0, help="first rate, a second")
    parser.add_argument("--factor", type=float, default=1.3, help="from one rate to the next")
    parser.add_argument("--seconds", type=float, default=6.0, help="at one rate")
    parser.add_argument("--name", default="load", help="of the result file")
    arguments = parser.parse_args()
    console, at_start = make_console(), machine()
    test, _ = test_set(open_run(arguments.run, "cpu"), None, arguments.source, sys.maxsize)
    texts = random.Random(1).sample(test.sources, len(test.sources))
    with servers(arguments) as found:
        measured = asyncio.run(measure(arguments, found, texts))
        memory = {name: server.memory_mb() for name, server in found.items()}
    steps: list[Step] = measured["steps"]
    rates = best_rates(steps)
    report(steps, rates, console)
    console.print("same translations as ours:", measured["same_translations_as_ours"], "MB resident:", memory)
    draw(steps, RESULTS / f"{arguments.name}.png")
    path = write_result(
        arguments.name,
        {
            "question": "latency of single sentences that arrive at a fixed rate, and requests a second at equal p95",
            "machine_at_start": at_start,
            "versions": {name: version_of(name) for name in ("onnxruntime", "ctranslate2")},
            "settings": settings_of(arguments),
            "requests_per_s_by_p95_limit_ms": rates,
            "same_translations_as_ours": measured["same_translations_as_ours"],
            "resident_mb_after_the_load": memory,
            "steps": [step.record() for step in steps],
        },
    )
    console.print(f"written: {path.name}")


if __name__ == "__main__":
    main()
