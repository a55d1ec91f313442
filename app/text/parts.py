"""A document in parts that a model can read, cut at paragraphs and sentences and balanced in size."""

from collections.abc import Callable
from dataclasses import dataclass

from app.text.segmentation import split_sentences, split_to_fit

# A paragraph's end closes a part that has this share of its size.
_NEARLY_FULL = 0.7


@dataclass(frozen=True, slots=True)
class _Sentence:
    text: str
    num_tokens: int
    ends_paragraph: bool


def split_document(text: str, num_tokens: Callable[[str], int], max_tokens: int, language: str = "en") -> list[str]:
    """Parts of at most `max_tokens` by `num_tokens`, as few as that allows and of similar size; [text] if it fits.

    Every sentence is in exactly one part, in order; a single character that measures more stays as it is.
    """
    if num_tokens(text) <= max_tokens:
        return [text]
    sentences = [
        _Sentence(piece.text, num_tokens(piece.text), piece.gap.count("\n") > 1)
        for sentence in split_sentences(text, language)
        for piece in split_to_fit(sentence, num_tokens, max_tokens)
        if piece.text
    ]
    total = sum(sentence.num_tokens for sentence in sentences)
    wanted = total / -(-total // max_tokens)
    parts: list[list[_Sentence]] = [[]]
    size = 0
    for sentence in sentences:
        is_over = size + sentence.num_tokens > max_tokens
        if parts[-1] and (is_over or size >= wanted or _closes(parts[-1][-1], size, wanted)):
            parts.append([])
            size = 0
        parts[-1].append(sentence)
        size += sentence.num_tokens
    return [" ".join(sentence.text for sentence in part) for part in parts if part]


def _closes(last: _Sentence, size: int, wanted: float) -> bool:
    return last.ends_paragraph and size >= _NEARLY_FULL * wanted
