"""Learning from documents alone: pairs of a spoiled document and what was lost, for training before fine-tuning.

`gap-sentences` takes the sentences that say most of the rest out (Zhang 2020, PEGASUS, arXiv:1912.08777, section 3.1);
`infilling` replaces spans of words by one mask each (Lewis 2020, BART, arXiv:1910.13461, section 2.2).
"""

from collections import Counter
from typing import Literal

import numpy as np

from app.text.segmentation import split_sentences

Pair = tuple[str, str]
Objective = Literal["pairs", "gap-sentences", "infilling"]

MASK = "<mask>"
_GAP_SHARE = 0.2
_MASKED_SHARE = 0.3
_MEAN_SPAN = 3.0


def denoising_pairs(pairs: list[Pair], objective: Objective, seed: int) -> list[Pair]:
    """What is learned of `pairs`: themselves, or to restore the first text of each. Documents of fewer than three
    sentences have no gap and are left out."""
    if objective == "pairs":
        return pairs
    if objective == "infilling":
        random = np.random.default_rng(seed)
        return [infill(document, random) for document, _ in pairs]
    gaps = (gap_sentences(document) for document, _ in pairs)
    return [pair for pair in gaps if pair is not None]


def gap_sentences(document: str) -> Pair | None:
    """The document with its principal sentences masked, and these sentences; None where it has too few.

    Principal are a fifth of the sentences, at least one: those with the highest unigram F1 against the others.
    """
    sentences = [part.text for part in split_sentences(document) if part.text]
    if len(sentences) < 3:
        return None
    words = [Counter(sentence.lower().split()) for sentence in sentences]
    everything = sum(words, Counter[str]())
    scores = [_f1(own, everything - own) for own in words]
    num_gaps = max(1, round(_GAP_SHARE * len(sentences)))
    gaps = set(sorted(range(len(sentences)), key=lambda index: -scores[index])[:num_gaps])
    source = " ".join(MASK if index in gaps else sentence for index, sentence in enumerate(sentences))
    return source, " ".join(sentences[index] for index in sorted(gaps))


def infill(document: str, random: np.random.Generator) -> Pair:
    """The document with 30 % of its words masked in spans of three on average, and the document."""
    words = document.split()
    source: list[str] = []
    position = 0
    while position < len(words):
        if random.random() < _MASKED_SHARE / _MEAN_SPAN:
            source.append(MASK)
            position += int(random.poisson(_MEAN_SPAN))
        else:
            source.append(words[position])
            position += 1
    return " ".join(source), " ".join(words)


def _f1(own: Counter[str], others: Counter[str]) -> float:
    overlap = (own & others).total()
    return 2 * overlap / max(own.total() + others.total(), 1)
