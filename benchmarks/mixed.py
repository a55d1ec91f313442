"""Question: how much longer do short translations take while summaries run?

Single sentences arrive at a fixed rate at `seq2serve serve`; in turn nobody else is there, and --clients clients
summarize abstracts one after the other, each sending its next when it has an answer.

    SEQ2SERVE_DATA=... python -m benchmarks.mixed --rate 20 --clients 2

The clients run on the server's machine and take their share of its cores.
"""

import argparse
import asyncio
import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import numpy as np
from rich.console import Console
from rich.table import Table

from app.training.corpus import read_documents, read_lines
from benchmarks.client import Load, Service, timed
from benchmarks.record import machine, make_console, settings_of, version_of, write_result
from benchmarks.server import serve_command, started_server

ABSTRACTS = "summarization/paper_titles/test.jsonl.gz"
SENTENCES = "translation/en-de/tatoeba.test.tsv.gz"


async def summarize(url: str, documents: Iterator[str], finished: list[float]) -> None:
    """Until it is cancelled."""
    async with aiohttp.ClientSession(url) as session:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            async with session.post("/summarize", json={"text": next(documents)}) as response:
                response.raise_for_status()
                await response.read()
            finished.append(loop.time() - began)


async def measure(url: str, sentences: Iterator[str], documents: Iterator[str], arguments: argparse.Namespace) -> dict:
    alone, together, summaries = Load(), Load(), list[float]()
    service = Service(url, {"source": "en", "target": "de"})
    num_requests = int(arguments.rate * arguments.seconds)
    await service.in_loops(list(itertools.islice(sentences, 32)), 4)
    for _ in range(arguments.rounds):
        await timed(alone, service.at_rate(list(itertools.islice(sentences, num_requests)), arguments.rate))
        others = [asyncio.create_task(summarize(url, documents, summaries)) for _ in range(arguments.clients)]
        await asyncio.sleep(0.5)
        await timed(together, service.at_rate(list(itertools.islice(sentences, num_requests)), arguments.rate))
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    await service.close()
    return {"alone": alone, "together": together, "summaries": summaries}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=20.0, help="translations a second")
    parser.add_argument("--clients", type=int, default=2, help="that summarize")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SEQ2SERVE_DATA", "")))
    arguments = parser.parse_args()
    console, at_start = make_console(), machine()
    documents = [document for document, _ in read_documents(arguments.data / ABSTRACTS)]
    sentences = [line.split("\t")[0] for line in read_lines(arguments.data / SENTENCES)]
    random.Random(1).shuffle(sentences)
    with started_server(serve_command(), 60.0) as server:
        found = asyncio.run(measure(server.url, itertools.cycle(sentences), itertools.cycle(documents), arguments))
    report(found, console)
    [alone, together] = [found[name].record() for name in ("alone", "together")]
    path = write_result(
        "mixed",
        {
            "question": "p95 of short translations while summaries run, and alone",
            "machine_at_start": at_start,
            "versions": {"onnxruntime": version_of("onnxruntime")},
            "settings": settings_of(arguments),
            "p95_times": round(together["p95_ms"] / alone["p95_ms"], 2),
            "translations_alone": alone,
            "translations_while_summaries_run": together,
            "summaries": {"count": len(found["summaries"]), "median_s": round(float(np.median(found["summaries"])), 3)},
        },
    )
    console.print(f"written: {path.name}")


def report(found: dict, console: Console) -> None:
    table = Table("translations", "answered", "p50 ms", "p95 ms", "p99 ms")
    for name in ("alone", "together"):
        load: Load = found[name]
        values = load.percentiles_ms()
        table.add_row(name, str(len(load.answers)), *(f"{value:.1f}" for value in values[:3]))
    console.print(table)
    summaries = found["summaries"]
    console.print(f"{len(summaries)} summaries, median {np.median(summaries):.2f} s")


if __name__ == "__main__":
    main()
