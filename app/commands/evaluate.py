"""`seq2serve evaluate`: BLEU and chrF, ROUGE, or WER, of a model on its recipe's test sets, or on files."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from app.audio.waveform import Waveform
from app.commands.loading import OpenModel
from app.decoding.interface import Source
from app.errors import InputError
from app.evaluation.evaluate import Evaluation, evaluate
from app.evaluation.lead import lead_summaries
from app.evaluation.scores import summary_scores, summary_shape
from app.text.cleaning import normalize
from app.training.corpus import is_json_lines, read_documents, read_pairs
from app.training.recipe import ParallelText
from app.training.recordings import RecordingSet, Utterance, draw_utterances, read_recordings


@dataclass(frozen=True, slots=True)
class TestSet:
    """Texts or recordings with their references (at least one each), in one direction."""

    name: str
    direction: tuple[str, str]
    sources: list[str] | list[Waveform]
    references: list[list[str]]


def recipe_test_sets(opened: OpenModel, data: Path, only: list[str]) -> list[TestSet]:
    """The test sets of the model's recipe in every direction that it serves; `only` names some of them."""
    known = opened.recipe.data.test
    unknown = [name for name in only if name not in known]
    if unknown:
        raise InputError(f"test set {unknown[0]!r} is not in the recipe of {opened.name}; it has {', '.join(known)}")
    sets = []
    for name in only or known:
        if opened.task == "transcribe":
            sets += spoken_test_sets(name, known[name], data)
        else:
            sets += test_sets(name, known[name], opened.recipe.data.directions, data)
    return sets


def file_test_sets(opened: OpenModel, files: list[str], direction: str | None) -> list[TestSet]:
    """Test sets from files of the user's own: one TSV, or a source and a reference file; of recordings manifests."""
    if opened.task == "transcribe":
        source, _, target = (direction or "en-en").partition("-")
        return spoken_test_sets("", ParallelText(files=files, languages=(source, target or source)), Path())
    source, _, target = (direction or "").partition("-")
    if not source or not target:
        raise InputError("--file needs --direction SOURCE-TARGET, for example --direction en-de")
    text = ParallelText(files=files, languages=(source, target))
    return test_sets(", ".join(files), text, [(source, target)], Path())


def spoken_test_sets(name: str, text: ParallelText, data: Path) -> list[TestSet]:
    """The recordings of manifests, joined where the recipe says so: one test set for every collection they are of."""
    by_origin: dict[str, list[Utterance]] = {}
    for utterance in draw_utterances([RecordingSet(list(read_recordings(text, data)), text)]):
        by_origin.setdefault(utterance.origin, []).append(utterance)
    return [
        TestSet(
            ": ".join(part for part in (name, origin) if part),
            text.languages,
            [utterance.waveform() for utterance in found],
            [[utterance.target] for utterance in found],
        )
        for origin, found in sorted(by_origin.items())
    ]


def test_sets(name: str, text: ParallelText, directions: list[tuple[str, str]], data: Path) -> list[TestSet]:
    """A parallel text as test sets, one for every direction that it can test. References stay as published."""
    if is_json_lines(Path(text.files[0])):
        documents = [document for file in text.files for document in read_documents(data / file)]
        sources, references = [document for document, _ in documents], [references for _, references in documents]
        return [TestSet(name, text.languages, sources, references)] if text.languages in directions else []
    pairs = read_pairs(text, data)
    firsts, seconds = [first for first, _ in pairs], [second for _, second in pairs]
    both = {text.languages: (firsts, seconds), text.languages[::-1]: (seconds, firsts)}
    return [
        TestSet(name, direction, both[direction][0], [[reference] for reference in both[direction][1]])
        for direction in directions
        if direction in both
    ]


def evaluate_set(opened: OpenModel, test: TestSet, beam_size: int | None, console: Console) -> Evaluation:
    """Decode and score one test set, with a progress bar on a terminal."""
    sources = sources_of(opened, test)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(f"{test.name} {'-'.join(test.direction)}", total=len(sources))
        return evaluate(
            opened.task,
            opened.model,
            sources,
            test.references,
            opened.tokenizer.decode,
            search=dict(opened.search) | ({"beam_size": beam_size} if beam_size else {}),
            on_finished=lambda count: bar.advance(task, count),
            beginning=opened.beginning(test.direction[1]),
        )


def sources_of(opened: OpenModel, test: TestSet) -> list[Source]:
    """A test set as the model's encoder reads it."""
    texts = [normalize(source, opened.cleaning) for source in test.sources if isinstance(source, str)]
    if texts:
        return opened.sources(texts, test.direction[1])
    return opened.features([source for source in test.sources if not isinstance(source, str)])


def evaluate_all(
    opened: OpenModel, tests: list[TestSet], beam_size: int | None, console: Console
) -> list[dict[str, Any]]:
    """Score every test set; a table on the console, and the same as records."""
    records = []
    table = Table("test set", "direction", "sentences", "score", "value", "95 % interval", title=opened.name)
    signatures = set()
    for test in tests:
        evaluation = evaluate_set(opened, test, beam_size, console)
        for score in evaluation.scores:
            interval = f"{score.low:.1f} - {score.high:.1f}" if score.low is not None and score.high is not None else ""
            size = str(len(test.sources))
            table.add_row(test.name, "-".join(test.direction), size, score.name, f"{score.value:.2f}", interval)
            signatures.add(f"{score.name}: {score.signature}")
        records.append(
            {
                "set": test.name,
                "direction": "-".join(test.direction),
                "sentences": len(test.sources),
                "beam_size": beam_size or int(opened.search["beam_size"]),
                "model": opened.name,
                "scores": [asdict(score) for score in evaluation.scores],
            }
        )
        if opened.task == "summarize":
            documents = [source for source in test.sources if isinstance(source, str)]
            lead = summary_scores(lead_summaries(documents, test.references), test.references)
            records[-1]["lead"] = [asdict(score) for score in lead]
            for score in lead:
                name = f"{score.name} of the lead"
                table.add_row(
                    test.name, "-".join(test.direction), str(len(test.sources)), name, f"{score.value:.2f}", ""
                )
            records[-1]["shape"] = shape = summary_shape(evaluation.texts, documents, test.references)
            for measure, value in shape.items():
                table.add_row(test.name, "-".join(test.direction), str(len(test.sources)), measure, f"{value:.2f}", "")
    console.print(table)
    for signature in sorted(signatures):
        console.print(signature, highlight=False)
    return records


def write_records(records: list[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", "utf-8")
