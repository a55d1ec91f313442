"""`seq2serve transcribe`: files and folders of recordings to texts, subtitles and JSON, without the service."""

import asyncio
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from app.audio.features import SAMPLE_RATE_HZ
from app.audio.waveform import Waveform, read_waveform
from app.commands.translate import NO_DEADLINE_S, decode_with_model
from app.engine.model import load_model
from app.engine.session import Device
from app.errors import AppError, InputError
from app.store.manifest import Manifest
from app.store.registry import Registry
from app.tasks.subtitles import srt, vtt
from app.tasks.transcribe import Transcriber
from app.tasks.transcript import Segment, TranscribeOptions, Transcript
from app.text.tokenizer import open_tokenizer

STDIN = Path("-")
# What a folder's files must end with to be taken for recordings.
_SUFFIXES = frozenset(
    f".{ending}"
    for ending in (
        *("aac", "aif", "aiff", "amr", "au", "caf", "flac", "m4a", "m4v", "mka", "mkv"),
        *("mov", "mp3", "mp4", "mpga", "oga", "ogg", "opus", "wav", "weba", "webm"),
    )
)
_MAX_DURATION_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Writer:
    """Where transcripts go: printed, or a file for every format beside the recording or in the folder `output`."""

    formats: tuple[str, ...]
    output: Path | None
    to_stdout: bool

    def check(self, files: Sequence[Path]) -> None:
        """Raises: InputError for an unknown format, or where two recordings would be written to the same file."""
        for form in self.formats:
            if form not in _RENDERED:
                raise InputError(f"there is no format {form!r}; there is {', '.join(_RENDERED)}")
        taken: dict[Path, Path] = {}
        for file in files:
            other = taken.setdefault(self._base(file), file)
            if other != file and not self.to_stdout:
                raise InputError(f"{other} and {file} would be written to the same files; transcribe them one by one")

    def put(self, file: Path, transcript: Transcript) -> None:
        for form in self.formats:
            content = _RENDERED[form](transcript)
            if self.to_stdout or (file == STDIN and self.output is None):
                print(content, end="", flush=True)
                continue
            path = self._base(file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f"{path.name}.{form}").write_text(content, "utf-8")

    def _base(self, file: Path) -> Path:
        name = "stdin" if file == STDIN else file.stem
        return (self.output or file.parent) / name


def find_transcriber(store: Path, name: str | None, options: TranscribeOptions) -> tuple[Path, Manifest]:
    """The named model, or the first current one that can do what is asked. Raises: InputError, ArtifactError."""
    registry = Registry(store)
    if name is not None:
        model, _, version = name.partition("@")
        folder, manifest = registry.resolve(model, version or "current")
        if manifest.speech is None:
            raise InputError(f"{model} does not transcribe, it can {manifest.task}")
        return folder, manifest
    known = []
    for entry in registry.list():
        if entry.manifest is None or entry.manifest.speech is None or "current" not in entry.aliases:
            continue
        speech = entry.manifest.speech
        if options.language in (None, *speech.languages) and options.task in ("transcribe", *speech.task_ids):
            return registry.resolve(entry.name)
        known.append(entry.name)
    asked = f"{options.task} {options.language or 'speech'}"
    raise InputError(f"no current model in {store} can {asked}; there is {', '.join(known) or 'none for speech'}")


def find_files(paths: Sequence[Path]) -> list[Path]:
    """What the paths name: of a folder every recording in it, by name. Raises: InputError where there is none."""
    files: list[Path] = []
    for path in paths:
        if path == STDIN or not path.is_dir():
            files.append(path)
            continue
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file())
        if not found:
            raise InputError(f"{path}: the folder holds no recording; name a file that has another ending by itself")
        files += found
    return list(dict.fromkeys(files))


def transcribe_files(
    paths: Sequence[Path],
    options: TranscribeOptions,
    writer: Writer,
    model_name: str | None,
    store: Path,
    device: Device,
    variant: str | None,
    num_threads: int,
) -> None:
    """Transcribe all, one after the other. Raises: InputError at the end where some failed."""
    files = find_files(paths)
    writer.check(files)
    folder, manifest = find_transcriber(store, model_name, options)
    model = load_model(folder, manifest, variant, device, num_threads)
    tokenizer = open_tokenizer(folder / manifest.tokenizer.file, manifest.tokenizer.kind)
    transcriber = Transcriber(manifest, tokenizer, decode_with_model(model))
    transcriber.check(options)
    failed = 0
    with _Bar(files) as bar:
        for file in files:
            try:
                transcript = _transcribe(transcriber, file, options, bar.start(file))
                writer.put(file, transcript)
            except (AppError, OSError) as error:
                failed += 1
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                print(f"{file}: {reason}", file=sys.stderr)
                continue
            for warning in transcript.warnings:
                print(f"{file}: {warning}", file=sys.stderr)
    if failed:
        raise InputError(f"{failed} of {len(files)} recordings could not be transcribed")


def _transcribe(
    transcriber: Transcriber, file: Path, options: TranscribeOptions, tell: Callable[[float], None]
) -> Transcript:
    """`tell` is told the share that is done."""
    waveform = _read(file)
    duration_s = len(waveform) / SAMPLE_RATE_HZ

    def tell_segment(segment: Segment) -> None:
        tell(segment.end_s / duration_s)

    [result] = asyncio.run(transcriber.transcribe([waveform], options, NO_DEADLINE_S, tell_segment))
    if isinstance(result, AppError):
        raise result
    tell(1.0)
    return result


def _read(file: Path) -> Waveform:
    source = io.BytesIO(sys.stdin.buffer.read()) if file == STDIN else file
    return read_waveform(source, _MAX_DURATION_S)


class _Bar:
    """Progress over all files, on a terminal only."""

    def __init__(self, files: Sequence[Path]) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=len(files))
        self._num_started = 0

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, file: Path) -> Callable[[float], None]:
        """Show that `file` is begun; what comes is to be told the share of it that is done."""
        before = self._num_started
        self._num_started += 1
        self._progress.update(self._task, description=file.name, completed=before)
        return lambda share: self._progress.update(self._task, completed=before + share)


_RENDERED: dict[str, Callable[[Transcript], str]] = {
    "txt": lambda transcript: transcript.text + "\n",
    "srt": lambda transcript: srt(transcript.segments),
    "vtt": lambda transcript: vtt(transcript.segments),
    "json": lambda transcript: json.dumps(asdict(transcript), ensure_ascii=False, indent=2) + "\n",
}
