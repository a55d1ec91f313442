"""Scores of hypotheses against references, with the signature that says exactly how each was computed."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from app.errors import CorpusError

_NUM_RESAMPLES = 1000
_WORD = re.compile(r"\w+")
_ROUGE_VERSION = version("rouge-score")


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


def _check_lengths(hypotheses: Sequence[str], references: Sequence[object]) -> None:
    if not hypotheses and not references:
        raise CorpusError("nothing to score: no hypotheses and no references; give at least one pair")
    if len(hypotheses) != len(references):
        raise CorpusError(
            f"{len(hypotheses):,} hypotheses against {len(references):,} references; every hypothesis needs its own"
        )


def summary_scores(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], with_intervals: bool = True
) -> list[Score]:
    """ROUGE-1, ROUGE-2 and ROUGE-L: mean F1 x 100 with stemming, of each summary against its best reference.

    The intervals are the central 95 % of 1,000 resamples of the documents, fixed seed.
    Raises: CorpusError where the two are empty or of unequal length.
    Source: Lin 2004; the `rouge-score` package.
    """
    _check_lengths(hypotheses, references)
    names = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(names, use_stemmer=True)
    found = [scorer.score_multi(list(own), text) for text, own in zip(hypotheses, references, strict=True)]
    values = 100 * np.array([[one[name].fmeasure for name in names] for one in found])  # [N, 3]
    lows, highs = _bootstrap(values) if with_intervals else (None, None)
    signature = f"F1|stemmer:porter|references:best|rouge-score:{_ROUGE_VERSION}"
    return [
        Score(
            name.replace("rouge", "ROUGE-"),
            float(values[:, place].mean()),
            signature,
            None if lows is None else float(lows[place]),
            None if highs is None else float(highs[place]),
        )
        for place, name in enumerate(names)
    ]


def summary_shape(
    summaries: Sequence[str], documents: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """What ROUGE does not tell: mean `words` of the summaries and of the first references; `copied`, the share of a
    summary's words that the document has, and `copied trigrams` likewise; `repeated`, the share of its trigrams that
    occurred in it before. Words are lower case, shares are means over the documents."""
    rows = []
    for summary, document, own in zip(summaries, documents, references, strict=True):
        words, source = _WORD.findall(summary.lower()), _WORD.findall(document.lower())
        trigrams, known = _trigrams(words), set(_trigrams(source))
        rows.append(
            (
                len(words),
                len(_WORD.findall(own[0])),
                _share(word in set(source) for word in words),
                _share(trigram in known for trigram in trigrams),
                1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0,
            )
        )
    means = np.mean(np.array(rows, np.float64), axis=0)
    names = ("words", "words of the reference", "copied", "copied trigrams", "repeated")
    return dict(zip(names, (float(mean) for mean in means), strict=True))


def _trigrams(words: Sequence[str]) -> list[tuple[str, ...]]:
    return list(zip(words, words[1:], words[2:], strict=False))


def _share(hits: Iterable[bool]) -> float:
    found = list(hits)
    return sum(found) / len(found) if found else 0.0


def _bootstrap(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The 2.5 % and 97.5 % quantiles of the mean over resampled rows [N, M] -> each [M]."""
    random = np.random.default_rng(1)
    means = [values[random.integers(0, len(values), len(values))].mean(axis=0) for _ in range(_NUM_RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return low, high
