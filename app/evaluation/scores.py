"""Scores of hypotheses against references, with the signature that says exactly how each was computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from app.errors import CorpusError

_NUM_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Score:
    """A corpus score from 0 to 100, and the 95 % interval that resampling the sentences gives it."""

    name: str
    value: float
    signature: str
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        interval = "" if self.low is None else f" [{self.low:.1f}, {self.high:.1f}]"
        return f"{self.name} {self.value:.1f}{interval} ({self.signature})"


def translation_scores(
    hypotheses: Sequence[str], references: Sequence[str], with_intervals: bool = True
) -> list[Score]:
    """BLEU and chrF2 of detokenized text, one reference a hypothesis.

    The intervals are sacreBLEU's bootstrap (mean +- half the central 95 % of 1,000 resamples, fixed seed); without
    them it takes half the time or less.
    Raises: CorpusError where the two are empty or of unequal length.
    Source: Papineni et al. 2002; Popovic 2015; Post 2018, arXiv:1804.08771; Koehn 2004 for the intervals.
    """
    _check_lengths(hypotheses, references)
    return [_score(metric, hypotheses, references, with_intervals) for metric in (BLEU(), CHRF())]


def _score(metric: BLEU | CHRF, hypotheses: Sequence[str], references: Sequence[str], with_intervals: bool) -> Score:
    # sacreBLEU annotates neither the result nor the interval, which it keeps in private fields.
    result: Any = metric.corpus_score(hypotheses, [references], n_bootstrap=_NUM_RESAMPLES if with_intervals else 1)
    low, high = (float(result._mean - result._ci), float(result._mean + result._ci)) if with_intervals else (None, None)
    return Score(str(result.name), float(result.score), str(metric.get_signature()), low, high)


def _check_lengths(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if not hypotheses and not references:
        raise CorpusError("nothing to score: no hypotheses and no references; give at least one pair")
    if len(hypotheses) != len(references):
        raise CorpusError(
            f"{len(hypotheses):,} hypotheses against {len(references):,} references; every hypothesis needs its own"
        )
