"""Scores of hypotheses against references, with the signature that says exactly how each was computed."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import jiwer
import numpy as np
import numpy.typing as npt
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from app.errors import CorpusError
from app.text.cleaning import CleaningOptions, normalize

_NUM_RESAMPLES = 1000
_WORD = re.compile(r"\w+")
_ROUGE_VERSION = version("rouge-score")
_JIWER_VERSION = version("jiwer")
# Capitals, full stops and commas are not heard.
_AS_SPOKEN = CleaningOptions(unicode="NFKC", lower_case=True, remove_punctuation=True)


@dataclass(frozen=True, slots=True)
class Score:
    """A corpus score, 0 to 100 (an error rate may exceed that), and the 95 % interval from resampling its sentences."""

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


def transcript_scores(hypotheses: Sequence[str], references: Sequence[str], with_intervals: bool = True) -> list[Score]:
    """WER and CER: words, and characters, wrong, missing or too many for 100 of the references; lower is better.

    Both sides in lower case and without punctuation. References without a word count for what is heard in them. The
    intervals are the central 95 % of 1,000 resamples of the utterances, fixed seed.
    Raises: CorpusError where the two are empty or of unequal length, or the references hold no word.
    Source: the `jiwer` package.
    """
    _check_lengths(hypotheses, references)
    sides = ([normalize(text, _AS_SPOKEN) for text in side] for side in (hypotheses, references))
    spoken = list(zip(*sides, strict=True))
    if not any(reference for _, reference in spoken):
        raise CorpusError("the references hold no word; an error rate needs some")
    signature = f"case:lower|punctuation:no|jiwer:{_JIWER_VERSION}"
    return [
        _error_rate("WER", [_word_errors(*pair) for pair in spoken], signature, with_intervals),
        _error_rate("CER", [_character_errors(*pair) for pair in spoken], signature, with_intervals),
    ]


def _word_errors(hypothesis: str, reference: str) -> tuple[int, int]:
    """(errors, words of the reference)"""
    if not reference:
        return len(hypothesis.split()), 0
    found = jiwer.process_words(reference, hypothesis)
    return found.substitutions + found.deletions + found.insertions, len(reference.split())


def _character_errors(hypothesis: str, reference: str) -> tuple[int, int]:
    if not reference:
        return len(hypothesis), 0
    found = jiwer.process_characters(reference, hypothesis)
    return found.substitutions + found.deletions + found.insertions, len(reference)


def _error_rate(name: str, counts: list[tuple[int, int]], signature: str, with_intervals: bool) -> Score:
    values = np.array(counts, np.float64)  # [N, 2]
    errors, total = values.sum(axis=0)
    low, high = None, None
    if with_intervals:
        # The quotient of the means of a resample is that of its sums.
        random = np.random.default_rng(1)
        sums = [values[random.integers(0, len(values), len(values))].sum(axis=0) for _ in range(_NUM_RESAMPLES)]
        low, high = (float(x) for x in np.quantile([100 * one[0] / max(one[1], 1) for one in sums], [0.025, 0.975]))
    return Score(name, float(100 * errors / total), signature, low, high)


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
