"""Translation: texts to sentences to generations, and back to texts with every gap where it was."""

import functools
import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from app.decoding.interface import FinishReason, Hypothesis, Ids, SearchOptions
from app.errors import AppError, InputError
from app.store.manifest import Manifest
from app.tasks.decode import Decode
from app.tasks.stages import apart_if_long, check_unicode, timed
from app.text.cleaning import CleaningOptions, normalize
from app.text.segmentation import Part, split_sentences, split_to_fit
from app.text.tokenizer import TextTokenizer

# Sentences that are decoded together, at the most, while each is told as it is done.
_MAX_TOGETHER = 64
# Languages that put no space between sentences.
_UNSPACED = frozenset({"zh", "ja", "th", "lo", "km", "my", "bo"})


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


@dataclass(frozen=True, slots=True)
class _Plan:
    """The parts of an item; `sources` has an entry for each part, None where there is nothing to translate."""

    target: str
    parts: list[Part]
    sources: list[Ids | None]


class Translator:
    """Translates with one loaded model. Free of state between calls; one event loop uses it."""

    def __init__(self, manifest: Manifest, tokenizer: TextTokenizer, decode: Decode) -> None:
        self.manifest = manifest
        self.directions = frozenset(manifest.directions)
        self._tokenizer = tokenizer
        self._decode = decode
        self._cleaning = CleaningOptions(lower_case=manifest.tokenizer.lower_case)

    async def translate(
        self,
        items: Sequence[TranslateItem],
        options: TranslateOptions,
        deadline_s: float,
        tell: Callable[[str], None] | None = None,
    ) -> list[Translation | AppError]:
        """A translation or an error for every item, in their order; all sentences run as one batch.

        Text without letters comes back as it is. `tell`, for a single item only, is told its translation sentence by
        sentence as it becomes final; then the sentences run in growing batches.
        `deadline_s` is a time of `time.monotonic`.
        """
        num_characters = sum(len(item.text) for item in items)
        with timed(self.manifest.name, "tokenize"):
            plans = await apart_if_long(num_characters, lambda: [self._plan(item) for item in items])
        sources = [ids for plan in plans if isinstance(plan, _Plan) for ids in plan.sources if ids is not None]
        searches = [self._search(len(ids), options) for ids in sources]
        if tell is not None and isinstance(plans[0], _Plan):
            results = await self._decode_telling(plans[0], sources, searches, deadline_s, tell)
        else:
            results = list(await self._decode(sources, searches, deadline_s)) if sources else []
        with timed(self.manifest.name, "detokenize"):
            return await apart_if_long(num_characters, lambda: self._assemble(plans, results, options))

    def _plan(self, item: TranslateItem) -> _Plan | AppError:
        try:
            self._check(item)
            if item.source == item.target:
                return _Plan(item.target, [Part(item.text, "")], [None])
            encode = functools.cache(lambda text: self._encode(text, item))
            parts = [
                piece
                for part in split_sentences(item.text, item.source)
                for piece in split_to_fit(part, lambda text: len(encode(text)), self._max_source_length)
            ]
            return _Plan(item.target, parts, [self._source(part.text, encode) for part in parts])
        except AppError as error:
            return error

    async def _decode_telling(
        self,
        plan: _Plan,
        sources: Sequence[Ids],
        searches: Sequence[SearchOptions],
        deadline_s: float,
        tell: Callable[[str], None],
    ) -> list[list[Hypothesis] | AppError]:
        results: list[list[Hypothesis] | AppError] = []
        num_told, size = 0, 1
        while True:
            for text in self._texts(plan, results)[num_told:]:
                tell(text)
                num_told += 1
            if len(results) == len(sources):
                return results
            chunk = slice(len(results), len(results) + size)
            results += await self._decode(sources[chunk], searches[chunk], deadline_s)
            size = min(2 * size, _MAX_TOGETHER)

    def _texts(self, plan: _Plan, results: Sequence[list[Hypothesis] | AppError]) -> list[str]:
        """The translations of the first parts, as far as `results` go or up to the first that failed."""
        texts: list[str] = []
        remaining = iter(results)
        for part, ids in zip(plan.parts, plan.sources, strict=True):
            if ids is None:
                texts.append(part.text + part.gap)
                continue
            result = next(remaining, None)
            if result is None or isinstance(result, AppError):
                break
            texts.append(self._tokenizer.decode(result[0].ids) + _gap(part, plan.target))
        return texts

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
        check_unicode(item.text)

    @property
    def _max_source_length(self) -> int:
        return self.manifest.max_source_length

    def _source(self, text: str, encode: Callable[[str], Ids]) -> Ids | None:
        if not any(character.isalpha() for character in text):
            return None
        ids = encode(text)
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
