"""Words to segments of the size of a subtitle, cut where a sentence ends or the speaker pauses."""

from collections.abc import Sequence

from app.tasks.transcript import Word

# Two lines of 42 characters for at most seven seconds, as subtitles have them.
_MOST_CHARACTERS = 84
_LONGEST_S = 7.0
# A sentence that ends by then keeps its end: better a little long than cut before its last words.
_LONGEST_SENTENCE_S = 9.0
# Below this a sentence shares its segment with the next one.
_FEWEST_CHARACTERS = 20
_PAUSE_S = 0.6
_SENTENCE_END = tuple(".?!…。？！")
_CLAUSE_END = tuple(",;:、，；：")


def cut_segments(words: Sequence[Word]) -> list[list[Word]]:
    """All `words` in order, in segments of one or more."""
    segments: list[list[Word]] = []
    segment: list[Word] = []
    for place, word in enumerate(words):
        if segment and word.start_s - segment[-1].end_s > _PAUSE_S:
            segments.append(segment)
            segment = []
        elif segment and _is_full(segment, word) and not _ends_soon(segment, words[place:]):
            head = _clause(segment)
            segments.append(segment[:head])
            segment = segment[head:]
        segment.append(word)
        if word.text.rstrip().endswith(_SENTENCE_END) and _size(segment) >= _FEWEST_CHARACTERS:
            segments.append(segment)
            segment = []
    return [*segments, segment] if segment else segments


def _size(segment: Sequence[Word]) -> int:
    return sum(len(word.text) for word in segment)


def _is_full(segment: Sequence[Word], word: Word) -> bool:
    return _size(segment) + len(word.text) > _MOST_CHARACTERS or word.end_s - segment[0].start_s > _LONGEST_S


def _ends_soon(segment: Sequence[Word], following: Sequence[Word]) -> bool:
    """Whether the sentence that `segment` holds ends while it still may take a word."""
    size = _size(segment)
    for word in following:
        size += len(word.text)
        if size > _MOST_CHARACTERS or word.end_s - segment[0].start_s > _LONGEST_SENTENCE_S:
            return False
        if word.text.rstrip().endswith(_SENTENCE_END):
            return True
    return False


def _clause(segment: Sequence[Word]) -> int:
    """How many words to the end of the last clause, if that is in the second half; else all of them."""
    for count in range(len(segment) - 1, len(segment) // 2, -1):
        if segment[count - 1].text.rstrip().endswith(_CLAUSE_END):
            return count
    return len(segment)
