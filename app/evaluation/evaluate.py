"""Decode a held-out set with any step model, and score it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from app.decoding.interface import Hypothesis, SearchOptions, Source, StepModel
from app.decoding.running import generate
from app.evaluation.scores import Score, summary_scores, translation_scores

Task = Literal["translate", "summarize"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The best hypothesis of every source as text, in order, and the scores against the references."""

    texts: list[str]
    scores: list[Score]


def max_target_length(source_length: int) -> int:
    """How many target tokens a source of `source_length` tokens may take: room for any real translation."""
    return 2 * source_length + 16


def search_sources(
    model: StepModel,
    sources: Sequence[Source],
    search: Mapping[str, float],
    on_finished: Callable[[int], None] | None = None,
) -> list[Hypothesis]:
    """The best hypothesis of every source, in order. `on_finished` is told how many have just ended.

    `search` holds beam_size, length_penalty, and where they matter max_length (0: by the source's length), min_length
    and no_repeat_ngram: a recipe's [search].
    """
    options = [
        SearchOptions(
            max_length=min(int(search.get("max_length", 0)) or max_target_length(len(source)), model.max_target_length),
            min_length=int(search.get("min_length", 0)),
            no_repeat_ngram=int(search.get("no_repeat_ngram", 0)),
            beam_size=int(search["beam_size"]),
            length_penalty=search["length_penalty"],
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
) -> Evaluation:
    """Decode and score; sources [S] as the encoder reads them, of a translation its first reference counts."""
    hypotheses = search_sources(model, sources, search, on_finished)
    texts = [detokenize(hypothesis.ids) for hypothesis in hypotheses]
    if task == "summarize":
        return Evaluation(texts, summary_scores(texts, references))
    return Evaluation(texts, translation_scores(texts, [own[0] for own in references]))
