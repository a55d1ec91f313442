"""Question: how fast is our engine beside CTranslate2 on the same weights, and do they give the same ids?

Every contender decodes the same sources at several batch sizes, greedy and with a beam of four, in alternating order
within one run; all on one thread. Two models: `marian`, random weights of the sizes of a Marian model (6+6 layers of
512, vocabulary 32,000; 24 source and 32 target tokens), and a trained one, the run in --run, on real sentences:

    SEQ2SERVE_DATA=... python -m benchmarks.decode --run runs/translate-en-de

Needs CTranslate2 (pip install ctranslate2) beside the packages of training.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from app.commands.evaluate import recipe_test_sets
from app.commands.loading import open_run
from app.decoding.interface import SearchOptions, Source
from app.decoding.running import generate
from app.engine.model import load_model
from app.export.graphs import build_graphs
from app.models.transformer import Transformer, TransformerConfig
from app.store.manifest import Manifest, Tokenizer, Variant, VariantName
from app.text.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from app.training.run import Run
from benchmarks import ctranslate2_model
from benchmarks.record import machine, make_console, version_of, write_result

MARIAN = TransformerConfig(
    width=512, num_heads=8, feed_forward_width=2048, encoder_layers=6, decoder_layers=6, norm="post", activation="swish"
)
MARIAN_VOCABULARY = 32_000
MARIAN_SOURCE, MARIAN_TARGET = 24, 32

Targets = list[tuple[int, ...]]
Decode = Callable[[Sequence[Source], int], Targets]


@dataclass(frozen=True)
class Subject:
    """A model, sources for it, and the target tokens that are decoded: (at least, at most); None: until the end."""

    name: str
    model: Transformer
    vocabulary_size: int
    sources: list[Source]
    target_length: tuple[int, int] | None

    def options(self, source: Source, beam_size: int) -> SearchOptions:
        shortest, longest = self.target_length or (0, 2 * len(source) + 20)
        return SearchOptions(max_length=longest, min_length=shortest, beam_size=beam_size)


@dataclass
class Timing:
    """Seconds a batch and the ids of one contender at one batch size and beam."""

    subject: str
    contender: str
    batch: int
    beam_size: int
    seconds: list[float] = field(default_factory=list)
    targets: Targets = field(default_factory=list)


def marian() -> Subject:
    torch.manual_seed(1)
    model = Transformer(MARIAN, MARIAN_VOCABULARY).eval()
    draw = np.random.default_rng(1)
    body = [draw.integers(4, MARIAN_VOCABULARY, MARIAN_SOURCE - 1) for _ in range(64)]
    sources: list[Source] = [np.concatenate([ids, [EOS_ID]]) for ids in body]
    return Subject("marian", model, MARIAN_VOCABULARY, sources, (MARIAN_TARGET, MARIAN_TARGET))


def trained(folder: Path) -> Subject:
    """The run's best weights and 64 sentences of its recipe's first test set."""
    opened = open_run(folder, "cpu")
    model = Run(folder).load_model()
    assert isinstance(model, Transformer), "only a Transformer can be converted to CTranslate2"
    test = next(iter(recipe_test_sets(opened, Path(os.environ["SEQ2SERVE_DATA"]), [])))
    texts = random.Random(1).sample(list(test.sources), 64)
    sources = opened.sources(texts, test.direction[1])
    return Subject(folder.name, model, opened.tokenizer.vocabulary_size, list(sources), None)


def ours(subject: Subject, variant: VariantName, folder: Path) -> Decode:
    (folder / variant).mkdir(parents=True)
    graphs = build_graphs(subject.model, variant)
    files = {name: f"{variant}/{name}.onnx" for name in ("encode", "step")}
    onnx.save(graphs.encode, folder / files["encode"])
    onnx.save(graphs.step, folder / files["step"])
    longest = subject.model.config.max_length
    manifest = Manifest(
        name=subject.name, version="1", task="translate", architecture="transformer", num_parameters=1,
        created_at=datetime.now(UTC), created_by={}, vocabulary_size=subject.vocabulary_size,
        pad_id=PAD_ID, unk_id=UNK_ID, bos_id=BOS_ID, eos_id=EOS_ID,
        max_source_length=longest, max_target_length=longest, tokenizer=Tokenizer(),
        variants={variant: Variant(encode=files["encode"], step=files["step"], state=graphs.state)}, files={},
    )  # fmt: skip
    model = load_model(folder, manifest, variant, "cpu", 1)

    def decode(sources: Sequence[Source], beam_size: int) -> Targets:
        options = [subject.options(source, beam_size) for source in sources]
        results = generate(model, sources, options, max_rows=len(sources) * beam_size, max_tokens=1 << 20)
        return [best[0].ids for best in results]

    return decode


def ctranslate2(subject: Subject, compute_type: str, folder: Path) -> Decode:
    if not folder.exists():
        ctranslate2_model.convert(subject.model, subject.vocabulary_size, folder)
    translator = ctranslate2_model.load(folder, compute_type, inter_threads=1, intra_threads=1)

    def decode(sources: Sequence[Source], beam_size: int) -> Targets:
        # One limit for the batch: CTranslate2 takes no other.
        limits = [subject.options(source, beam_size) for source in sources]
        results = translator.translate_batch(
            [[ctranslate2_model.token(number) for number in source.tolist()] for source in sources],
            beam_size=beam_size,
            max_batch_size=0,
            length_penalty=1.0,
            min_decoding_length=max(one.min_length for one in limits),
            max_decoding_length=max(one.max_length for one in limits),
        )
        return [tuple(int(piece) for piece in result.hypotheses[0]) for result in results]

    return decode


def contenders(subject: Subject, folder: Path) -> dict[str, Decode]:
    return {
        "ours int8": ours(subject, "int8", folder / "ours"),
        "ours fp32": ours(subject, "fp32", folder / "ours"),
        "CTranslate2 int8": ctranslate2(subject, "int8", folder / "ctranslate2"),
        "CTranslate2 fp32": ctranslate2(subject, "float32", folder / "ctranslate2"),
    }


def measure(subject: Subject, cases: list[tuple[int, int]], rounds: int, progress: Progress) -> Iterator[Timing]:
    """`cases`: batch sizes and beams. Contenders alternate, each first in turn; a round before the first warms up."""
    with tempfile.TemporaryDirectory() as name:
        decoders = contenders(subject, Path(name))
        for batch, beam_size in progress.track(cases, description=subject.name):
            timings = {each: Timing(subject.name, each, batch, beam_size) for each in decoders}
            for number in range(rounds + 1):
                start = (number * batch) % len(subject.sources)
                sources = (subject.sources + subject.sources)[start : start + batch]
                order = list(decoders)
                turn = number % len(order)
                for each in order[turn:] + order[:turn]:
                    began = time.perf_counter()
                    targets = decoders[each](sources, beam_size)
                    if number:
                        timings[each].seconds.append(time.perf_counter() - began)
                        timings[each].targets += targets
            yield from timings.values()


def agreement(one: Timing, other: Timing) -> float:
    """How many targets are the same to the last id."""
    return statistics.fmean(a == b for a, b in zip(one.targets, other.targets, strict=True))


def report(timings: list[Timing], console: Console) -> list[dict[str, Any]]:
    table = Table(title="Median ms a batch on one thread (times CTranslate2 int8)", title_justify="left")
    names = list(dict.fromkeys(timing.contender for timing in timings))
    for heading in ("model", "beam", "batch", *names, "same ids: int8", "fp32"):
        table.add_column(heading, justify="right")
    records = []
    for subject, beam_size, batch in dict.fromkeys((t.subject, t.beam_size, t.batch) for t in timings):
        here = {t.contender: t for t in timings if (t.subject, t.beam_size, t.batch) == (subject, beam_size, batch)}
        base = here["CTranslate2 int8"]
        cells = []
        record: dict[str, Any] = {"model": subject, "beam_size": beam_size, "batch": batch}
        for name, timing in here.items():
            times = statistics.median(b / a for a, b in zip(timing.seconds, base.seconds, strict=True))
            median = statistics.median(timing.seconds) * 1000
            cells.append(f"{median:,.1f} ({times:.2f}x)")
            record[name] = {
                "median_ms": round(median, 2),
                "times_ctranslate2_int8": round(times, 3),
                "seconds": [round(seconds, 5) for seconds in timing.seconds],
            }
        record["same_ids_int8"] = agreement(here["ours int8"], base)
        record["same_ids_fp32"] = agreement(here["ours fp32"], here["CTranslate2 fp32"])
        same = [f"{record[key]:.0%}" for key in ("same_ids_int8", "same_ids_fp32")]
        table.add_row(subject, str(beam_size), str(batch), *cells, *same)
        records.append(record)
    console.print(table)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run's folder with trained weights; left out where not given")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--name", default="decode", help="of the result file")
    arguments = parser.parse_args()
    console, at_start = make_console(), machine()
    subjects = [marian()] if arguments.run is None else [trained(arguments.run), marian()]
    cases = [(batch, beam_size) for beam_size in arguments.beams for batch in arguments.batches]
    timings: list[Timing] = []
    with Progress(console=console, transient=True) as progress:
        for subject in subjects:
            timings += measure(subject, cases, arguments.rounds, progress)
    records = report(timings, console)
    path = write_result(
        arguments.name,
        {
            "question": "milliseconds a batch, engine against engine on the same weights, one thread each",
            "machine_at_start": at_start,
            "versions": {name: version_of(name) for name in ("onnxruntime", "ctranslate2", "torch")},
            "cases": records,
        },
    )
    console.print(f"written: {path.name}")


if __name__ == "__main__":
    main()
