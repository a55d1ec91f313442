"""Question: how much more does the service transcribe when clips come together than one at a time?

16 clips of about 10 s of read English are sent to the real service one after the other, and all at once, in turn.

    SEQ2SERVE_DATA=... python -m benchmarks.concurrent_clips
"""

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path

import httpx

from benchmarks.record import machine, make_console, write_result
from benchmarks.server import serve_command, started_server
from benchmarks.subjects import data_folder

MANIFEST = "speech/read_en/manifest.jsonl"
NUM_CLIPS, SHORTEST_S, LONGEST_S, ROUNDS = 16, 8.0, 13.0, 3


def clips() -> list[Path]:
    path = data_folder() / MANIFEST
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    fitting = [one for one in records if SHORTEST_S <= one["duration"] <= LONGEST_S]
    return [path.parent / one["audio"] for one in fitting[:NUM_CLIPS]]


async def seconds(url: str, files: list[bytes], *, together: bool) -> float:
    async with httpx.AsyncClient(base_url=url, timeout=300.0) as client:

        async def ask(content: bytes) -> None:
            response = await client.post("/transcribe", files={"file": ("clip.flac", content)})
            assert response.status_code == 200, response.text

        began = time.perf_counter()
        if together:
            await asyncio.gather(*(ask(content) for content in files))
        else:
            for content in files:
                await ask(content)
        return time.perf_counter() - began


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    console, at_start = make_console(), machine()
    files = [path.read_bytes() for path in clips()]
    found: dict[bool, list[float]] = {False: [], True: []}
    with started_server(serve_command(), 60.0, environment={"SEQ2SERVE_LOG_LEVEL": "warning"}) as server:
        asyncio.run(seconds(server.url, files, together=True))
        for _ in range(ROUNDS):
            for together, times in found.items():
                times.append(asyncio.run(seconds(server.url, files, together=together)))
    one, many = statistics.median(found[False]), statistics.median(found[True])
    console.print(f"one at a time {one:.2f} s, together {many:.2f} s: {one / many:.2f} times the throughput")
    content = {
        "question": "seconds for 16 clips of about 10 s, one at a time and together",
        "machine_at_start": at_start,
        "one_at_a_time_s": found[False],
        "together_s": found[True],
        "throughput_ratio": round(one / many, 3),
    }
    console.print(f"written: {write_result('concurrent_clips', content).name}")


if __name__ == "__main__":
    main()
