"""Translation: texts to sentences to generations, and back to texts with every gap where it was."""

import asyncio
import heapq
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from app.decoding.interface import FinishReason, Hypothesis, Ids, SearchOptions
from app.errors import AppError, InputError
from app.store.manifest import Manifest
from app.telemetry import STAGE_DURATION_SECONDS
from app.text.cleaning import CleaningOptions, normalize
from app.text.segmentation import Part, split_sentences, split_to_fit
from app.text.tokenizer import SentencePieceTokenizer

Result = TypeVar("Result")

# Above this many characters the text work would be felt by others on the event loop; a thread takes it.
_MAX_INLINE_CHARACTERS = 4000
# Languages that put no space between sentences.
_UNSPACED = frozenset({"zh", "ja", "th", "lo", "km", "my", "bo"})
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class TranslateItem:
    """A text and its direction (language codes)."""

    text: str
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class TranslateOptions:
    """None takes the model's own. `max_length` is target tokens a sentence."""

    beam_size: int | None = None
    max_length: int | None = None
    length_penalty: float | None = None
    num_alternatives: int = 0


@dataclass(frozen=True, slots=True)
class Translation:
    """`alternatives`: other translations of the whole text, best first, each unlike the others and `text`.
    `finish_reason` is "length" where any sentence met its limit: then the translation is cut short, `is_truncated`."""

    text: str
    alternatives: tuple[str, ...] = ()
    finish_reason: FinishReason = "stop"

    @property
    def is_truncated(self) -> bool:
        return self.finish_reason == "length"


class Decode(Protocol):
    """Run all sources together; each ends with its hypotheses, best first, or with the error that it met.

    `deadline_s` is a time of `time.monotonic`. If the caller is cancelled, so are its generations.
    """

    async def __call__(
        self, sources: Sequence[Ids], options: Sequence[SearchOptions], deadline_s: float
    ) -> Sequence[list[Hypothesis] | AppError]: ...


@dataclass(frozen=True, slots=True)
class _Plan:
    """The parts of an item; `sources` has an entry for each part, None where there is nothing to translate."""

    target: str
    parts: list[Part]
    sources: list[Ids | None]


class Translator:
    """Translates with one loaded model. Free of state between calls; one event loop uses it."""

    def __init__(self, manifest: Manifest, tokenizer: SentencePieceTokenizer, decode: Decode) -> None:
        self.manifest = manifest
        self.directions = frozenset(manifest.directions)
        self._tokenizer = tokenizer
        self._decode = decode
        self._cleaning = CleaningOptions(lower_case=manifest.tokenizer.lower_case)

    async def translate(
        self, items: Sequence[TranslateItem], options: TranslateOptions, deadline_s: float
    ) -> list[Translation | AppError]:
        """A translation or an error for every item, in their order; all sentences run as one batch.

        Text without letters comes back as it is. `deadline_s` is a time of `time.monotonic`.
        """
        num_characters = sum(len(item.text) for item in items)
        with self._timed("tokenize"):
            plans = await _apart_if_long(num_characters, lambda: [self._plan(item) for item in items])
        sources = [ids for plan in plans if isinstance(plan, _Plan) for ids in plan.sources if ids is not None]
        searches = [self._search(len(ids), options) for ids in sources]
        results = await self._decode(sources, searches, deadline_s) if sources else []
        with self._timed("detokenize"):
            return await _apart_if_long(num_characters, lambda: self._assemble(plans, results, options))

    def _plan(self, item: TranslateItem) -> _Plan | AppError:
        try:
            self._check(item)
            if item.source == item.target:
                return _Plan(item.target, [Part(item.text, "")], [None])
            parts = [
                piece
                for part in split_sentences(item.text, item.source)
                for piece in split_to_fit(part, lambda text: len(self._encode(text, item)), self._max_source_length)
            ]
            return _Plan(item.target, parts, [self._source(part.text, item) for part in parts])
        except AppError as error:
            return error

    def _check(self, item: TranslateItem) -> None:
        known = sorted({language for direction in self.directions for language in direction})
        for language in (item.source, item.target):
            if language not in known:
                raise InputError(f"{language[:16]} is not supported; available: {', '.join(known)}")
        if item.source != item.target and (item.source, item.target) not in self.directions:
            available = ", ".join(f"{source}-{target}" for source, target in sorted(self.directions))
            raise InputError(
                f"{item.target} is not available as a target language from {item.source}; available: {available}"
            )
        if surrogate := _SURROGATE.search(item.text):
            raise InputError(
                f"the text holds a lone surrogate, U+{ord(surrogate[0]):04X}, at character {surrogate.start()}; "
                "send Unicode text"
            )

    @property
    def _max_source_length(self) -> int:
        return self.manifest.max_source_length

    def _source(self, text: str, item: TranslateItem) -> Ids | None:
        if not any(character.isalpha() for character in text):
            return None
        ids = self._encode(text, item)
        if len(ids) > self._max_source_length:
            raise InputError(f"a word takes {len(ids)} tokens, the model reads {self._max_source_length} at the most")
        return ids

    def _encode(self, text: str, item: TranslateItem) -> Ids:
        """Ids [S]: the token that asks for the target language, the text, the end of sentence."""
        language_id = self.manifest.tokenizer.language_ids.get(item.target)
        before = [] if language_id is None else [language_id]
        ids = self._tokenizer.encode(normalize(text, self._cleaning))
        return np.concatenate([np.array(before, np.int64), ids, np.array([self.manifest.eos_id], np.int64)])

    def _search(self, source_length: int, options: TranslateOptions) -> SearchOptions:
        defaults = self.manifest.default_search
        beam_size = options.beam_size or int(defaults.get("beam_size", 1))
        length_penalty = options.length_penalty
        if length_penalty is None:
            length_penalty = float(defaults.get("length_penalty", 1.0))
        max_length = options.max_length or 2 * source_length + 20
        return SearchOptions(
            max_length=min(max_length, self.manifest.max_target_length),
            beam_size=max(beam_size, options.num_alternatives + 1),
            num_hypotheses=options.num_alternatives + 1,
            length_penalty=length_penalty,
        )

    def _assemble(
        self,
        plans: Sequence[_Plan | AppError],
        results: Sequence[list[Hypothesis] | AppError],
        options: TranslateOptions,
    ) -> list[Translation | AppError]:
        remaining = iter(results)
        return [
            plan if isinstance(plan, AppError) else self._join(plan, remaining, options.num_alternatives)
            for plan in plans
        ]

    def _join(
        self, plan: _Plan, results: Iterator[list[Hypothesis] | AppError], num_alternatives: int
    ) -> Translation | AppError:
        own = [None if ids is None else next(results) for ids in plan.sources]
        choices: list[list[tuple[float, str]]] = []
        finish_reason: FinishReason = "stop"
        for part, result in zip(plan.parts, own, strict=True):
            if isinstance(result, AppError):
                return result
            gap = _gap(part, plan.target)
            if result is None:
                choices.append([(0.0, part.text + part.gap)])
                continue
            choices.append([(h.score, self._tokenizer.decode(h.ids) + gap) for h in result])
            if result[0].finish_reason == "length":
                finish_reason = "length"
        texts = list(dict.fromkeys(_best_joins(choices, num_alternatives + 1)))
        return Translation(texts[0], tuple(texts[1:]), finish_reason)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start_s = time.perf_counter()
        yield
        STAGE_DURATION_SECONDS.labels(self.manifest.name, stage).observe(time.perf_counter() - start_s)


async def _apart_if_long(num_characters: int, work: Callable[[], Result]) -> Result:
    if num_characters <= _MAX_INLINE_CHARACTERS:
        return work()
    return await asyncio.to_thread(work)


def _gap(part: Part, target: str) -> str:
    """White space after the translation of a part: the source's, but for languages that space sentences otherwise."""
    if target in _UNSPACED and part.gap == " ":
        return ""
    if target not in _UNSPACED and not part.gap and part.text[-1:] in "。｡！？”」』":
        return " "
    return part.gap


@dataclass(frozen=True, slots=True)
class _Chain:
    """A text that ends in `last`; chains share their beginnings, so that long texts are not copied at every part."""

    score: float
    last: str
    before: "_Chain | None"

    def text(self) -> str:
        pieces: list[str] = []
        chain: _Chain | None = self
        while chain is not None:
            pieces.append(chain.last)
            chain = chain.before
        return "".join(reversed(pieces))


def _best_joins(choices: Sequence[Sequence[tuple[float, str]]], num_texts: int) -> list[str]:
    """The texts with the highest total scores when one choice a part is joined, best first."""
    chains = [_Chain(0.0, "", None)]
    for options in choices:
        longer = [_Chain(chain.score + score, text, chain) for chain in chains for score, text in options]
        # Stable: of equal scores the earlier choices stay ahead.
        chains = heapq.nlargest(num_texts, longer, key=lambda chain: chain.score)
    return [chain.text() for chain in chains]
