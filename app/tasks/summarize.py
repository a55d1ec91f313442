"""Summaries: a document in parts that fit, each to a generation, and what came out summarized again until it is one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from app.decoding.interface import FinishReason, Hypothesis, Ids, SearchOptions
from app.errors import AppError, InputError
from app.store.manifest import Manifest
from app.tasks.decode import Decode
from app.tasks.faults import Fault, faults
from app.tasks.stages import apart_if_long, check_unicode, timed
from app.text.cleaning import CleaningOptions, normalize
from app.text.parts import split_document
from app.text.tokenizer import TextTokenizer

# A text of fewer words is its own summary.
_SHORTEST_DOCUMENT = 8
_DEFAULT_MAX_TOKENS = 96
_DEFAULT_NO_REPEAT = 3
# Parts are summarized to half their length at the most, so this many rounds are enough for any document; if not, it is
# cut and says so.
_MAX_ROUNDS = 20
_SHORTEST_PART_SUMMARY = 12
# No word takes more tokens, nearly: the rest is cut at a word.
_TOKENS_A_WORD = 4
_WIDER_BEAM = 8
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class SummarizeOptions:
    """None takes the model's own. Lengths bound the summary, in words that white space separates and in tokens."""

    kind: str | None = None
    beam_size: int | None = None
    length_penalty: float | None = None
    num_summaries: int = 1
    min_words: int | None = None
    max_words: int | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """`alternatives`: other summaries, best first. `num_parts`: in how many parts the document was read.
    `finish_reason` is "length" where the summary met a limit and was cut, `is_truncated`. `warnings`: what a guard
    found and what became of it, "code: explanation"."""

    text: str
    kind: str
    num_parts: int = 1
    alternatives: tuple[str, ...] = ()
    finish_reason: FinishReason = "stop"
    warnings: tuple[str, ...] = ()

    @property
    def is_truncated(self) -> bool:
        return self.finish_reason == "length"


@dataclass(slots=True)
class _Document:
    """A text on its way to a summary: `parts` are what the next round reads."""

    text: str
    parts: list[str]
    num_parts: int
    num_rounds: int = 0
    first: Summary | None = None  # what a guard was not content with
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Summarizer:
    """Summarizes with one loaded model. Free of state between calls; one event loop uses it.

    The manifest's directions are (language, kind of summary); the first kind is the default one.
    """

    def __init__(self, manifest: Manifest, tokenizer: TextTokenizer, decode: Decode) -> None:
        self.manifest = manifest
        self.kinds = list(dict.fromkeys(kind for _, kind in manifest.directions))
        self._tokenizer = tokenizer
        self._decode = decode
        self._cleaning = CleaningOptions(lower_case=manifest.tokenizer.lower_case)

    async def summarize(
        self, texts: Sequence[str], options: SummarizeOptions, deadline_s: float
    ) -> list[Summary | AppError]:
        """A summary or an error for every text, in order; all parts of all texts run as one batch, round by round.

        `deadline_s` is a time of `time.monotonic`. Raises: InputError for options that no text could meet.
        """
        self.check(options)
        num_characters = sum(map(len, texts))
        with timed(self.manifest.name, "tokenize"):
            plans = await apart_if_long(num_characters, lambda: [self._plan(text, options) for text in texts])
        results: list[Summary | AppError | None] = [None if isinstance(p, _Document) else p for p in plans]
        while waiting := [place for place, result in enumerate(results) if result is None]:
            documents = [plan for place in waiting if isinstance(plan := plans[place], _Document)]
            found = await self._run(documents, options, deadline_s)
            with timed(self.manifest.name, "detokenize"):
                for place, document, own in zip(waiting, documents, found, strict=True):
                    results[place] = self._next(document, own, options)
        return [result for result in results if result is not None]

    def check(self, options: SummarizeOptions) -> None:
        """Raises: InputError for options that no text could meet."""
        if options.kind is not None and options.kind not in self.kinds:
            raise InputError(
                f"kind {options.kind[:32]!r} is not known; {self.manifest.name} has {', '.join(self.kinds)}"
            )
        for unit, shortest, longest in (
            ("words", options.min_words, options.max_words),
            ("tokens", options.min_tokens, options.max_tokens),
        ):
            if shortest is not None and longest is not None and shortest > longest:
                raise InputError(f"the summary must have at least {shortest} and at most {longest} {unit}; swap them")
        if options.beam_size is not None and options.num_summaries > options.beam_size:
            raise InputError(
                f"{options.num_summaries} summaries are asked for of a beam of {options.beam_size}; widen the beam"
            )
        longest = self.manifest.max_target_length
        for name, tokens in (("min", options.min_tokens), ("max", options.max_tokens)):
            if tokens is not None and tokens > longest:
                raise InputError(f"{name} length is {tokens} tokens, {self.manifest.name} writes {longest} at the most")

    def _plan(self, text: str, options: SummarizeOptions) -> _Document | Summary | AppError:
        try:
            check_unicode(text)
            if not any(character.isalpha() for character in text):
                raise InputError("the text holds no letters, so there is nothing to summarize; send a text")
            words = text.split()
            if len(words) < _SHORTEST_DOCUMENT:
                warning = f"short_text: {len(words)} words are their own summary"
                return Summary(" ".join(words), self._kind(options), warnings=(warning,))
            parts = self._split(text)
            return _Document(text, parts, len(parts))
        except AppError as error:
            return error

    def _kind(self, options: SummarizeOptions) -> str:
        return options.kind or self.kinds[0]

    def _split(self, text: str) -> list[str]:
        language = self.manifest.directions[0][0]
        longest = self.manifest.max_source_length - 2  # beside the kind and the end of sentence
        return split_document(text, lambda part: len(self._ids(part)), longest, language)

    def _ids(self, text: str) -> Ids:
        return self._tokenizer.encode(normalize(text, self._cleaning))

    def _source(self, text: str, kind: str) -> Ids:
        """Ids [S]: the token that asks for the kind, the text, the end of sentence."""
        ids = self._ids(text)[: self.manifest.max_source_length - 2]
        return np.concatenate([[self.manifest.tokenizer.language_ids[kind]], ids, [self.manifest.eos_id]])

    async def _run(
        self, documents: Sequence[_Document], options: SummarizeOptions, deadline_s: float
    ) -> list[list[list[Hypothesis] | AppError]]:
        """One round of all documents: for each, what came of each of its parts."""
        sources: list[Ids] = []
        searches: list[SearchOptions] = []
        for document in documents:
            is_last = len(document.parts) == 1
            for part in document.parts:
                source = self._source(part, self._kind(options) if is_last else self.kinds[0])
                search = self._search(options, document)
                sources.append(source)
                searches.append(search if is_last else self._search_of_part(search, len(source)))
        remaining = iter(await self._decode(sources, searches, deadline_s))
        return [[next(remaining) for _ in document.parts] for document in documents]

    def _search(self, options: SummarizeOptions, document: _Document) -> SearchOptions:
        defaults, longest = self.manifest.default_search, self.manifest.max_target_length
        max_tokens = options.max_tokens or int(defaults.get("max_length", 0)) or _DEFAULT_MAX_TOKENS
        if options.max_words is not None and options.max_tokens is None:
            max_tokens = _TOKENS_A_WORD * options.max_words + 8
        max_tokens = min(max_tokens, longest)
        min_tokens = max(1, options.min_tokens or 0, options.min_words or 0)
        length_penalty = options.length_penalty
        if length_penalty is None:
            length_penalty = float(defaults.get("length_penalty", 1.0))
        search = SearchOptions(
            max_length=max_tokens,
            min_length=min(min_tokens, max_tokens),
            beam_size=max(options.beam_size or int(defaults.get("beam_size", 1)), options.num_summaries),
            num_hypotheses=options.num_summaries,
            length_penalty=length_penalty,
            no_repeat_ngram=int(defaults.get("no_repeat_ngram", 0)) or _DEFAULT_NO_REPEAT,
        )
        return search if document.first is None else self._searched_again(search, options, document)

    def _searched_again(self, search: SearchOptions, options: SummarizeOptions, document: _Document) -> SearchOptions:
        """With other settings, after a guard was not content with the first summary."""
        assert document.first is not None
        min_length = search.min_length
        if any(fault.code == "too_short" for fault in document.faults):
            tokens_a_word = len(self._ids(document.first.text)) / max(len(document.first.text.split()), 1)
            min_length = min(int((options.min_words or 0) * max(tokens_a_word, 1.0) * 1.3) + 1, search.max_length)
        max_length = search.max_length
        if any(fault.code == "copy" for fault in document.faults):
            max_length = max(min_length, min(max_length, len(self._ids(document.text)) // 2))
        beam_size = max(search.beam_size, min(_WIDER_BEAM, 2 * search.beam_size))
        return replace(search, min_length=min_length, max_length=max_length, beam_size=beam_size, no_repeat_ngram=2)

    def _search_of_part(self, search: SearchOptions, source_length: int) -> SearchOptions:
        """At most half of the part, so that every round has less to read."""
        max_length = max(min(_DEFAULT_MAX_TOKENS, source_length // 2), _SHORTEST_PART_SUMMARY)
        max_length = min(max_length, self.manifest.max_target_length)
        return replace(search, max_length=max_length, min_length=1, num_hypotheses=1)

    def _next(
        self, document: _Document, found: Sequence[list[Hypothesis] | AppError], options: SummarizeOptions
    ) -> Summary | AppError | None:
        """The end, or None where the document needs another round."""
        texts: list[list[str]] = []
        for result in found:
            if isinstance(result, AppError):
                return result
            texts.append([_capitalized(self._tokenizer.decode(hypothesis.ids).strip()) for hypothesis in result])
        if len(texts) == 1:
            assert not isinstance(found[0], AppError)
            return self._judge(document, self._summary(document, texts[0], found[0], options), options)
        document.num_rounds += 1
        joined = " ".join(own[0] for own in texts if own[0])
        document.parts = self._split(joined)
        if document.num_rounds == _MAX_ROUNDS:
            document.parts = document.parts[:1]
            document.warnings.append("cut: the document could not be brought down to one part; its end is missing")
        return None

    def _summary(
        self, document: _Document, texts: Sequence[str], hypotheses: Sequence[Hypothesis], options: SummarizeOptions
    ) -> Summary:
        cut = [_cut(text, options.max_words) for text in texts]
        is_cut = hypotheses[0].finish_reason == "length" or cut[0] != texts[0]
        others = [text for text in dict.fromkeys(cut) if text and text != cut[0]]
        reason: FinishReason = "length" if is_cut else "stop"
        return Summary(cut[0], self._kind(options), document.num_parts, tuple(others), reason)

    def _judge(self, document: _Document, summary: Summary, options: SummarizeOptions) -> Summary | None:
        """The summary with its warnings, or None where it is to be decoded again."""
        found = faults(summary.text, document.parts[0], options.min_words)
        if found and document.first is None:
            document.first, document.faults = summary, found
            return None
        if document.first is not None:
            is_better = len(found) < len(document.faults)
            summary = summary if is_better else document.first
            end = "so it was decoded again" if is_better else "and decoding it again did not help"
            document.warnings += [f"{fault.code}: {fault.message}, {end}" for fault in document.faults]
        if not summary.text:
            summary = replace(summary, text=_cut(" ".join(document.parts[0].split()), options.max_words or 20))
            document.warnings.append("empty: the model gave no text; this is how the document begins")
        return replace(summary, warnings=tuple(document.warnings))


def _capitalized(text: str) -> str:
    """With a capital at the beginning, unless the first word has capitals of its own."""
    word = text.partition(" ")[0]
    return text[:1].upper() + text[1:] if word.islower() else text


def _cut(text: str, max_words: int | None) -> str:
    """The first `max_words` words."""
    if max_words is None:
        return text
    words = list(_WORD.finditer(text))
    return text if len(words) <= max_words else text[: words[max_words - 1].end()]
