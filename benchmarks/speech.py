"""Question: does our Whisper hear what faster-whisper hears with the same weights, and how fast is it beside it?

Greedy, no time stamps, no voice activity detection; one clip is one window of 30 s of samples, silence behind the
clip. (faster-whisper by itself fills up with features of 0, which are no silence: `padded_by_itself` is that.)

    SEQ2SERVE_DATA=... python -m benchmarks.speech --weights DIR --model whisper-tiny.en --store model_store [--quick]

DIR is the CTranslate2 folder that the artifact was imported from. `--parts quality words speed` chooses; parts that are
left out keep the figures of the run before. Speed alternates all contestants in one run on `--threads` threads.
"""

import argparse
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
from faster_whisper import BatchedInferencePipeline, WhisperModel, decode_audio
from rich.table import Table
from whisper_normalizer.english import EnglishTextNormalizer

from app.audio.features import SAMPLE_RATE_HZ, log_mel
from app.decoding.interface import Hypothesis, SearchOptions
from app.decoding.running import generate
from app.engine.model import OnnxModel, load_model
from app.store.manifest import Manifest
from app.store.registry import Registry
from app.tasks.transcript import Word
from app.tasks.words import find_words
from app.text.tokenizer import open_tokenizer
from benchmarks.record import RESULTS, machine, make_console, version_of, write_result

WINDOW_S, MAX_LENGTH = 30, 224
WINDOW = WINDOW_S * SAMPLE_RATE_HZ
CLOSE_S = 0.1
# What a word may be off by beside rounding to 0.02 s.
_ROUNDING_S = 1e-6
Waveform = np.ndarray


@dataclass(frozen=True, slots=True)
class Clip:
    source: str
    text: str
    waveform: Waveform


class Ours:
    """An artifact's variant; `workers` of them share its weights, each on its share of the threads."""

    def __init__(self, folder: Path, manifest: Manifest, variant: str, threads: int, workers: int = 1) -> None:
        first = load_model(folder, manifest, variant, "cpu", max(1, threads // workers))
        self.models: list[OnnxModel] = [first, *(first.twin() for _ in range(workers - 1))]
        self.tokenizer = open_tokenizer(folder / manifest.tokenizer.file, manifest.tokenizer.kind)
        speech = manifest.speech
        assert speech is not None
        self.num_mels = speech.num_mels
        language = "en" if speech.language_ids else None
        self.prefix = speech.prefix(language, "transcribe", has_timestamps=False)
        self.suppressed_first = tuple(speech.suppressed_first_ids)

    def decode(self, windows: Sequence[Waveform], batch: int = 1, needs_attention: bool = False) -> list[Hypothesis]:
        options = SearchOptions(
            MAX_LENGTH,
            prefix=self.prefix,
            suppressed_first=self.suppressed_first,
            needs_attention=needs_attention,
        )
        free = list(self.models)

        def work(part: Sequence[Waveform]) -> list[Hypothesis]:
            model = free.pop()
            features = [log_mel(window, self.num_mels, WINDOW_S * 100) for window in part]
            found = [hypotheses[0] for hypotheses in generate(model, features, options, max_tokens=10**9)]
            free.append(model)
            return found

        parts = [windows[start : start + batch] for start in range(0, len(windows), batch)]
        if len(self.models) == 1:
            return [found for part in parts for found in work(part)]
        with ThreadPoolExecutor(len(self.models)) as pool:
            return [found for part in pool.map(work, parts) for found in part]

    def text(self, hypothesis: Hypothesis) -> str:
        return self.tokenizer.decode(hypothesis.ids)

    def words(self, hypothesis: Hypothesis, num_samples: int) -> list[Word]:
        return find_words(hypothesis, len(self.prefix), self.tokenizer, "en", num_samples // 160)


GREEDY: dict[str, Any] = {
    "beam_size": 1,
    "temperature": 0.0,
    "without_timestamps": True,
    "language": "en",
    "condition_on_previous_text": False,
    "vad_filter": False,
}


def peer_segments(peer: WhisperModel, waveform: Waveform, **options: Any) -> list[Any]:
    return list(peer.transcribe(waveform, **GREEDY, max_new_tokens=MAX_LENGTH, **options)[0])


def padded(waveform: Waveform) -> Waveform:
    return np.pad(waveform[:WINDOW], (0, max(0, WINDOW - len(waveform))))


def read_clips(data: Path, every: int) -> list[Clip]:
    folder = data / "speech" / "read_en"
    records = [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()]
    return [
        Clip(record["audio"].split("/")[1], record["text"], decode_audio(str(folder / record["audio"])))
        for record in records[::every]
        if record["duration"] <= WINDOW_S
    ]


# Quality.


def word_error_rates(clips: Sequence[Clip], texts: Sequence[str]) -> dict[str, float]:
    """In percent, by source and of all, after Whisper's English normaliser."""
    normalize = EnglishTextNormalizer()
    pairs: dict[str, list[tuple[str, str]]] = {}
    for clip, text in zip(clips, texts, strict=True):
        for source in (clip.source, "all"):
            pairs.setdefault(source, []).append((normalize(clip.text), normalize(text)))
    return {
        source: round(100 * jiwer.wer([said for said, _ in of], [heard for _, heard in of]), 2)
        for source, of in pairs.items()
    }


def measure_quality(arguments: argparse.Namespace, clips: Sequence[Clip], say: Callable[[str], None]) -> dict[str, Any]:
    rates, ids = {}, {}
    windows = [clip.waveform for clip in clips]
    for variant in arguments.variants:
        ours = Ours(*arguments.artifact, variant, arguments.threads)
        found = ours.decode(windows)
        rates[f"ours {variant}"] = word_error_rates(clips, [ours.text(one) for one in found])
        ids[f"ours {variant}"] = [one.ids[len(ours.prefix) :] for one in found]
        say(f"ours {variant}: {rates[f'ours {variant}']}")
    for precision, fill in itertools.product(("float32", "int8"), ("", " padded_by_itself")):
        peer = WhisperModel(str(arguments.weights), "cpu", compute_type=precision, cpu_threads=arguments.threads)
        # More than one segment: the rest of a window was read once more. The first is what compares.
        heard = [peer_segments(peer, window if fill else padded(window)) for window in windows]
        name = f"faster-whisper {precision}{fill}"
        rates[name] = word_error_rates(clips, ["".join(segment.text for segment in found) for found in heard])
        ids[name] = [tuple(found[0].tokens) if found else () for found in heard]
        say(f"{name}: {rates[name]}")
    same = {
        name: round(float(np.mean([mine == theirs for mine, theirs in zip(ids[name], other, strict=True)])), 4)
        for name in ids
        if name.startswith("ours")
        for other in [ids["faster-whisper float32"]]
    }
    return {"num_clips": len(clips), "word_error_rate_percent": rates, "share_same_ids_as_float32": same}


# Times of words.


def measure_words(arguments: argparse.Namespace, clips: Sequence[Clip], say: Callable[[str], None]) -> dict[str, Any]:
    """Of words in texts that both agree on: both ends within 0.1 s, and each end by itself."""
    peer = WhisperModel(str(arguments.weights), "cpu", compute_type="float32", cpu_threads=arguments.threads)
    told = {}
    for variant in arguments.variants:
        ours = Ours(*arguments.artifact, variant, arguments.threads)
        found = ours.decode([clip.waveform for clip in clips], needs_attention=True)
        differences, took_ms, num_texts = [], [], 0
        for clip, hypothesis in zip(clips, found, strict=True):
            began = time.perf_counter()
            mine = ours.words(hypothesis, WINDOW)
            took_ms.append(1000 * (time.perf_counter() - began))
            # The first segment: what is behind its last word is read once more, as another.
            segments = peer_segments(peer, padded(clip.waveform), word_timestamps=True)[:1]
            theirs = [word for segment in segments for word in segment.words]
            if [word.text for word in mine] != [word.word for word in theirs]:
                continue
            num_texts += 1
            differences += [
                (one.start_s - other.start, one.end_s - other.end) for one, other in zip(mine, theirs, strict=True)
            ]
        apart = np.abs(np.array(differences)).reshape(-1, 2)
        told[variant] = {
            "num_texts": num_texts,
            "num_words": len(apart),
            "share_of_words_with_both_ends_close": round(float((apart <= CLOSE_S + _ROUNDING_S).all(axis=1).mean()), 4),
            "share_of_ends_close": round(float((apart <= CLOSE_S + _ROUNDING_S).mean()), 4),
            "median_ms_a_window": round(float(np.median(took_ms)), 2),
        }
        say(f"words, {variant}: {told[variant]}")
    return told


# Speed.


@contextmanager
def resident_size(samples: list[tuple[float, float]], every_s: float = 0.5) -> Iterator[None]:
    """Append (seconds, MB) of this process while it runs."""
    stopped, began = threading.Event(), time.perf_counter()

    def sample() -> None:
        while not stopped.wait(every_s):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            now = time.perf_counter() - began
            samples.append((round(now, 1), round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def alternate(contestants: dict[str, Callable[[], Any]], rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Seconds of every run, all in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            began = time.perf_counter()
            run()
            seconds[name].append(round(time.perf_counter() - began, 3))
            say(f"{name}: {seconds[name][-1]:.2f} s")
    medians = {name: float(np.median(runs)) for name, runs in seconds.items()}
    mine = min(median for name, median in medians.items() if name.startswith("ours"))
    theirs = min(median for name, median in medians.items() if not name.startswith("ours"))
    return {"seconds": seconds, "median_seconds": medians, "best_of_theirs_to_best_of_ours": round(theirs / mine, 3)}


def measure_speed(arguments: argparse.Namespace, clips: Sequence[Clip], say: Callable[[str], None]) -> dict[str, Any]:
    threads, variant = arguments.threads, arguments.variants[0]
    speech = np.concatenate([clip.waveform for clip in clips])
    num_samples = int(arguments.minutes * 60 * SAMPLE_RATE_HZ)
    recording = np.tile(speech, -(-num_samples // len(speech)))[:num_samples]
    windows = [recording[start : start + WINDOW] for start in range(0, num_samples, WINDOW)]
    together = Ours(*arguments.artifact, variant, threads)
    apart = Ours(*arguments.artifact, variant, threads, workers=threads)
    peers = {
        (count, workers): WhisperModel(
            str(arguments.weights), "cpu", compute_type="int8", cpu_threads=count, num_workers=workers
        )
        for count, workers in ((threads, 1), (1, threads))
    }
    peer, spread = peers[threads, 1], peers[1, threads]
    spans = [
        {"start": start / SAMPLE_RATE_HZ, "end": min(start + WINDOW, num_samples) / SAMPLE_RATE_HZ}
        for start in range(0, num_samples, WINDOW)
    ]

    def batched(model: WhisperModel) -> list[Any]:
        pipeline = BatchedInferencePipeline(model)
        options = {name: value for name, value in GREEDY.items() if name != "condition_on_previous_text"}
        return list(pipeline.transcribe(recording, **options, batch_size=arguments.batch, clip_timestamps=spans)[0])

    first = windows[0]
    for run in (
        lambda: together.decode([first]),
        lambda: apart.decode([first, first]),
        lambda: peer_segments(peer, first),
    ):
        run()
    clip = {
        f"ours {variant}": lambda: together.decode([first]),
        "faster-whisper int8": lambda: peer_segments(peer, first),
    }
    say("one window")
    measured = {"one_window": alternate(clip, arguments.rounds * 4, say)}
    resident: list[tuple[float, float]] = []

    def watched(run: Callable[[], Any]) -> Callable[[], Any]:
        def inner() -> Any:
            resident.clear()
            with resident_size(resident):
                return run()

        return inner

    long = {
        f"ours {variant}, {threads} x 1 thread, 1 window each": watched(lambda: apart.decode(windows)),
        f"ours {variant}, {threads} x 1 thread, {arguments.batch} windows each": watched(
            lambda: apart.decode(windows, arguments.batch)
        ),
        f"ours {variant}, 1 x {threads} threads, {arguments.batch} windows": lambda: together.decode(
            windows, arguments.batch
        ),
        f"faster-whisper int8, 1 x {threads} threads": lambda: peer_segments(peer, recording),
        f"faster-whisper int8, batched, 1 x {threads} threads": lambda: batched(peer),
        f"faster-whisper int8, batched, {threads} x 1 thread": lambda: batched(spread),
    }
    say(f"{arguments.minutes:g} minutes")
    measured["long"] = {"minutes": arguments.minutes, "batch": arguments.batch} | alternate(long, arguments.rounds, say)
    measured["long"]["resident_mb_of_ours_over_seconds"] = resident
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="CTranslate2 folder with the same weights")
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    parser.add_argument("--model", default="whisper-tiny.en")
    parser.add_argument("--version", default="current")
    parser.add_argument("--variants", nargs="+", default=["int8", "fp32"], help="speed is that of the first")
    parser.add_argument("--parts", nargs="+", default=["quality", "words", "speed"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="take every so many'th clip")
    parser.add_argument("--quick", action="store_true", help="every 12th clip, 4 minutes, one round")
    parser.add_argument("--name", default="speech")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.every, arguments.minutes, arguments.rounds = 12, 4, 1
    folder, manifest = Registry(arguments.store).resolve(arguments.model, arguments.version)
    arguments.artifact = (folder, manifest)
    arguments.variants = [name for name in arguments.variants if name in manifest.variants]
    console = make_console()
    clips = read_clips(Path(os.environ["SEQ2SERVE_DATA"]), arguments.every)
    path = RESULTS / f"{arguments.name}.json"
    kept = json.loads(path.read_text("utf-8")) if path.exists() else {}
    measures = {"quality": measure_quality, "words": measure_words, "speed": measure_speed}
    result: dict[str, Any] = {part: kept[part] for part in measures if part in kept}
    for part in arguments.parts:
        began = machine()
        result[part] = measures[part](arguments, clips, lambda line: console.print(line, highlight=False))
        result[part]["machine_at_start"] = began
    packages = ("onnxruntime", "faster-whisper", "ctranslate2", "whisper-normalizer")
    versions = {package: version_of(package) for package in packages}
    written = write_result(
        arguments.name, {"model": f"{manifest.name} {manifest.version}", "versions": versions} | result
    )
    if "quality" in result:
        rates = result["quality"]["word_error_rate_percent"]
        table = Table("WER, %", *next(iter(rates.values())))
        for name, by_source in rates.items():
            table.add_row(name, *(f"{rate:.2f}" for rate in by_source.values()))
        console.print(table)
    console.print(f"written: {written}")


if __name__ == "__main__":
    main()
