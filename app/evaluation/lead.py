"""The lead baseline: what a document begins with, which a summarizer has to beat."""

from collections.abc import Sequence

from app.text.segmentation import split_sentences

# Shorter references are titles, of which the first words are the measure; longer ones sentences.
_TITLE_WORDS = 12


def lead_summaries(documents: Sequence[str], references: Sequence[Sequence[str]]) -> list[str]:
    """The first sentence of every document; where references have at most 12 words on average, as many first words as
    they have."""
    mean_words = sum(len(own[0].split()) for own in references) / max(len(references), 1)
    if mean_words <= _TITLE_WORDS:
        return [" ".join(document.split()[: max(1, round(mean_words))]) for document in documents]
    return [next((part.text for part in split_sentences(document) if part.text), "") for document in documents]
