"""Clients of a translation service, and what they saw."""

import asyncio
import collections
import json
import re
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import httpx
import numpy as np

LINES_A_REQUEST, CLIENTS = 32, 8


@dataclass(frozen=True)
class Answer:
    """`seconds` from when the request was due to its answer; `problem` is empty where there is a translation."""

    seconds: float
    text: str = ""
    problem: str = ""


@dataclass
class Load:
    """All answers to one kind of load, over all rounds."""

    answers: list[Answer] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    texts_of_round: list[list[str]] = field(default_factory=list)

    def add(self, answers: list[Answer], seconds: float) -> None:
        self.answers += answers
        self.seconds.append(seconds)
        self.texts_of_round.append([answer.text for answer in answers])

    @property
    def throughput(self) -> float:
        """Translations a second, over all rounds."""
        return sum(not answer.problem for answer in self.answers) / sum(self.seconds)

    def percentiles_ms(self) -> list[float]:
        """p50, p95, p99 and the longest."""
        good = [answer.seconds * 1000 for answer in self.answers if not answer.problem]
        return [float(value) for value in np.percentile(good, [50, 95, 99, 100])] if good else [float("nan")] * 4

    def record(self) -> dict[str, Any]:
        names = ("p50_ms", "p95_ms", "p99_ms", "max_ms")
        return {
            "requests": len(self.answers),
            "throughput_per_s": round(self.throughput, 2),
            **{name: round(value, 1) for name, value in zip(names, self.percentiles_ms(), strict=True)},
            "errors": dict(collections.Counter(answer.problem for answer in self.answers if answer.problem)),
            "seconds_of_rounds": [round(seconds, 3) for seconds in self.seconds],
            "latencies_ms": [round(answer.seconds * 1000, 1) for answer in self.answers],
        }


class Service:
    """Clients of the service, as many connections as requests under way; every request has the same options.

    With aiohttp, because the clients share the server's cores: httpx takes 3 ms of processor time a request.
    """

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.options = options
        # A busy server may close a connection that was idle for 5 s just when it is used again: leave it long before.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=1.0, ssl=False)
        self._session = aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(120.0))

    async def ask(self, text: str, due: float | None = None) -> Answer:
        """Translate; wait until `due` first (on the clock of `time.perf_counter`)."""
        if due is None:
            due = time.perf_counter()
        else:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        try:
            async with self._session.post("/translate", json=self.options | {"q": text}) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            return Answer(time.perf_counter() - due, problem=type(error).__name__)
        seconds = time.perf_counter() - due
        if response.status != 200:
            return Answer(seconds, problem=f"HTTP {response.status}")
        return Answer(seconds, text=json.loads(content)["translatedText"])

    async def in_loops(self, texts: Sequence[str], num_clients: int) -> list[Answer]:
        """`num_clients` clients, each of which sends its next text when it has an answer; answers in order."""
        answers: list[Answer] = [Answer(0.0)] * len(texts)
        waiting = iter(enumerate(texts))

        async def loop() -> None:
            for number, text in waiting:
                answers[number] = await self.ask(text)

        await asyncio.gather(*(loop() for _ in range(num_clients)))
        return answers

    async def at_rate(self, texts: Sequence[str], per_second: float) -> list[Answer]:
        """One text every 1 / `per_second` seconds whatever the server does; infinity: all at once."""
        start = time.perf_counter()
        asking = (self.ask(text, start + number / per_second) for number, text in enumerate(texts))
        return list(await asyncio.gather(*asking))

    async def close(self) -> None:
        await self._session.close()


async def timed(load: Load, answering: Awaitable[list[Answer]]) -> None:
    started = time.perf_counter()
    answers = await answering
    load.add(answers, time.perf_counter() - started)


def translate_lines(url: str, options: dict[str, Any], lines: Sequence[str]) -> tuple[list[str], int]:
    """The translations of `lines`, sent in lists by several clients at once, and how many target tokens they took."""
    before = _generated_tokens(url)

    async def ask() -> list[Answer]:
        client = Service(url, options)
        requests = [lines[first : first + LINES_A_REQUEST] for first in range(0, len(lines), LINES_A_REQUEST)]
        try:
            return await client.in_loops(requests, CLIENTS)
        finally:
            await client.close()

    answers = asyncio.run(ask())
    if problems := {answer.problem for answer in answers if answer.problem}:
        raise SystemExit(f"the service failed: {', '.join(problems)}")
    return [text for answer in answers for text in answer.text], _generated_tokens(url) - before


def _generated_tokens(url: str) -> int:
    metrics = httpx.get(f"{url}/metrics").text
    found = re.findall(r'^seq2serve_tokens_total\{[^}]*kind="generated"[^}]*\} (\S+)', metrics, re.MULTILINE)
    return int(sum(float(value) for value in found))
