"""What is wrong with a generated text: it loops, it only copies, it is too short. Cheap tests on words."""

import re
import zlib
from dataclasses import dataclass

_WORD = re.compile(r"\w+")
# Of the trigrams of a text, this share may have occurred in it before.
_MOST_REPEATED = 0.3
# Text of 60 words compresses to about half; a loop much further. Whisper's threshold (Radford 2022).
_MOST_COMPRESSED = 2.4
_COMPRESSED_FROM_CHARACTERS = 80
# A summary that has this share of its document's words, in their order, is a copy.
_COPY_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Fault:
    """A stable `code` and what it means here."""

    code: str
    message: str


def faults(summary: str, document: str, min_words: int | None) -> list[Fault]:
    """What a guard has to say against `summary`, which is to be of `document`."""
    found = []
    words, source = _WORD.findall(summary.lower()), _WORD.findall(document.lower())
    if not words:
        return [Fault("empty", "the summary was empty")]
    if _is_loop(summary, words):
        found.append(Fault("repetition", "the summary repeated itself"))
    if len(words) >= _COPY_SHARE * len(source) and f" {' '.join(words)} " in f" {' '.join(source)} ":
        found.append(Fault("copy", "the summary was a copy of nearly the whole text"))
    if len(words) > len(source):
        found.append(Fault("longer", "the summary was longer than its text"))
    if min_words is not None and len(summary.split()) < min_words:
        found.append(Fault("too_short", f"the summary had {len(summary.split())} of at least {min_words} words"))
    return found


def _is_loop(text: str, words: list[str]) -> bool:
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    if trigrams and 1 - len(set(trigrams)) / len(trigrams) > _MOST_REPEATED:
        return True
    data = text.encode("utf-8", "replace")
    return len(text) >= _COMPRESSED_FROM_CHARACTERS and len(data) / len(zlib.compress(data)) > _MOST_COMPRESSED
