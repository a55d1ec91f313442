"""Question: what does continuous batching give 64 clients, and does a long text make short ones wait?

1. Single sentences from 64 clients at once against the same sentences one at a time: throughput and latency.
2. 200 short sentences, with and without a text of about 400 tokens that began just before: all sent at once, and
   sent at fixed times at half the throughput of (1), so that a stall is counted.
3. A server started here (no --url): seconds from process start to ready, and resident memory.

Rounds alternate. The clients run on the server's machine and take their share of its cores. Needs the real sentences:

    SEQ2SERVE_DATA=... python -m benchmarks.serving_concurrency [--url http://127.0.0.1:8000]
"""

import argparse
import asyncio
import contextlib
import gzip
import os
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.client import Load, Service, timed
from benchmarks.record import machine, make_console, write_result
from benchmarks.server import Server, Start, serve_command, started_server

HEAD_START_S = 0.05


async def measure_concurrency(service: Service, sentences: list[list[str]], num_clients: int) -> tuple[Load, Load]:
    """-> one at a time, and many at once; the same sentences a round, in alternating order."""
    single, many = Load(), Load()
    for number, texts in enumerate(sentences):
        for load, clients in ((single, 1), (many, num_clients))[:: 1 if number % 2 else -1]:
            await timed(load, service.in_loops(texts, clients))
    return single, many


async def measure_mixture(
    service: Service, sentences: list[list[str]], long_texts: list[str], per_second: float
) -> tuple[Load, Load, Load]:
    """-> the short ones alone, the short ones beside a long one, and the long ones."""
    alone, beside, long = Load(), Load(), Load()

    async def with_long(texts: list[str], long_text: str) -> None:
        answering = asyncio.create_task(service.ask(long_text))
        await asyncio.sleep(HEAD_START_S)
        await timed(beside, service.at_rate(texts, per_second))
        answer = await answering
        long.add([answer], answer.seconds)

    for number, (texts, long_text) in enumerate(zip(sentences, long_texts, strict=True)):
        if number % 2:
            await timed(alone, service.at_rate(texts, per_second))
            await with_long(texts, long_text)
        else:
            await with_long(texts, long_text)
            await timed(alone, service.at_rate(texts, per_second))
    return alone, beside, long


def read_sources(source: str, target: str) -> list[str]:
    """The source sentences of tatoeba.test, en-de or de-en."""
    data = os.environ.get("SEQ2SERVE_DATA")
    if not data:
        raise SystemExit("SEQ2SERVE_DATA: not set; name the data folder that holds translation/en-de/")
    path = Path(data) / "translation" / "en-de" / "tatoeba.test.tsv.gz"
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    column = ("en", "de").index(source)
    if {source, target} != {"en", "de"}:
        raise SystemExit(f"{source}-{target}: the test sentences are English and German")
    return [line.split("\t")[column] for line in lines]


def make_long_text(sentences: Sequence[str], num_words: int) -> str:
    """One sentence of `num_words` words, so that it can not be split at the ends of sentences."""
    joined = ", ".join(sentence.rstrip(".!?").replace(".", "") for sentence in sentences)
    return " ".join(joined.replace("!", "").replace("?", "").split()[:num_words]) + "."


@contextlib.contextmanager
def find_server(arguments: argparse.Namespace) -> Iterator[Server]:
    """The server of --url, or one started here (several times, to see how long that takes)."""
    if arguments.url:
        yield Server(arguments.url)
        return
    command = serve_command()
    earlier: list[Start] = []
    for _ in range(arguments.starts - 1):
        with started_server(command, arguments.start_limit) as server:
            earlier += server.starts
    with started_server(command, arguments.start_limit) as server:
        server.starts = earlier + server.starts
        yield server


def same_share(first: Load, second: Load) -> float:
    """How many of the texts came out alike in both; each has the same texts a round."""
    pairs = [
        (a, b)
        for one, other in zip(first.texts_of_round, second.texts_of_round, strict=True)
        for a, b in zip(one, other, strict=True)
        if a and b
    ]
    return sum(a == b for a, b in pairs) / max(1, len(pairs))


async def measure(arguments: argparse.Namespace, server: Server) -> dict[str, Load]:
    sources = read_sources(arguments.source, arguments.target)
    random.Random(1).shuffle(sources)
    drawn = iter(sources * 10)

    def take(count: int) -> list[str]:
        return [next(drawn) for _ in range(count)]

    options = {"source": arguments.source, "target": arguments.target}
    if arguments.beam_size:
        options["beam_size"] = arguments.beam_size
    service = Service(server.url, options)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(service.close)
        warm_up = await service.in_loops(take(4 * arguments.clients), arguments.clients)
        if all(answer.problem for answer in warm_up):
            raise SystemExit(f"{server.url}: no translation came back, but {warm_up[0].problem}")
        rounds = range(arguments.rounds)
        sentences = [take(arguments.sentences) for _ in rounds]
        single, many = await measure_concurrency(service, sentences, arguments.clients)
        loads = {"one at a time": single, f"{arguments.clients} clients": many}
        long_texts = [make_long_text(take(100), arguments.long_words) for _ in rounds]
        per_second = arguments.rate or many.throughput / 2
        for name, rate in (("at once", float("inf")), (f"at {per_second:.0f}/s", per_second)):
            shorts = [take(arguments.short) for _ in rounds]
            alone, beside, long = await measure_mixture(service, shorts, long_texts, rate)
            loads[f"{arguments.short} short {name}, alone"] = alone
            loads[f"{arguments.short} short {name}, beside a long one"] = beside
            loads[f"the long one ({name})"] = long
    return loads


def report(loads: dict[str, Load], server: Server, figures: dict[str, object], console: Console) -> None:
    table = Table(title="POST /translate", title_justify="left")
    table.add_column("load")
    for heading in ("requests", "per s", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors"):
        table.add_column(heading, justify="right")
    for name, load in loads.items():
        latencies = [f"{value:,.0f}" for value in load.percentiles_ms()]
        problems = sum(bool(answer.problem) for answer in load.answers)
        table.add_row(name, f"{len(load.answers):,}", f"{load.throughput:,.1f}", *latencies, str(problems))
    console.print(table)
    for name, figure in figures.items():
        console.print(f"{name}: {figure}", highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a running server; without it one is started here")
    parser.add_argument("--source", default="en")
    parser.add_argument("--target", default="de")
    parser.add_argument("--beam-size", type=int, help="the server's default where not given")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--sentences", type=int, default=256, help="a round, in both loads of (1)")
    parser.add_argument("--short", type=int, default=200, help="short sentences a round of (2)")
    parser.add_argument("--long-words", type=int, default=300, help="words of the long text, about 4 tokens for 3")
    parser.add_argument("--rate", type=float, help="of the short ones sent at fixed times, a second; else half of (1)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--starts", type=int, default=3, help="starts of an own server")
    parser.add_argument("--start-limit", type=float, default=60.0, help="seconds")
    parser.add_argument("--name", default="serving_concurrency", help="of the result file")
    arguments = parser.parse_args()
    console, at_start = make_console(), machine()
    with find_server(arguments) as server:
        loads = asyncio.run(measure(arguments, server))
        client_ms = 1000 * time.process_time() / sum(len(load.answers) for load in loads.values())
        single, many = list(loads.values())[:2]
        figures = {
            "throughput ratio": round(many.throughput / single.throughput, 2),
            "same translations, alone and together": f"{same_share(single, many):.2%}",
            "processor ms a request that the clients took": round(client_ms, 2),
            "seconds to ready": [start.seconds for start in server.starts],
            "processor seconds to ready": [start.processor_s for start in server.starts],
            "resident MB when ready": [start.resident_mb for start in server.starts],
            "resident MB after the load": server.memory_mb(),
            "resident MB at the most": server.memory_mb("VmHWM"),
        }
        report(loads, server, figures, console)
    path = write_result(
        arguments.name,
        {
            "question": "throughput and latency of POST /translate for one client, for many, and beside a long text",
            "machine_at_start": at_start,
            "settings": {name: value for name, value in vars(arguments).items() if name != "url"},
            "figures": figures,
            "loads": {name: load.record() for name, load in loads.items()},
        },
    )
    console.print(f"written: {path.name}")


if __name__ == "__main__":
    main()
