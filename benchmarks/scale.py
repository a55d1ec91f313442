"""Question: how do cost and memory grow with concurrency, source length, beam and the number of loaded models?

1. Clients of the service with the published model, each with one sentence under way: requests a second and latency.
2. The engine alone on one thread with the weights of --run: a source of growing length, 32 target tokens.
3. The same with growing beams, 8 sentences together.
4. Servers with one, two and four models: time to ready and memory.

    SEQ2SERVE_DATA=... python -m benchmarks.scale --run runs/translate-en-de
"""

import argparse
import asyncio
import json
import random
import resource
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from app.commands.loading import open_run
from app.decoding.interface import SearchOptions, Source
from app.decoding.running import generate
from app.engine.model import OnnxModel
from app.text.tokenizer import EOS_ID
from benchmarks.client import Load, Service, timed
from benchmarks.record import machine, make_console, settings_of, write_result
from benchmarks.server import serve_command, started_server
from benchmarks.subjects import exported, of_run, test_set

CLIENTS = (1, 4, 16, 64, 256)
SOURCE_LENGTHS = (8, 32, 128, 500)
BEAMS = (1, 2, 4, 8)
NUM_MODELS = (1, 2, 4)
TARGET, ROUNDS = 32, 7

Record = dict[str, Any]


async def concurrency(url: str, texts: list[str], options: Record) -> list[tuple[int, Load]]:
    service, measured = Service(url, options), []
    try:
        await service.in_loops(texts[:64], 16)
        for clients in CLIENTS:
            load = Load()
            await timed(load, service.in_loops(texts[: max(64, min(1024, 32 * clients))], clients))
            measured.append((clients, load))
    finally:
        await service.close()
    return measured


def median_ms(model: OnnxModel, sources: list[Source], options: SearchOptions) -> float:
    seconds = []
    for number in range(ROUNDS + 1):
        began = time.perf_counter()
        generate(model, sources, options, max_rows=len(sources) * options.beam_size, max_tokens=1 << 20)
        if number:
            seconds.append(time.perf_counter() - began)
    return round(statistics.median(seconds) * 1000, 2)


def with_lengths(model: OnnxModel) -> list[Record]:
    draw = np.random.default_rng(1)
    options = SearchOptions(max_length=TARGET, min_length=TARGET)
    records = []
    for length in (size for size in SOURCE_LENGTHS if size <= model.max_source_length):
        source = np.append(draw.integers(4, model.vocabulary_size, length - 1), EOS_ID)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        records.append({"source_tokens": length, "ms": median_ms(model, [source], options), "peak_mb": round(peak, 1)})
    return records


def with_beams(model: OnnxModel, sources: list[Source]) -> list[Record]:
    options = (SearchOptions(max_length=TARGET, min_length=TARGET, beam_size=beam) for beam in BEAMS)
    return [{"beam_size": each.beam_size, "ms": median_ms(model, sources[:8], each)} for each in options]


def with_models(store: Path, folder: Path) -> list[Record]:
    """Copies of the store's first model under other names; the files and their checksums stay the same."""
    original = next(path for path in sorted(store.iterdir()) if (path / "aliases.json").exists())
    records = []
    for number in NUM_MODELS:
        copies = folder / str(number)
        for copy in range(number):
            target = copies / f"model-{copy}"
            shutil.copytree(original, target)
            for manifest in target.glob("versions/*/manifest.json"):
                content = json.loads(manifest.read_text("utf-8"))
                manifest.write_text(json.dumps(content | {"name": target.name}), "utf-8")
        with started_server(serve_command("--store", str(copies)), 120.0) as server:
            [start] = server.starts
            record = {"models": number, "seconds_to_ready": start.seconds, "resident_mb": start.resident_mb}
        records.append(record)
    return records


def show(title: str, records: list[Record], console: Console) -> None:
    table = Table(*records[0], title=title, title_justify="left")
    for record in records:
        table.add_row(*(f"{value:,}" for value in record.values()))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run's folder with trained weights")
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    parser.add_argument("--source", default="en")
    parser.add_argument("--target", default="de")
    parser.add_argument("--name", default="scale", help="of the result file")
    arguments = parser.parse_args()
    console, at_start = make_console(), machine()
    opened = open_run(arguments.run, "cpu")
    test, sources = test_set(opened, None, arguments.source, sys.maxsize)
    texts = random.Random(1).sample(test.sources, 1024)
    found: dict[str, list[Record]] = {}
    with tempfile.TemporaryDirectory() as name:
        model = exported(of_run(arguments.run, opened, sources), "int8", Path(name) / "model")
        found["source length"] = with_lengths(model)
        found["beam"] = with_beams(model, sources)
        options = {"source": arguments.source, "target": arguments.target}
        with started_server(serve_command("--store", str(arguments.store)), 60.0) as server:
            measured = asyncio.run(concurrency(server.url, texts, options))
            memory = server.memory_mb("VmHWM")
        found["concurrency"] = [
            {
                "clients": clients,
                "requests_per_s": round(load.throughput, 1),
                **dict(zip(("p50_ms", "p95_ms"), (round(ms, 1) for ms in load.percentiles_ms()), strict=False)),
            }
            for clients, load in measured
        ]
        found["models"] = with_models(arguments.store, Path(name))
    for title, records in found.items():
        show(title, records, console)
    console.print(f"MB resident at the most, {CLIENTS[-1]} clients: {memory}")
    path = write_result(
        arguments.name,
        {
            "question": "growth of cost and memory with concurrency, source length, beam and loaded models",
            "machine_at_start": at_start,
            "settings": settings_of(arguments),
            "resident_mb_at_most_under_load": memory,
            "cases": found,
        },
    )
    console.print(f"written: {path.name}")


if __name__ == "__main__":
    main()
