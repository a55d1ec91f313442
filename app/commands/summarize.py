"""`seq2serve summarize`: strings, files, folders and standard input to summaries, without the service."""

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.commands.translate import decode_with_model
from app.engine.model import load_model
from app.engine.session import Device
from app.errors import AppError, InputError
from app.store.manifest import Manifest
from app.store.registry import Registry
from app.tasks.summarize import SummarizeOptions, Summarizer, Summary
from app.text.tokenizer import SentencePieceTokenizer

# Documents that are summarized together.
_CHUNK = 16


@dataclass(frozen=True, slots=True)
class Input:
    """A document and where it is from; `error` says why it could not be read."""

    name: str
    text: str
    error: str | None = None


def find_summarizer(store: Path, name: str | None) -> tuple[Path, Manifest]:
    """The named model, or the first current one that summarizes. Raises: InputError, ArtifactError."""
    registry = Registry(store)
    if name is not None:
        model, _, version = name.partition("@")
        folder, manifest = registry.resolve(model, version or "current")
        if manifest.task != "summarize":
            raise InputError(f"{model} does not summarize, it can {manifest.task}")
        return folder, manifest
    for entry in registry.list():
        if entry.manifest is not None and "current" in entry.aliases and entry.manifest.task == "summarize":
            return registry.resolve(entry.name)
    raise InputError(f"no current model in {store} summarizes; train one with recipes/summarize-en.toml and promote it")


def read_inputs(text: str | None, paths: Sequence[Path]) -> list[Input]:
    """The string, or what the paths name: of a folder every file, by name; of neither standard input."""
    if text is not None and paths:
        raise InputError("give --text or files, not both")
    if text is not None:
        return [Input("text", text)]
    if not paths:
        return [Input("standard input", sys.stdin.read())]
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return [_read(file) for file in files if not file.is_dir()]


def _read(path: Path) -> Input:
    try:
        return Input(str(path), path.read_text("utf-8"))
    except UnicodeDecodeError as error:
        return Input(str(path), "", f"not UTF-8 text, at byte {error.start}")
    except OSError as error:
        return Input(str(path), "", error.strerror or str(error))


def summarize_inputs(
    inputs: Sequence[Input],
    options: SummarizeOptions,
    model_name: str | None,
    store: Path,
    device: Device,
    variant: str | None,
    num_threads: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Summarize all; print the summaries, or write one file for each into `output`. Raises: InputError at the end
    where some failed."""
    folder, manifest = find_summarizer(store, model_name)
    model = load_model(folder, manifest, variant, device, num_threads)
    tokenizer = SentencePieceTokenizer(folder / manifest.tokenizer.file)
    summarizer = Summarizer(manifest, tokenizer, decode_with_model(model))
    summarizer.check(options)
    failed = 0
    for given, result in _with_bar(_summaries(summarizer, inputs, options), len(inputs)):
        if isinstance(result, Summary):
            _put(given, result, output, as_json, has_names=len(inputs) > 1)
        else:
            failed += 1
            print(f"{given.name}: {result}", file=sys.stderr)
    if failed:
        raise InputError(f"{failed} of {len(inputs)} documents could not be summarized")


def _summaries(
    summarizer: Summarizer, inputs: Sequence[Input], options: SummarizeOptions
) -> Iterator[tuple[Input, Summary | AppError | str]]:
    waiting = iter(inputs)
    while chunk := list(islice(waiting, _CHUNK)):
        readable = [given.text for given in chunk if given.error is None]
        results = iter(asyncio.run(summarizer.summarize(readable, options, time.monotonic() + float("inf"))))
        for given in chunk:
            yield given, given.error or next(results)


def _with_bar(
    results: Iterator[tuple[Input, Summary | AppError | str]], total: int
) -> Iterator[tuple[Input, Summary | AppError | str]]:
    console = Console(stderr=True)
    columns = (TextColumn("documents"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    is_hidden = not console.is_terminal or total < 2
    with Progress(*columns, console=console, transient=True, disable=is_hidden) as bar:
        yield from bar.track(results, total=total)


def _put(given: Input, summary: Summary, output: Path | None, as_json: bool, has_names: bool) -> None:
    for warning in summary.warnings:
        print(f"{given.name}: {warning}", file=sys.stderr)
    texts = "\n".join([summary.text, *summary.alternatives])
    content = json.dumps({"name": given.name} | asdict(summary), ensure_ascii=False) if as_json else texts
    if output is None:
        print(f"{given.name}\n{content}\n" if has_names and not as_json else content)
        return
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{Path(given.name).name}.summary.{'json' if as_json else 'txt'}").write_text(content + "\n", "utf-8")
