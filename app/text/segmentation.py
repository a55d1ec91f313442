"""Sentence segmentation that loses nothing: the parts and the gaps between them, joined, are the text again."""

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """One sentence, without white space around it, and the white space that follows it; either may be empty."""

    text: str
    gap: str


# A period after one of these ends no sentence; written without the last period, lower case. Words that also stand at
# the end of sentences (no, so, Max, Art) are left out: a sentence too long hurts less than one cut in two.
_ABBREVIATIONS = {
    "en": frozenset(
        """mr mrs ms dr prof st sr jr rev hon gen col capt lt sgt maj gov sen rep pres messrs mt ft vs v cf eg ie e.g
        i.e al viz approx est dept fig figs eq ch vol eds p pp jan feb mar apr jun jul aug sep sept oct nov dec
        u.s u.k u.n d.c ca""".split()  # noqa: SIM905 (a list literal would take sixty lines)
    ),
    "de": frozenset(
        """dr prof hr fr frl st dipl ing mag z.b zb u.a d.h dh o.ä u.ä i.d.r s.o s.u v.a u.u z.t u.s.w o.g e.v vgl bzw
        bspw ca evtl ggf inkl exkl mind sog abb kap bd hrsg aufl str tel mio mrd jh jhd geb gest verh jan feb mär apr
        jun jul aug sep sept okt nov dez v n chr z b d h u a i t s""".split()  # noqa: SIM905
    ),
}
_BEFORE_NUMBERS = frozenset({"no", "nos", "nr", "art", "abs", "sec"})
_ANY_ABBREVIATION = frozenset().union(*_ABBREVIATIONS.values())
_MARKS = ".!?…‼⁇⁈⁉؟।॥۔"
_WIDE_ENDS = "。｡！？"
# What ends a sentence, with the quotes and brackets that close after it; white space must follow, except after wide
# marks. A run of marks is tried from its first one only, and never again from inside: linear time on any text.
_END = re.compile(
    rf"(?<![{_MARKS}])[{_MARKS}]++[\"'”’»«›‹“‘)\]}}]*+(?=\s)|[{_WIDE_ENDS}]++[{_WIDE_ENDS}!?…”’」』）)\]\"']*+"
)
_LAST_WORD = re.compile(r"[\w.\-]*\Z")
_CLAUSE_MARKS = re.compile(r"[;:,،、，；：–—](?=\s)|[،、，；：—]")
_SPACES = re.compile(r"\s+")
# Looking further back for the word before a period finds no abbreviation.
_LONGEST_WORD = 24


def split_sentences(text: str, language: str = "en") -> list[Part]:
    """The sentences of `text` and the gaps after them; a line break always ends one, white space before the first
    sentence is the gap of an empty part. `language` (a code) says which abbreviations and ordinals to know."""
    parts: list[Part] = []
    for line in text.splitlines(keepends=True):
        start = 0
        for end in [*_sentence_ends(line, language), len(line)]:
            parts += _trimmed(line[start:end])
            start = end
    return _with_gaps_merged(parts)


def split_to_fit(part: Part, num_tokens: Callable[[str], int], max_tokens: int) -> list[Part]:
    """Cut a sentence into pieces of at most `max_tokens` by `num_tokens`: at the clause mark nearest to the middle,
    else at a space, else between two characters. A single character may measure more; it stays as it is."""
    if len(part.text) < 2 or num_tokens(part.text) <= max_tokens:
        return [part]
    cut = _best_cut(part.text)
    head, tail = part.text[:cut], part.text[cut:]
    gap = head[len(head.rstrip()) :]
    left, right = Part(head[: len(head) - len(gap)], gap), Part(tail, part.gap)
    return [*split_to_fit(left, num_tokens, max_tokens), *split_to_fit(right, num_tokens, max_tokens)]


def _sentence_ends(line: str, language: str) -> Iterator[int]:
    """Where a new sentence (or the gap before it) begins inside a line."""
    sentence_start = 0
    for match in _END.finditer(line):
        if match[0][0] in _WIDE_ENDS or _ends_sentence(line, sentence_start, match, language):
            yield match.end()
            sentence_start = match.end()


def _ends_sentence(line: str, sentence_start: int, match: re.Match[str], language: str) -> bool:
    following = _first_letter(line, match.end())
    mark = match[0].rstrip("\"'”’»«›‹“‘)]}")
    if following.islower():
        # "Wait!" he said; the meeting of approx. ten people; but: what?! no.
        return mark[-1] in "!?" and mark == match[0]
    if mark != "." or mark != match[0]:
        return True
    return not _is_abbreviated(line, sentence_start, match.start(), following, language)


def _is_abbreviated(line: str, sentence_start: int, period: int, following: str, language: str) -> bool:
    """Whether the period at this place only shortens the word, or counts the number, before it."""
    before = _LAST_WORD.search(line, max(sentence_start, period - _LONGEST_WORD), period)
    word = before[0] if before else ""
    if word.isdigit():
        is_list_item = not line[sentence_start : period - len(word)].strip()
        return is_list_item or (language == "de" and len(word) <= 2)
    if len(word) == 1 and word.isupper():
        return not (word == "I" and language == "en")
    if word.lower() in _BEFORE_NUMBERS:
        return following.isdigit()
    return word.lower() in _ABBREVIATIONS.get(language, _ANY_ABBREVIATION)


def _first_letter(line: str, start: int) -> str:
    """The first character after white space and opening quotes, "" at the end of the line."""
    for index in range(start, min(len(line), start + _LONGEST_WORD)):
        if not line[index].isspace() and line[index] not in "\"'„“‚‘«»‹›([{¿¡":
            return line[index]
    return ""


def _trimmed(piece: str) -> Iterator[Part]:
    text = piece.lstrip()
    if len(text) < len(piece):
        yield Part("", piece[: len(piece) - len(text)])
    kept = text.rstrip()
    if kept:
        yield Part(kept, text[len(kept) :])


def _with_gaps_merged(parts: list[Part]) -> list[Part]:
    merged: list[Part] = []
    gap = ""
    for part in reversed(parts):
        if part.text or part is parts[0]:
            merged.append(Part(part.text, part.gap + gap))
            gap = ""
        else:
            gap = part.gap + gap
    return merged[::-1]


def _best_cut(text: str) -> int:
    """Where to begin the second half, 0 < cut < len(text); the first never ends in a cut-off combining mark."""
    middle = len(text) // 2
    for pattern in (_CLAUSE_MARKS, _SPACES):
        quarter = len(text) // 4
        ends = [_skip_spaces(text, m.end()) for m in pattern.finditer(text, quarter, len(text) - quarter)]
        ends = [end for end in ends if 0 < end < len(text)]
        if ends:
            return min(ends, key=lambda end: abs(end - middle))
    for cut in range(middle, min(len(text), middle + _LONGEST_WORD)):
        if not unicodedata.combining(text[cut]):
            return cut
    return middle


def _skip_spaces(text: str, start: int) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    return start
