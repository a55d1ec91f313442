"""Question: how many tokens a second do all cores give on real sentences of mixed length, beside CTranslate2?

1. Ours: a thread a core, each with a running batch of its own on the shared weights (as the service has them).
2. CTranslate2 int8, as many one-thread workers (inter_threads), `translate_batch` of all lines with
   `batch_type="tokens"` at several `max_batch_size`; its best counts.
3. The whole service over HTTP with the published model: lists of lines from several clients. Its tokens are those of
   its own metrics, because it cuts lines into sentences.

All decode the same lines in alternating order. BLEU of each stands beside its speed.

    SEQ2SERVE_DATA=... python -m benchmarks.throughput --run runs/translate-en-de
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import Progress
from rich.table import Table

from app.commands.loading import open_run
from app.decoding.interface import SearchOptions, Source, State
from app.decoding.running import generate
from app.engine.model import OnnxModel
from app.evaluation.scores import translation_scores
from app.store.manifest import VariantName
from benchmarks import ctranslate2_model
from benchmarks.client import translate_lines
from benchmarks.record import machine, make_console, settings_of, version_of, write_result
from benchmarks.server import serve_command, started_server
from benchmarks.subjects import exported, of_run, test_set

MAX_BATCH_SIZES = (256, 512, 1024, 2048, 4096)
# One limit for all lines: CTranslate2 takes no other.
LONGEST_TARGET = 200
MAX_ROWS, MAX_TOKENS = 128, 8192
LINES_A_REQUEST, CLIENTS = 32, 8

Targets = list[tuple[int, ...]]


@dataclass
class Contender:
    """`decode` gives texts in order and the number of target tokens, ends of sentences counted."""

    decode: Callable[[], tuple[list[str], int]]
    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Tokens a second, a round each."""
        return [tokens / seconds for tokens, seconds in zip(self.tokens, self.seconds, strict=True)]


class Counting:
    """A model that notes how much of what its encoder reads is padding."""

    def __init__(self, model: OnnxModel) -> None:
        self._model = model
        self.real = self.padded = 0

    def encode(self, sources: Sequence[Source], width: int) -> State:
        self.real += sum(len(source) for source in sources)
        self.padded += len(sources) * max(len(source) for source in sources)
        return self._model.encode(sources, width)

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)


def ours(models: list[Counting], sources: list[Source], beam_size: int) -> Targets:
    options = SearchOptions(max_length=LONGEST_TARGET, beam_size=beam_size)
    # Every thread gets as many long ones as the others.
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]))
    shares = [order[first :: len(models)] for first in range(len(models))]

    def work(model: Counting, share: list[int]) -> Targets:
        found = generate(model, [sources[index] for index in share], options, MAX_ROWS, MAX_TOKENS)  # type: ignore[arg-type]
        return [best[0].ids for best in found]

    targets: Targets = [()] * len(sources)
    with ThreadPoolExecutor(len(models)) as pool:
        for share, found in zip(shares, pool.map(work, models, shares), strict=True):
            for index, ids in zip(share, found, strict=True):
                targets[index] = ids
    return targets


def ctranslate2(folder: Path, workers: int, sources: list[Source], beam_size: int) -> Callable[[int], Targets]:
    translator = ctranslate2_model.load(folder, "int8", inter_threads=workers, intra_threads=1)
    tokens = [[ctranslate2_model.token(number) for number in source.tolist()] for source in sources]

    def decode(max_batch_size: int) -> Targets:
        results = translator.translate_batch(
            tokens,
            beam_size=beam_size,
            max_batch_size=max_batch_size,
            batch_type="tokens",
            length_penalty=1.0,
            max_decoding_length=LONGEST_TARGET,
        )
        return [tuple(int(piece) for piece in result.hypotheses[0]) for result in results]

    return decode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run's folder with trained weights")
    parser.add_argument(
        "--store", type=Path, default=Path("model_store"), help="where the service's model is published"
    )
    parser.add_argument("--set", default="newstest2013", help="a test set of the run's recipe")
    parser.add_argument("--source", default="en")
    parser.add_argument("--lines", type=int, default=2000)
    parser.add_argument("--beam-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-service", action="store_true", help="leave the whole service out")
    parser.add_argument("--name", default="throughput", help="of the result file")
    arguments = parser.parse_args()
    console, at_start = make_console(), machine()
    opened = open_run(arguments.run, "cpu")
    test, sources = test_set(opened, arguments.set, arguments.source, arguments.lines)
    subject = of_run(arguments.run, opened, sources)
    workers, beam_size = len(os.sched_getaffinity(0)), arguments.beam_size
    counting: dict[str, list[Counting]] = {}

    def as_texts(decode: Callable[[], Targets]) -> Callable[[], tuple[list[str], int]]:
        def run() -> tuple[list[str], int]:
            targets = decode()
            return [opened.tokenizer.decode(ids) for ids in targets], sum(len(ids) + 1 for ids in targets)

        return run

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        contenders: dict[str, Contender] = {}
        variants: tuple[VariantName, ...] = ("int8", "int8-fast")
        for variant in variants:
            model = exported(subject, variant, folder / "ours")
            models = [Counting(model), *(Counting(model.twin()) for _ in range(workers - 1))]
            counting[f"ours {variant}"] = models
            contenders[f"ours {variant}"] = Contender(as_texts(lambda models=models: ours(models, sources, beam_size)))  # type: ignore[misc]
        tokens = ctranslate2_model.id_tokens(subject.vocabulary_size)
        ctranslate2_model.convert(subject.model, tokens, folder / "ctranslate2")
        other = ctranslate2(folder / "ctranslate2", workers, sources, beam_size)
        for size in MAX_BATCH_SIZES:
            contenders[f"CTranslate2, {size} tokens"] = Contender(as_texts(lambda size=size: other(size)))  # type: ignore[misc]
        if not arguments.no_service:
            server = stack.enter_context(started_server(serve_command("--store", str(arguments.store)), 60.0))
            options = {"source": test.direction[0], "target": test.direction[1], "beam_size": beam_size}
            contenders["the service"] = Contender(lambda: translate_lines(server.url, options, test.sources))
        with Progress(console=console, transient=True) as progress:
            for number in progress.track(range(arguments.rounds + 1), description="rounds"):
                names = list(contenders)
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    began = time.perf_counter()
                    texts, count = contenders[name].decode()
                    seconds = time.perf_counter() - began
                    if number:  # the first warms up
                        contenders[name].seconds.append(seconds)
                        contenders[name].tokens.append(count)
                        contenders[name].texts = texts
    best = max(
        (name for name in contenders if name.startswith("CTranslate2")),
        key=lambda name: statistics.median(contenders[name].rates),
    )
    table = Table(
        title=f"{len(sources):,} lines of {test.name}, beam {beam_size}, {workers} cores", title_justify="left"
    )
    table.add_column("contender")
    for heading in ("tokens/s", "lines/s", f"times {best}", "BLEU", "padding read"):
        table.add_column(heading, justify="right")
    records = {}
    for name, contender in contenders.items():
        rate = statistics.median(contender.rates)
        times = statistics.median(a / b for a, b in zip(contender.rates, contenders[best].rates, strict=True))
        references = [each[0] for each in test.references]
        bleu = translation_scores(contender.texts, references, with_intervals=False)[0]
        padding = None
        if name in counting:
            read = sum(model.padded for model in counting[name])
            padding = 1 - sum(model.real for model in counting[name]) / read
        lines = len(sources) / statistics.median(contender.seconds)
        cells = (f"{rate:,.0f}", f"{lines:,.1f}", f"{times:.2f}", f"{bleu.value:.2f}")
        table.add_row(name, *cells, "" if padding is None else f"{padding:.1%}")
        records[name] = {
            "tokens_per_s": round(rate, 1),
            "lines_per_s": round(lines, 2),
            "times_best_ctranslate2": round(times, 3),
            "bleu": round(bleu.value, 2),
            "share_of_padding_read": padding,
            "seconds": [round(value, 3) for value in contender.seconds],
            "tokens": contender.tokens,
        }
    console.print(table)
    if "the service" in records:
        shares = zip(contenders["the service"].rates, contenders["ours int8"].rates, strict=True)
        share = statistics.median(a / b for a, b in shares)
        records["the service"]["share_of_engine"] = round(share, 3)
        console.print(f"the service gives {share:.0%} of the engine's tokens a second")
    path = write_result(
        arguments.name,
        {
            "question": "target tokens a second on all cores, real lines of mixed length",
            "machine_at_start": at_start,
            "versions": {name: version_of(name) for name in ("onnxruntime", "ctranslate2")},
            "settings": settings_of(arguments),
            "best_ctranslate2": best,
            "contenders": records,
        },
    )
    console.print(f"written: {path.name}")


if __name__ == "__main__":
    main()
