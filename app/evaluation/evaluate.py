"""Decode a held-out set with any step model, and score it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from app.decoding.interface import Hypothesis, SearchOptions, Source, StepModel
from app.decoding.running import generate
from app.evaluation.scores import Score, summary_scores, transcript_scores, translation_scores

Task = Literal["translate", "summarize", "transcribe"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The best hypothesis of every source as text, in order, and the scores against the references."""

    texts: list[str]
    scores: list[Score]


@dataclass(frozen=True, slots=True)
class Beginning:
    """Every target is made to begin with `prefix`, and goes on with none of `suppressed_first`."""

    prefix: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()


ANY_BEGINNING = Beginning()


def max_target_length(source: Source) -> int:
    """How many target tokens a source may take: room for any real translation, or for fast speech in letters."""
    return 2 * len(source) + 16 if source.ndim == 1 else len(source) // 2 + 16


def search_sources(
    model: StepModel,
    sources: Sequence[Source],
    search: Mapping[str, float],
    on_finished: Callable[[int], None] | None = None,
    beginning: Beginning = ANY_BEGINNING,
) -> list[Hypothesis]:
    """The best hypothesis of every source, in order. `on_finished` is told how many have just ended.

    `search` holds beam_size, length_penalty, and where they matter max_length (0: by the source's length), min_length
    and no_repeat_ngram: a recipe's [search].
    """
    options = [
        SearchOptions(
            max_length=min(int(search.get("max_length", 0)) or max_target_length(source), model.max_target_length),
            min_length=int(search.get("min_length", 0)),
            no_repeat_ngram=int(search.get("no_repeat_ngram", 0)),
            beam_size=int(search["beam_size"]),
            length_penalty=search["length_penalty"],
            prefix=beginning.prefix,
            suppressed_first=beginning.suppressed_first,
        )
        for source in sources
    ]
    return [best[0] for best in generate(model, sources, options, on_finished=on_finished)]


def evaluate(
    task: Task,
    model: StepModel,
    sources: Sequence[Source],
    references: Sequence[Sequence[str]],
    detokenize: Callable[[Sequence[int]], str],
    *,
    search: Mapping[str, float],
    on_finished: Callable[[int], None] | None = None,
    beginning: Beginning = ANY_BEGINNING,
) -> Evaluation:
    """Decode and score; sources as the encoder reads them; but for summaries the first reference counts."""
    hypotheses = search_sources(model, sources, search, on_finished, beginning)
    texts = [detokenize(hypothesis.ids) for hypothesis in hypotheses]
    if task == "summarize":
        return Evaluation(texts, summary_scores(texts, references))
    firsts = [own[0] for own in references]
    return Evaluation(texts, (transcript_scores if task == "transcribe" else translation_scores)(texts, firsts))
