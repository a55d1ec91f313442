"""Decode a held-out set with any step model, and score it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.decoding.interface import Hypothesis, SearchOptions, Source, StepModel
from app.decoding.running import generate
from app.evaluation.scores import Score, translation_scores


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
    beam_size: int,
    length_penalty: float,
    on_finished: Callable[[int], None] | None = None,
) -> list[Hypothesis]:
    """The best hypothesis of every source, in order. `on_finished` is told how many have just ended."""
    options = [
        SearchOptions(
            max_length=min(max_target_length(len(source)), model.max_target_length),
            beam_size=beam_size,
            length_penalty=length_penalty,
        )
        for source in sources
    ]
    return [best[0] for best in generate(model, sources, options, on_finished=on_finished)]


def evaluate_translation(
    model: StepModel,
    sources: Sequence[Source],
    references: Sequence[str],
    detokenize: Callable[[Sequence[int]], str],
    *,
    beam_size: int,
    length_penalty: float,
    on_finished: Callable[[int], None] | None = None,
) -> Evaluation:
    """Decode and score; sources [S] as the encoder reads them."""
    hypotheses = search_sources(model, sources, beam_size, length_penalty, on_finished)
    texts = [detokenize(hypothesis.ids) for hypothesis in hypotheses]
    return Evaluation(texts, translation_scores(texts, list(references)))
