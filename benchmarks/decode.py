"""Question: how fast is our engine beside CTranslate2, Hugging Face and optimum on the same weights; are ids the same?

Every contender decodes the same sources at several batch sizes, greedy and with a beam of four, in alternating order
within one run; all on one thread. Two models: `marian`, random weights of the sizes of a Marian model (6+6 layers of
512, vocabulary 32,000; 24 source and 32 target tokens), and a trained one, the run in --run, on real sentences:

    SEQ2SERVE_DATA=... python -m benchmarks.decode --run runs/translate-en-de

On a GPU (make bench-gpu) all run there in float16, at other batch sizes:

    SEQ2SERVE_DATA=... python -m benchmarks.decode --run runs/translate-en-de --device cuda --batches 1 64 256

Needs CTranslate2 and Transformers (pip install ctranslate2 transformers) beside the packages of training; with
optimum-onnx installed, ONNX Runtime through optimum takes part too. Hugging Face `generate`, which both go through,
runs in float32, greedily, at 1 and 32 rows, in the first rounds only: it is slow.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from app.decoding.interface import Source
from app.decoding.running import generate
from app.engine.session import Device
from app.store.manifest import VariantName
from app.text.tokenizer import EOS_ID, PAD_ID
from benchmarks import ctranslate2_model, hugging_face, optimum_engine
from benchmarks.record import RESULTS, machine, make_console, version_of, write_result
from benchmarks.subjects import Subject, exported, marian, trained

BASE = {"cpu": "CTranslate2 int8", "cuda": "CTranslate2 fp16"}
HUGGING_FACE, OPTIMUM = "Hugging Face", "optimum"
SLOW, SLOW_ROUNDS = (HUGGING_FACE, OPTIMUM), 3

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "ctranslate2", "transformers", "optimum-onnx", "torch")
# Pairs whose ids are compared.
SAME_ARITHMETIC = (
    ("ours int8", "CTranslate2 int8"),
    ("ours int8", "ours fp32"),
    ("ours fp32", "CTranslate2 fp32"),
    ("ours fp32", HUGGING_FACE),
    ("ours fp32", OPTIMUM),
    ("ours fp16", "CTranslate2 fp16"),
)

Targets = list[tuple[int, ...]]
Decode = Callable[[Sequence[Source], int], Targets]


@dataclass
class Timing:
    """Seconds a batch and the ids of one contender at one batch size and beam."""

    subject: str
    contender: str
    batch: int
    beam_size: int
    seconds: list[float] = field(default_factory=list)
    targets: Targets = field(default_factory=list)


def ours(subject: Subject, variant: VariantName, folder: Path, device: Device = "cpu") -> Decode:
    model = exported(subject, variant, folder, device)

    def decode(sources: Sequence[Source], beam_size: int) -> Targets:
        options = [subject.options(source, beam_size) for source in sources]
        results = generate(model, sources, options, max_rows=len(sources) * beam_size, max_tokens=1 << 20)
        return [best[0].ids for best in results]

    return decode


def ctranslate2(subject: Subject, compute_type: str, folder: Path, device: Device = "cpu") -> Decode:
    if not folder.exists():
        ctranslate2_model.convert(subject.model, ctranslate2_model.id_tokens(subject.vocabulary_size), folder)
    translator = ctranslate2_model.load(folder, compute_type, inter_threads=1, intra_threads=1, device=device)

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


def hugging_face_fp(subject: Subject, device: Device) -> Decode:
    marian = hugging_face.convert(subject.model, subject.vocabulary_size).to(device)
    return generating(subject, marian.half() if device == "cuda" else marian, device)


def optimum(subject: Subject, folder: Path) -> Decode:
    marian = hugging_face.convert(subject.model, subject.vocabulary_size)
    return generating(subject, optimum_engine.open_exported(marian, folder), "cpu")


def generating(subject: Subject, marian: Any, device: Device) -> Decode:
    """Whatever decodes by Transformers' `generate`."""

    def decode(sources: Sequence[Source], beam_size: int) -> Targets:
        rows = [torch.from_numpy(source) for source in sources]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD_ID).to(device)
        limits = [subject.options(source, beam_size) for source in sources]
        span = max(one.min_length for one in limits), max(one.max_length for one in limits)
        found = hugging_face.generate(marian, padded, (padded != PAD_ID).long(), beam_size, span)
        return [tuple(ids[: ids.index(EOS_ID)] if EOS_ID in ids else ids) for ids in found.tolist()]

    return decode


def contenders(subject: Subject, folder: Path, device: Device) -> dict[str, Decode]:
    if device == "cuda":
        found = {
            "ours fp16": ours(subject, "fp16", folder / "ours", device),
            BASE[device]: ctranslate2(subject, "float16", folder / "ctranslate2", device),
        }
    else:
        found = {
            "ours int8": ours(subject, "int8", folder / "ours"),
            "ours int8-fast": ours(subject, "int8-fast", folder / "ours"),
            "ours fp32": ours(subject, "fp32", folder / "ours"),
            BASE[device]: ctranslate2(subject, "int8", folder / "ctranslate2"),
            "CTranslate2 fp32": ctranslate2(subject, "float32", folder / "ctranslate2"),
        }
    if subject.model.config.norm == "post":
        found[HUGGING_FACE] = hugging_face_fp(subject, device)
        if device == "cpu" and optimum_engine.is_installed():
            found[OPTIMUM] = optimum(subject, folder / "optimum")
    return found


def takes_part(contender: str, batch: int, beam_size: int, number: int) -> bool:
    return contender not in SLOW or (batch in (1, 32) and beam_size == 1 and number <= SLOW_ROUNDS)


def measure(
    subject: Subject, device: Device, cases: list[tuple[int, int]], rounds: int, progress: Progress
) -> Iterator[Timing]:
    """`cases`: batch sizes and beams. Contenders alternate, each first in turn; a round before the first warms up."""
    with tempfile.TemporaryDirectory() as name:
        decoders = contenders(subject, Path(name), device)
        for batch, beam_size in progress.track(cases, description=subject.name):
            timings = {each: Timing(subject.name, each, batch, beam_size) for each in decoders}
            for number in range(rounds + 1):
                start = (number * batch) % len(subject.sources)
                sources = [subject.sources[(start + row) % len(subject.sources)] for row in range(batch)]
                order = list(decoders)
                turn = number % len(order)
                for each in order[turn:] + order[:turn]:
                    if not takes_part(each, batch, beam_size, number):
                        continue
                    began = time.perf_counter()
                    targets = decoders[each](sources, beam_size)
                    if number:
                        timings[each].seconds.append(time.perf_counter() - began)
                        timings[each].targets += targets
            yield from (timing for timing in timings.values() if timing.seconds)


def agreement(one: Timing, other: Timing) -> float:
    """How many targets are the same to the last id, in the rounds that both took part in."""
    return statistics.fmean(a == b for a, b in zip(one.targets, other.targets, strict=False))


def report(timings: list[Timing], device: Device, console: Console) -> list[dict[str, Any]]:
    table = Table(title=f"Median ms a batch, one thread (times as fast as {BASE[device]})", title_justify="left")
    names = list(dict.fromkeys(timing.contender for timing in timings))
    for heading in ("model", "beam", "batch", *names, "same ids"):
        table.add_column(heading, justify="right")
    records = []
    for subject, beam_size, batch in dict.fromkeys((t.subject, t.beam_size, t.batch) for t in timings):
        here = {t.contender: t for t in timings if (t.subject, t.beam_size, t.batch) == (subject, beam_size, batch)}
        base = here[BASE[device]]
        cells = []
        record: dict[str, Any] = {"model": subject, "beam_size": beam_size, "batch": batch}
        for name in names:
            if name not in here:
                cells.append("")
                continue
            timing = here[name]
            times = statistics.median(b / a for a, b in zip(timing.seconds, base.seconds, strict=False))
            median = statistics.median(timing.seconds) * 1000
            cells.append(f"{median:,.1f} ({times:.2f}x)")
            record[name] = {
                "median_ms": round(median, 2),
                "times_base": round(times, 3),
                "seconds": [round(seconds, 5) for seconds in timing.seconds],
            }
        record["same_ids"] = {
            f"{name} and {other}": agreement(here[name], here[other])
            for name, other in SAME_ARITHMETIC
            if name in here and other in here
        }
        same = " ".join(f"{share:.0%}" for share in record["same_ids"].values())
        table.add_row(subject, str(beam_size), str(batch), *cells, same)
        records.append(record)
    console.print(table)
    return records


def draw(records: list[dict[str, Any]], device: Device, path: Path) -> None:
    """One panel a model and beam: how many times as fast as the base, over the batch size."""
    panels = list(dict.fromkeys((record["model"], record["beam_size"]) for record in records))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.6), sharey=True, squeeze=False)
    for axis, (model, beam_size) in zip(axes[0], panels, strict=True):
        here = [record for record in records if (record["model"], record["beam_size"]) == (model, beam_size)]
        for name in dict.fromkeys(name for record in here for name in record if isinstance(record[name], dict)):
            points = [(r["batch"], r[name]["times_base"]) for r in here if "times_base" in r.get(name, {})]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", label=name)
        axis.set(title=f"{model}, beam {beam_size}", xlabel="batch (sentences)", xscale="log", ylim=(0, None))
        axis.set_xticks([record["batch"] for record in here], [str(record["batch"]) for record in here])
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel(f"times as fast as {BASE[device]}")
    axes[0][-1].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run's folder with trained weights; left out where not given")
    parser.add_argument("--no-marian", action="store_true", help="leave the random weights out")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--name", default="decode", help="of the result file")
    arguments = parser.parse_args()
    console, at_start = make_console(), machine()
    subjects = [] if arguments.run is None else [trained(arguments.run)]
    subjects += [] if arguments.no_marian else [marian()]
    cases = [(batch, beam_size) for beam_size in arguments.beams for batch in arguments.batches]
    timings: list[Timing] = []
    with Progress(console=console, transient=True) as progress:
        for subject in subjects:
            timings += measure(subject, arguments.device, cases, arguments.rounds, progress)
    records = report(timings, arguments.device, console)
    draw(records, arguments.device, RESULTS / f"{arguments.name}.png")
    path = write_result(
        arguments.name,
        {
            "question": "milliseconds a batch, engine against engine on the same weights, one thread each",
            "machine_at_start": at_start,
            "versions": {name: version_of(name) for name in PACKAGES},
            "cases": records,
        },
    )
    console.print(f"written: {path.name}")


if __name__ == "__main__":
    main()
