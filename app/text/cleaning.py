"""Cleaning: bring a text to the form a model was trained on, and drop the sentence pairs that teach nothing."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from rich.table import Table

DropReason = Literal[
    "too few words", "too many words", "too many characters", "length ratio", "untranslated", "duplicate"
]

_SURROGATES = re.compile("[\ud800-\udfff]")
_APOSTROPHES = "'\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}"
# Below this many words a ratio says little: "Yes." may well be "Das stimmt so.".
_RATIO_MIN_WORDS = 7
_MAX_MARKS = 30
_WORD = re.compile(r"\w+")
# Beyond are ideographs and private use: no punctuation, no combining marks.
_END_OF_SCRIPTS = 0x20000


class CleaningOptions(BaseModel):
    """What a recipe says of cleaning. Words are what white space separates, counted after normalizing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unicode: Literal["NFC", "NFKC", "none"] = Field(default="NFC", description="Unicode normalization form.")
    lower_case: bool = Field(default=False, description="Fold to lower case; the served model will do so too.")
    remove_punctuation: bool = Field(
        default=False, description="Apostrophes vanish, other punctuation becomes a space."
    )
    collapse_white_space: bool = Field(default=True, description="Single spaces between words, none at the ends.")
    min_words: int = Field(default=1, ge=1, description="Fewest words of either side.")
    max_words: int = Field(default=200, ge=1, description="Most words of either side.")
    max_characters: int = Field(default=2000, ge=1, description="Most characters of either side.")
    max_length_ratio: float = Field(
        default=3.0, ge=1.0, description="Most words of one side for each of the other; asked from 7 words on."
    )
    drop_duplicates: bool = Field(default=True, description="Keep the first of equal pairs.")
    match_case: bool = Field(
        default=False,
        description="Words of the second text take the case that they have in the first, so that titles can be copied.",
    )
    drop_untranslated: bool = Field(default=True, description="Drop pairs whose two sides are the same text.")

    @model_validator(mode="after")
    def _may_keep_something(self) -> "CleaningOptions":
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is over max_words {self.max_words}; nothing would be kept")
        return self


@dataclass(frozen=True, slots=True)
class Dropped:
    """Pairs dropped for one reason; `first_line` is where the first of them stood, from 1."""

    count: int
    first_line: int


@dataclass(frozen=True, slots=True)
class CleaningReport:
    """How many pairs were kept, and how many dropped why. Print it with a rich console for a table."""

    kept: int
    dropped: dict[DropReason, Dropped]

    @property
    def total(self) -> int:
        return self.kept + sum(dropped.count for dropped in self.dropped.values())

    def __rich__(self) -> Table:
        table = Table(title="Cleaning", title_justify="left")
        table.add_column("pairs")
        for heading in ("count", "share", "first at line"):
            table.add_column(heading, justify="right")
        table.add_row("read", f"{self.total:,}", "", "")
        for reason, dropped in sorted(self.dropped.items(), key=lambda item: -item[1].count):
            share = f"{dropped.count / self.total:.1%}"
            table.add_row(f"dropped: {reason}", f"{dropped.count:,}", share, f"{dropped.first_line:,}")
        table.add_row("kept", f"{self.kept:,}", f"{self.kept / self.total:.1%}" if self.total else "", "")
        return table


def normalize(text: str, options: CleaningOptions) -> str:
    """The form of `text` that the model sees, the same in training and in serving.

    Takes any string; a lone surrogate becomes U+FFFD, so the result can always be written as UTF-8.
    """
    if not text.isascii():
        text = _to_unicode_form(_SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text), options.unicode)
    if options.lower_case:
        text = text.lower()
    if options.remove_punctuation:
        text = text.translate(_punctuation_table())
    if options.collapse_white_space:
        text = " ".join(text.split())
    if (options.lower_case or options.remove_punctuation) and not text.isascii():
        # Both can bring letters and combining marks together that compose.
        text = _to_unicode_form(text, options.unicode)
    return text


def normalize_pair(pair: tuple[str, str], options: CleaningOptions) -> tuple[str, str]:
    """Both texts as the model is to see them."""
    first, second = normalize(pair[0], options), normalize(pair[1], options)
    return first, _matched_case(first, second) if options.match_case else second


def _matched_case(source: str, target: str) -> str:
    """`target` with every word as `source` writes it most often; a capitalized word that it lacks in lower case."""
    forms: dict[str, Counter[str]] = {}
    for word in _WORD.findall(source):
        forms.setdefault(word.lower(), Counter())[word] += 1

    def matched(match: re.Match[str]) -> str:
        word = match[0]
        if known := forms.get(word.lower()):
            return known.most_common(1)[0][0]
        return word.lower() if word.istitle() else word

    return _WORD.sub(matched, target)


def clean_pairs(
    pairs: Iterable[tuple[str, str]], options: CleaningOptions
) -> tuple[list[tuple[str, str]], CleaningReport]:
    """Normalize both sides of every pair and drop those the options rule out; the order is kept."""
    kept: list[tuple[str, str]] = []
    seen: set[tuple[str, str]] = set()
    dropped: dict[DropReason, Dropped] = {}
    for line, raw in enumerate(pairs, start=1):
        pair = normalize_pair(raw, options)
        reason = _drop_reason(*pair, options)
        if reason is None and options.drop_duplicates and pair in seen:
            reason = "duplicate"
        if reason is None:
            kept.append(pair)
            if options.drop_duplicates:
                seen.add(pair)
        else:
            before = dropped.get(reason, Dropped(0, line))
            dropped[reason] = Dropped(before.count + 1, before.first_line)
    return kept, CleaningReport(len(kept), dropped)


def _drop_reason(source: str, target: str, options: CleaningOptions) -> DropReason | None:
    shorter, longer = sorted((len(source.split()), len(target.split())))
    if shorter < options.min_words:
        return "too few words"
    if longer > options.max_words:
        return "too many words"
    if max(len(source), len(target)) > options.max_characters:
        return "too many characters"
    if longer >= _RATIO_MIN_WORDS and longer > options.max_length_ratio * shorter:
        return "length ratio"
    if options.drop_untranslated and source == target:
        return "untranslated"
    return None


def _to_unicode_form(text: str, form: Literal["NFC", "NFKC", "none"]) -> str:
    if form == "none":
        return text
    # Sorting n marks on one letter takes n ** 2 time (40,000 of them: five seconds), so runs are broken up by
    # U+034F as the Stream-Safe Text Format has it: Unicode Standard Annex 15, section 13.
    return unicodedata.normalize(form, _long_mark_runs().sub("\\g<0>\N{COMBINING GRAPHEME JOINER}", text))


@cache
def _long_mark_runs() -> re.Pattern[str]:
    marks = "".join(char for char in map(chr, range(_END_OF_SCRIPTS)) if unicodedata.combining(char))
    return re.compile(f"[{marks}]{{{_MAX_MARKS}}}(?=[{marks}])")


@cache
def _punctuation_table() -> dict[int, str]:
    codes = (code for code in range(_END_OF_SCRIPTS) if unicodedata.category(chr(code)).startswith("P"))
    return {code: "" if chr(code) in _APOSTROPHES else " " for code in codes}
