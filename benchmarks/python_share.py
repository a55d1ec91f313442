"""Question: how much of a step is Python's, outside ONNX Runtime?

The default model decodes real sentences: all rows start together and leave as they end, so the figures hold what
leaving costs. Wanted: at most 0.1 / 0.15 ms a step for 32 / 256 greedy rows, 0.2 / 0.5 ms for 8 / 64 beams of four.

    SEQ2SERVE_DATA=... python -m benchmarks.python_share
"""

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from app.commands.loading import open_published
from app.decoding.interface import SearchOptions, Source
from app.decoding.running import Job, RunningBatch
from app.engine.model import OnnxModel
from app.store.registry import Registry
from benchmarks.record import machine, make_console, version_of, write_result
from benchmarks.subjects import test_set

CASES = ((32, 1, 0.1), (256, 1, 0.15), (8, 4, 0.2), (64, 4, 0.5))  # sources, beam, wanted ms


@dataclass
class Timed:
    """A session that notes how long it runs."""

    session: Any
    seconds: float = 0.0

    def run_with_iobinding(self, binding: Any) -> None:
        began = time.perf_counter()
        self.session.run_with_iobinding(binding)
        self.seconds += time.perf_counter() - began


def share(model: OnnxModel, session: Timed, sources: list[Source], beam_size: int) -> tuple[float, float]:
    """Milliseconds a step: outside ONNX Runtime, and inside it."""
    batch, num_steps, seconds = RunningBatch(model), 0, 0.0
    batch.admit([Job(n, one, SearchOptions(2 * len(one) + 20, beam_size=beam_size)) for n, one in enumerate(sources)])
    session.seconds = 0.0
    while batch.num_jobs:
        began = time.perf_counter()
        batch.step()
        seconds += time.perf_counter() - began
        num_steps += 1
    return (seconds - session.seconds) / num_steps * 1000, session.seconds / num_steps * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="translate-en-de")
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    console, at_start = make_console(), machine()
    folder, manifest = Registry(arguments.store).resolve(arguments.model)
    opened = open_published(folder, manifest, "int8", "cpu", 1)
    _, sources = test_set(opened, None, "en", max(case[0] for case in CASES))
    assert isinstance(opened.model, OnnxModel)
    session = Timed(opened.model._step._session)
    opened.model._step._session = session
    found: dict[tuple[int, int], list[tuple[float, float]]] = {case[:2]: [] for case in CASES}
    for number in range(arguments.rounds + 1):
        for num_sources, beam_size in found:
            times = share(opened.model, session, sources[:num_sources], beam_size)
            if number:
                found[num_sources, beam_size].append(times)
    table = Table("rows", "beam", "Python ms", "wanted", "ONNX Runtime ms", title="A step, medians")
    records = []
    for num_sources, beam_size, wanted in CASES:
        python, runtime = (statistics.median(column) for column in zip(*found[num_sources, beam_size], strict=True))
        cells = [f"{num_sources * beam_size}", f"{beam_size}", f"{python:.3f}", f"{wanted}", f"{runtime:.3f}"]
        table.add_row(*cells)
        records.append(
            {"sources": num_sources, "beam_size": beam_size, "python_ms": round(python, 4), "wanted_ms": wanted,
             "onnxruntime_ms": round(runtime, 4)}
        )  # fmt: skip
    console.print(table)
    path = write_result(
        "python_share",
        {
            "question": "milliseconds of a step outside and inside ONNX Runtime",
            "machine_at_start": at_start,
            "versions": {"onnxruntime": version_of("onnxruntime"), "numpy": version_of("numpy")},
            "cases": records,
        },
    )
    console.print(f"written: {path.name}")


if __name__ == "__main__":
    main()
