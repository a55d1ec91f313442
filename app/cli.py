"""`seq2serve`: the command line. Every verb imports its half of the package late, so that `--help` is instant."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from app.errors import AppError

app = typer.Typer(
    name="seq2serve",
    help="Train sequence-to-sequence models, export them to ONNX and serve them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Data = Annotated[Path, typer.Option(envvar="SEQ2SERVE_DATA", help="Folder that the recipe's files are relative to.")]
Store = Annotated[Path, typer.Option(envvar="SEQ2SERVE_MODEL_STORE", help="Folder of published models.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to run; auto takes CUDA where it is.")]
Reference = Annotated[str, typer.Argument(help="NAME or NAME@VERSION in the store, or a run's folder.")]
Variant = Annotated[
    str | None, typer.Option(help="int8, int8-fast, fp16 or fp32; the device's default where not given.")
]
Threads = Annotated[int, typer.Option(min=0, help="Threads of ONNX Runtime; 0: every core.")]
DEFAULT_STORE = Path("model_store")


@app.command(epilog="Example: seq2serve train recipes/translate-en-de.toml --data data --output runs/en-de")
def train(
    recipe: Annotated[Path, typer.Argument(help="TOML file, see recipes/.")],
    data: Data = Path(),
    output: Annotated[Path | None, typer.Option(help="The run's folder; runs/NAME where not given.")] = None,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    start_from: Annotated[
        Path | None, typer.Option("--from", help="Run folder, artifact folder or checkpoint to start from.")
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads of PyTorch; 0: its default.")] = 0,
    publish: Annotated[bool, typer.Option(help="Evaluate, export and publish what was trained.")] = True,
    store: Store = DEFAULT_STORE,
) -> None:
    """Train as a recipe says, then evaluate, export and publish. Nothing goes live before `promote`.

    Under torchrun the processes train one model together.
    """
    from app.commands.train import train_and_publish

    train_and_publish(recipe, data, output, device, resume, start_from, threads, store if publish else None, _console())


@app.command(epilog="Example: seq2serve evaluate translate-en-de --set tatoeba --variant int8 --data data")
def evaluate(
    model: Reference,
    data: Data = Path(),
    test_set: Annotated[
        list[str] | None, typer.Option("--set", help="Test sets of the recipe; all by default.")
    ] = None,
    files: Annotated[
        list[str] | None, typer.Option("--file", help="A TSV, or a source and a reference file; of speech a manifest.")
    ] = None,
    direction: Annotated[str | None, typer.Option(help="SOURCE-TARGET of the --file, as en-de.")] = None,
    beam_size: Annotated[int | None, typer.Option(min=1, max=64, help="The recipe's where not given.")] = None,
    variant: Variant = None,
    device: Device = "auto",
    threads: Threads = 0,
    store: Store = DEFAULT_STORE,
    output: Annotated[Path | None, typer.Option(help="Write the scores as JSON.")] = None,
) -> None:
    """BLEU and chrF, ROUGE, or WER and CER, with intervals, of a published model or of a run's best weights."""
    from app.commands.evaluate import evaluate_all, file_test_sets, recipe_test_sets, write_records
    from app.commands.loading import open_model

    opened = open_model(model, store, variant, device, threads)
    tests = file_test_sets(opened, files, direction) if files else recipe_test_sets(opened, data, test_set or [])
    records = evaluate_all(opened, tests, beam_size, _console())
    if output is not None:
        write_records(records, output)


@app.command(epilog="Example: seq2serve export runs/translate-en-de --data data")
def export(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    data: Data = Path(),
    name: Annotated[str | None, typer.Option(help="Name in the store; the recipe's where not given.")] = None,
    version: Annotated[str | None, typer.Option(help="Version; date and time where not given.")] = None,
    store: Store = DEFAULT_STORE,
    keep_fp32: Annotated[bool, typer.Option("--keep-fp32", help="Publish the fp32 graphs too.")] = False,
    keep_fast: Annotated[
        bool, typer.Option("--keep-fast", help="Publish int8-fast too: see docs/artifact.md.")
    ] = False,
    shortlist: Annotated[
        bool | None,
        typer.Option(
            help="int8-fast scores only pieces that may translate the source; by default of large vocabularies."
        ),
    ] = None,
    with_weights: Annotated[
        bool, typer.Option("--with-weights", help="Publish the weights too, so that `train --from` can start there.")
    ] = False,
) -> None:
    """Export a run's best weights to ONNX, hold them against PyTorch, and publish them in the store."""
    from app.commands.publish import Extras, publish_run

    extras = Extras(keep_fp32, keep_fast, shortlist, with_weights)
    publish_run(run, data, store, name, version, extras, _console())


@app.command("import", epilog="Example: seq2serve import openai/whisper-small --name whisper-small")
def import_(
    reference: Annotated[
        str, typer.Argument(metavar="DIR|NAME", help="Folder of a public model, or its name on the Hugging Face Hub.")
    ],
    name: Annotated[str | None, typer.Option(help="Name in the store; the folder's where not given.")] = None,
    version: Annotated[str | None, typer.Option(help="Version; date and time where not given.")] = None,
    store: Store = DEFAULT_STORE,
    keep_fp16: Annotated[bool, typer.Option("--keep-fp16", help="Publish the fp16 graphs, for CUDA, too.")] = False,
    keep_fp32: Annotated[bool, typer.Option("--keep-fp32", help="Publish the fp32 graphs too.")] = False,
    with_weights: Annotated[
        bool, typer.Option("--with-weights", help="Publish the weights too, so that `train --from` can start there.")
    ] = False,
    licence_file: Annotated[Path | None, typer.Option(help="Licence of the weights, kept beside them.")] = None,
    notes_file: Annotated[Path | None, typer.Option(help="Markdown for the model card: scores, limits.")] = None,
) -> None:
    """Read a public model (Whisper), export it to ONNX, hold it against PyTorch, and publish it in the store."""
    from app.commands.import_ import CardTexts, import_model
    from app.store.manifest import VariantName

    keep: list[VariantName] = ["int8"]
    keep += ["fp16"] if keep_fp16 else []
    keep += ["fp32"] if keep_fp32 else []
    texts = CardTexts.read(licence_file, notes_file)
    import_model(reference, store, name, version, keep, texts, with_weights, _console())


@app.command()
def models(store: Store = DEFAULT_STORE) -> None:
    """List the store: every version, which one is current, and what is wrong with those that can not be read."""
    from app.commands.store import list_models

    list_models(store, Console())


@app.command()
def verify(store: Store = DEFAULT_STORE) -> None:
    """Check the size and sha256 of every file of every version."""
    from app.commands.store import verify_models

    if not verify_models(store, Console()):
        raise typer.Exit(1)


@app.command(epilog="Example: seq2serve promote translate-en-de 20261123-2300")
def promote(name: str, version: str, store: Store = DEFAULT_STORE) -> None:
    """Make a version the current one: what the service answers with."""
    from app.store.registry import Registry

    Registry(store).promote(name, version)
    _console().print(f"{name}: current is {version}")


@app.command()
def rollback(name: str, store: Store = DEFAULT_STORE) -> None:
    """Make the version before the current one current again."""
    from app.store.registry import Registry

    version = Registry(store).rollback(name)
    _console().print(f"{name}: current is {version}")


@app.command(epilog="Settings come from SEQ2SERVE_… variables; docs/operations.md lists them.")
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 8000 by default.")] = None,
    model_store: Annotated[Path | None, typer.Option("--store", help="Folder of published models.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
) -> None:
    """Serve the models of the store over HTTP."""
    from app.api.main import serve as serve_http
    from app.settings import read_settings

    serve_http(read_settings(host=host, port=port, model_store=model_store, device=device))


@app.command(epilog="Example: echo 'Good morning.' | seq2serve translate --from en --to de")
def translate(
    source: Annotated[str, typer.Option("--from", help="Language of the text.")],
    target: Annotated[str, typer.Option("--to", help="Language to translate into.")],
    text: Annotated[
        str | None, typer.Argument(help="What to translate; standard input or --file where not given.")
    ] = None,
    file: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Text file, one text a line.")] = None,
    model: Annotated[
        str | None, typer.Option(help="NAME in the store; the one that knows both languages by default.")
    ] = None,
    beam_size: Annotated[int | None, typer.Option(min=1, max=64)] = None,
    device: Device = "auto",
    variant: Variant = None,
    threads: Threads = 0,
    store: Store = DEFAULT_STORE,
) -> None:
    """Translate a string, a file or standard input; lines come out in the order that they went in."""
    from app.commands.translate import translate_lines

    translate_lines(text, file, (source, target), model, beam_size, store, device, variant, threads)


@app.command(epilog="Example: seq2serve summarize report.txt notes/ --kind title --output summaries")
def summarize(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(exists=True, help="Text files, or folders of them; standard input where none is given."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="A document as a string, instead of files.")] = None,
    kind: Annotated[str | None, typer.Option(help="Kind of summary, as tldr or title; the model's first.")] = None,
    min_length: Annotated[int | None, typer.Option(min=1, help="Words, at least; best effort.")] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="Words, at the most.")] = None,
    beam_size: Annotated[int | None, typer.Option(min=1, max=64)] = None,
    num_summaries: Annotated[int, typer.Option(min=1, max=32, help="How many, best first.")] = 1,
    output: Annotated[Path | None, typer.Option(file_okay=False, help="Folder to write NAME.summary.txt to.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All that is known of a summary, as JSON.")] = False,
    model: Annotated[str | None, typer.Option(help="NAME in the store; the first that summarizes by default.")] = None,
    device: Device = "auto",
    variant: Variant = None,
    threads: Threads = 0,
    store: Store = DEFAULT_STORE,
) -> None:
    """Summarize a string, files, folders or standard input; long documents are read in parts, never cut."""
    from app.commands.summarize import read_inputs, summarize_inputs
    from app.tasks.summarize import SummarizeOptions

    options = SummarizeOptions(kind, beam_size, None, num_summaries, min_length, max_length)
    summarize_inputs(read_inputs(text, paths or []), options, model, store, device, variant, threads, output, as_json)


@app.command(epilog="Example: seq2serve transcribe talk.mp3 interviews/ --format srt --format txt --output transcripts")
def transcribe(
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILES...", help="Recordings, or folders of them; - is standard input.")
    ],
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="txt (where none is given), srt, vtt or json; may be given several times."),
    ] = None,
    output: Annotated[Path | None, typer.Option(file_okay=False, help="Folder to write into instead.")] = None,
    to_stdout: Annotated[bool, typer.Option("--stdout", help="Print instead of writing files.")] = False,
    language: Annotated[str | None, typer.Option(help="Code of what is spoken, as en; heard where not given.")] = None,
    task: Annotated[
        Literal["transcribe", "translate"], typer.Option(help="translate: into English, by models that can.")
    ] = "transcribe",
    word_timestamps: Annotated[
        bool, typer.Option("--word-timestamps", help="Every word's times too, in the JSON.")
    ] = False,
    prompt: Annotated[str, typer.Option(help="Text that went before: names and how they are spelled.")] = "",
    beam_size: Annotated[int | None, typer.Option(min=1, max=64)] = None,
    model: Annotated[str | None, typer.Option(help="NAME in the store; one that can do it by default.")] = None,
    device: Device = "auto",
    variant: Variant = None,
    threads: Threads = 0,
    store: Store = DEFAULT_STORE,
) -> None:
    """Transcribe recordings of any length: talk.mp3 becomes talk.txt, or subtitles, or JSON, beside it."""
    from app.commands.transcribe import Writer, transcribe_files
    from app.tasks.transcript import TranscribeOptions

    options = TranscribeOptions(language, task, beam_size, None, prompt, word_timestamps)
    writer = Writer(tuple(dict.fromkeys(formats or ["txt"])), output, to_stdout)
    transcribe_files(paths, options, writer, model, store, device, variant, threads)


@app.command()
def doctor(store: Store = DEFAULT_STORE) -> None:
    """Say what this machine and installation can do: versions, providers, devices, models."""
    from app.commands.doctor import examine

    if not examine(store, Console()):
        raise typer.Exit(1)


def _console() -> Console:
    return Console(stderr=True)


def main() -> None:
    """The `seq2serve` command: errors that a user can mend are one message and exit code 1, never a traceback."""
    logging.basicConfig(level=os.environ.get("SEQ2SERVE_LOG_LEVEL", "warning").upper(), format="%(message)s")
    try:
        app()
    except AppError as error:
        _console().print(f"[bold red]error:[/] {_escaped(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)


def _escaped(message: str) -> str:
    from rich.markup import escape

    return escape(message)


if __name__ == "__main__":
    main()
