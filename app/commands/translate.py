"""`seq2serve translate`: the service's translation without the service, line by line and in order."""

import asyncio
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import Progress

from app.decoding.interface import Hypothesis, SearchOptions, Source
from app.decoding.running import generate
from app.engine.model import OnnxModel, load_model
from app.engine.session import Device
from app.errors import AppError, InputError
from app.store.manifest import Manifest
from app.store.registry import Registry
from app.tasks.decode import Decode
from app.tasks.translate import TranslateItem, TranslateOptions, Translator
from app.text.tokenizer import SentencePieceTokenizer

# Lines that are translated together: enough to fill a batch, few enough to see the first ones soon.
CHUNK_LINES = 64
NO_DEADLINE_S = float("inf")


def decode_with_model(model: OnnxModel) -> Decode:
    """`Decode` on this thread, for a process that serves nobody else."""

    async def decode(
        sources: Sequence[Source], options: Sequence[SearchOptions], deadline_s: float
    ) -> list[list[Hypothesis] | AppError]:
        return list(generate(model, sources, options))

    return decode


def find_model(store: Path, direction: tuple[str, str], name: str | None) -> tuple[Path, Manifest]:
    """The named model, or the first current one that knows `direction`. Raises: InputError listing what there is."""
    registry = Registry(store)
    if name is not None:
        model, _, version = name.partition("@")
        return registry.resolve(model, version or "current")
    known = []
    for entry in registry.list():
        if entry.manifest is not None and "current" in entry.aliases:
            if direction in entry.manifest.directions:
                return registry.resolve(entry.name)
            known += [f"{source}-{target}" for source, target in entry.manifest.directions]
    raise InputError(
        f"no current model in {store} translates {'-'.join(direction)}; there is {', '.join(known) or 'none'}"
    )


def translate_lines(
    text: str | None,
    file: Path | None,
    direction: tuple[str, str],
    name: str | None,
    beam_size: int | None,
    store: Path,
    device: Device,
    variant: str | None,
    num_threads: int,
) -> None:
    """Translate `text`, the lines of `file`, or standard input, and print a line for each line."""
    if text is not None and file is not None:
        raise InputError("give a text or --file, not both")
    folder, manifest = find_model(store, direction, name)
    model = load_model(folder, manifest, variant, device, num_threads)
    tokenizer = SentencePieceTokenizer(folder / manifest.tokenizer.file)
    translator = Translator(manifest, tokenizer, decode_with_model(model))
    options = TranslateOptions(beam_size=beam_size)
    if text is not None:
        _print_translations(translator, text.split("\n"), direction, options)
        return
    with file.open(encoding="utf-8", errors="replace") if file else nullcontext(sys.stdin) as lines:
        with_bar = file is not None and not sys.stdout.isatty()
        _print_translations(translator, _with_progress(lines, file) if file and with_bar else lines, direction, options)


def _with_progress(lines: TextIO, file: Path) -> Iterator[str]:
    """The lines, with a bar on standard error that moves with the bytes read."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(file.name, total=file.stat().st_size)
        for line in lines:
            bar.advance(task, len(line.encode("utf-8", "replace")))
            yield line


def _print_translations(
    translator: Translator, lines: Iterable[str], direction: tuple[str, str], options: TranslateOptions
) -> None:
    waiting = iter(lines)
    failed = 0
    number = 0
    while chunk := [line.rstrip("\n") for line in islice(waiting, CHUNK_LINES)]:
        items = [TranslateItem(line, *direction) for line in chunk]
        for result in asyncio.run(translator.translate(items, options, time.monotonic() + NO_DEADLINE_S)):
            number += 1
            if isinstance(result, AppError):
                failed += 1
                print(f"line {number}: {result}", file=sys.stderr)
                print()
            else:
                print(result.text.replace("\n", " "))
        sys.stdout.flush()
    if failed:
        raise InputError(f"{failed} of {number} lines could not be translated; their output lines are empty")
