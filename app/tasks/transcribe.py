"""Transcription: recordings to windows of speech to generations, and back to texts with their times."""

import asyncio
import math
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from app.audio.features import SAMPLE_RATE_HZ, SAMPLES_A_FRAME, log_mel
from app.audio.voice import Span
from app.audio.waveform import Waveform
from app.audio.windows import find_windows
from app.decoding.interface import Floats, Hypothesis, Sampling, SearchOptions
from app.errors import AppError, DrainingError, InputError, OverloadedError
from app.store.manifest import Manifest, Speech
from app.tasks.attempts import TEMPERATURES, Attempt, best_of
from app.tasks.decode import Decode
from app.tasks.segments import cut_segments
from app.tasks.stages import check_unicode, timed
from app.tasks.transcript import Segment, TranscribeOptions, Transcript, Word
from app.tasks.words import find_words
from app.text.tokenizer import TextTokenizer

# Windows that are decoded together, and how many such groups are under way: while one ends, the next is prepared.
# Features of no more windows are in memory, however long a recording is.
_MAX_TOGETHER = 8
_NUM_GROUPS = 2
# Windows that vote on the language of a recording.
_NUM_VOTERS = 3
_UNKNOWN = "und"  # a language that the model has no name for


@dataclass(slots=True)
class _Window:
    """A part of a recording that is decoded by itself; `best` is there when it is done."""

    span: Span
    attempts: list[Attempt] = field(default_factory=list)
    best: Attempt | None = None

    @property
    def start_s(self) -> float:
        return self.span.start / SAMPLE_RATE_HZ

    @property
    def end_s(self) -> float:
        return self.span.end / SAMPLE_RATE_HZ


@dataclass(slots=True)
class _Recording:
    """A recording on its way to a transcript. `language` None: its first windows, `num_voting`, have yet to tell."""

    waveform: Waveform
    windows: list[_Window]
    language: str | None
    num_voting: int = 0
    votes: dict[str, float] = field(default_factory=dict)
    num_told: int = 0  # windows whose segments are there
    segments: list[Segment] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: AppError | None = None


@dataclass(slots=True)
class _Queue:
    """The windows that wait, those that are to be decoded again first."""

    again: deque[tuple[_Recording, _Window]] = field(default_factory=deque)
    fresh: deque[tuple[_Recording, _Window]] = field(default_factory=deque)
    has_begun: bool = False  # whether any has been decoded

    def take(self) -> list[tuple[_Recording, _Window]]:
        """The next group; windows of recordings that have failed are dropped."""
        group: list[tuple[_Recording, _Window]] = []
        while len(group) < _MAX_TOGETHER and (self.again or self.fresh):
            recording, window = (self.again or self.fresh).popleft()
            if recording.error is None:
                group.append((recording, window))
        return group


class Transcriber:
    """Transcribes with one loaded model. Free of state between calls; one event loop uses it."""

    def __init__(self, manifest: Manifest, tokenizer: TextTokenizer, decode: Decode) -> None:
        assert manifest.speech is not None, "a transcriber needs a model that reads sound"
        self.manifest = manifest
        self._speech: Speech = manifest.speech
        self._tokenizer = tokenizer
        self._decode = decode
        self._language_of = {token: language for language, token in self._speech.language_ids.items()}

    async def transcribe(
        self,
        recordings: Sequence[Waveform],
        options: TranscribeOptions,
        deadline_s: float,
        tell: Callable[[Segment], None] | None = None,
    ) -> list[Transcript | AppError]:
        """A transcript or an error for every recording, in order; the windows of all run as one batch.

        `tell`, for a single recording only, is told its segments, in order, as they become final.
        `deadline_s` is a time of `time.monotonic`. Raises: InputError for options that the model can not honour.
        """
        self.check(options)
        with timed(self.manifest.name, "windows"):
            found = await asyncio.to_thread(lambda: [self._plan(waveform, options) for waveform in recordings])
        queue = _Queue()
        for recording in found:
            # The others wait until the first have told the language.
            first = recording.windows[: recording.num_voting or len(recording.windows)]
            queue.fresh += [(recording, window) for window in first]
        await self._work_off(queue, lambda group: self._run(group, queue, options, deadline_s, tell))
        return [recording.error or self._transcript(recording, options) for recording in found]

    def check(self, options: TranscribeOptions) -> None:
        """Raises: InputError for options that the model can not honour."""
        name, speech = self.manifest.name, self._speech
        if options.language is not None and options.language not in speech.languages:
            raise InputError(
                f"language {options.language[:16]!r} is not known; {name} has {', '.join(speech.languages)}"
            )
        if options.task == "translate" and "translate" not in speech.task_ids:
            raise InputError(f"{name} can not translate, only transcribe; ask for task transcribe")
        if options.temperature is not None and not 0 <= options.temperature <= 1:
            raise InputError(f"temperature is {options.temperature}, must be from 0 to 1")
        if options.language is None and speech.language_ids and not speech.probe_ids:
            raise InputError(f"{name} can not tell the language by itself; name it, or import the model again")
        if options.has_word_times and not speech.alignment_heads:
            raise InputError(f"{name} has no alignment heads, so words have no times; ask without word_timestamps")
        check_unicode(options.prompt)

    def _plan(self, waveform: Waveform, options: TranscribeOptions) -> _Recording:
        longest = self.manifest.max_source_length * SAMPLES_A_FRAME
        windows = [_Window(span) for span in find_windows(waveform, longest) if len(span) >= SAMPLES_A_FRAME]
        language = options.language
        if language is None and not self._speech.language_ids:
            language = self._speech.languages[0] if self._speech.languages else _UNKNOWN
        num_voting = min(_NUM_VOTERS, len(windows)) if language is None else 0
        recording = _Recording(waveform, windows, language, num_voting)
        if options.prompt.strip() and self._speech.previous_text_id is None:
            recording.warnings.append(f"prompt: {self.manifest.name} takes none, so it was not used")
        return recording

    @staticmethod
    async def _work_off(queue: _Queue, run: Callable[[list[tuple[_Recording, _Window]]], Awaitable[None]]) -> None:
        """Have `_NUM_GROUPS` groups run at any time, until none is left."""
        running: set[asyncio.Future[None]] = set()
        try:
            while True:
                while len(running) < _NUM_GROUPS and (group := queue.take()):
                    running.add(asyncio.ensure_future(run(group)))
                if not running:
                    return
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    one.result()
        finally:
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _run(
        self,
        group: list[tuple[_Recording, _Window]],
        queue: _Queue,
        options: TranscribeOptions,
        deadline_s: float,
        tell: Callable[[Segment], None] | None,
    ) -> None:
        with timed(self.manifest.name, "features"):
            sources = await asyncio.to_thread(lambda: [self._features(*pair) for pair in group])
        searches = [self._search(recording, window, options) for recording, window in group]
        results = await self._decoded(sources, searches, deadline_s, has_begun=queue.has_begun)
        queue.has_begun = True
        for (recording, window), result in zip(group, results, strict=True):
            if isinstance(result, AppError):
                recording.error = recording.error or result
            elif recording.error is None:
                self._note(recording, window, result[0], options, queue)
                self._finish_windows(recording, options, tell)

    async def _decoded(
        self, sources: Sequence[Floats], searches: Sequence[SearchOptions], deadline_s: float, *, has_begun: bool
    ) -> Sequence[list[Hypothesis] | AppError]:
        """What came of each. Where the queue is full, a recording of which a part is done already waits for it."""
        while True:
            try:
                return await self._decode(sources, searches, deadline_s)
            except OverloadedError as error:
                is_hopeless = isinstance(error, DrainingError) or time.monotonic() + error.retry_after_s > deadline_s
                if not has_begun or is_hopeless:
                    raise
                await asyncio.sleep(error.retry_after_s)

    def _features(self, recording: _Recording, window: _Window) -> Floats:
        samples = recording.waveform[window.span.start : window.span.end]
        return log_mel(samples, self._speech.num_mels, self._speech.window_frames)

    def _search(self, recording: _Recording, window: _Window, options: TranscribeOptions) -> SearchOptions:
        speech, longest = self._speech, self.manifest.max_target_length
        temperature = _temperature(window, options)
        before = self._before(options)
        choices = () if recording.language else tuple(speech.language_ids.values())
        prefix = speech.prefix(recording.language, options.task, has_timestamps=False)
        # As Whisper was trained: half of its positions for what went before, half for the text.
        most = longest // 2 + bool(choices) + len(prefix) if speech.window_frames else longest
        beam_size = options.beam_size or int(self.manifest.default_search.get("beam_size", 1))
        return SearchOptions(
            max_length=min(most, longest - 1 - len(before)),
            beam_size=1 if temperature else beam_size,
            length_penalty=float(self.manifest.default_search.get("length_penalty", 1.0)),
            before=before,
            first_choices=choices,
            prefix=prefix,
            suppressed_first=tuple(speech.suppressed_first_ids),
            needs_attention=bool(speech.alignment_heads),
            sampling=Sampling(temperature, seed=window.span.start) if temperature else None,
        )

    def _before(self, options: TranscribeOptions) -> tuple[int, ...]:
        """The prompt as the text of the window before; of a long one its end."""
        prompt, token = options.prompt.strip(), self._speech.previous_text_id
        if not prompt or token is None:
            return ()
        ids = self._tokenizer.encode(f" {prompt}").tolist()
        return (token, *ids[-(self.manifest.max_target_length // 2 - 1) :])

    def _note(
        self,
        recording: _Recording,
        window: _Window,
        hypothesis: Hypothesis,
        options: TranscribeOptions,
        queue: _Queue,
    ) -> None:
        """Judge what a window was decoded to: it is done, or waits to be decoded again."""
        language = recording.language
        if language is None:
            language = self._language_of[hypothesis.ids[0]]
        prefix_length = len(self._speech.prefix(language, options.task, has_timestamps=False))
        ids = hypothesis.ids[prefix_length:]
        text = self._text(ids)
        temperature = _temperature(window, options)
        attempt = Attempt(hypothesis, ids, text, temperature, self._no_speech_probability(hypothesis))
        window.attempts.append(attempt)
        is_last = options.temperature is not None or len(window.attempts) == len(TEMPERATURES)
        if attempt.fault is None or is_last:
            window.best = best_of(window.attempts)
        if recording.language is None:
            self._vote(recording, attempt, language, queue)
        elif window.best is None:
            queue.again.append((recording, window))

    def _vote(self, recording: _Recording, attempt: Attempt, language: str, queue: _Queue) -> None:
        """Count what a window says of the language; the last one settles it, and who decoded in another begins anew."""
        for code, probability in self._languages(attempt.hypothesis, language).items():
            recording.votes[code] = recording.votes.get(code, 0.0) + probability
        voters = recording.windows[: recording.num_voting]
        if not all(window.attempts for window in voters):
            return
        recording.language = max(recording.votes, key=lambda code: recording.votes[code])
        asked_for = self._speech.language_ids[recording.language]
        for window in voters:
            if window.attempts[0].hypothesis.ids[0] != asked_for:
                window.attempts, window.best = [], None
            if window.best is None:
                queue.again.append((recording, window))
        queue.fresh += [(recording, window) for window in recording.windows[recording.num_voting :]]

    def _languages(self, hypothesis: Hypothesis, chosen: str) -> dict[str, float]:
        """The probability of every language of which the model tells it."""
        if hypothesis.first_log_probs is None:
            return {chosen: 1.0}
        told = zip(self._speech.probe_ids, hypothesis.first_log_probs.tolist(), strict=True)
        found = {self._language_of[token]: math.exp(log_prob) for token, log_prob in told if token in self._language_of}
        total = sum(found.values())
        return {language: probability / total for language, probability in found.items()} if total else {chosen: 1.0}

    def _no_speech_probability(self, hypothesis: Hypothesis) -> float:
        token, told = self._speech.no_speech_id, hypothesis.first_log_probs
        if token is None or told is None or token not in self._speech.probe_ids:
            return 0.0
        return math.exp(float(told[self._speech.probe_ids.index(token)]))

    def _finish_windows(
        self, recording: _Recording, options: TranscribeOptions, tell: Callable[[Segment], None] | None
    ) -> None:
        """Make segments of the windows that are done, as far as none before them is missing."""
        if recording.language is None:
            return
        while recording.num_told < len(recording.windows):
            window = recording.windows[recording.num_told]
            if window.best is None:
                return
            self._warn(recording, window)
            for segment in self._segments(recording, window):
                text = segment.text if recording.segments else segment.text.lstrip()
                words = segment.words if options.has_word_times else ()
                recording.segments.append(replace(segment, text=text, words=words))
                if tell is not None:
                    tell(recording.segments[-1])
            window.attempts.clear()  # attention is large
            window.best = None
            recording.num_told += 1

    def _warn(self, recording: _Recording, window: _Window) -> None:
        faults = [attempt.fault for attempt in window.attempts if attempt.fault is not None]
        if not faults or window.best is None:
            return
        end = f"decoded again at temperature {window.best.temperature:g}" if window.best.fault is None else "left so"
        recording.warnings.append(f"unsure: from {window.start_s:.1f} to {window.end_s:.1f} s {faults[0]}; {end}")

    def _segments(self, recording: _Recording, window: _Window) -> list[Segment]:
        attempt = window.best
        assert attempt is not None and recording.language is not None
        if attempt.is_silence or not attempt.text.strip():
            return []
        whole = Segment(
            attempt.text,
            window.start_s,
            window.end_s,
            attempt.ids,
            attempt.temperature,
            attempt.mean_log_prob,
            attempt.compression_ratio,
            attempt.no_speech_probability,
        )
        if attempt.hypothesis.attention is None:
            return [whole]
        prefix_length = len(attempt.hypothesis.ids) - len(attempt.ids)
        num_frames = len(window.span) // SAMPLES_A_FRAME
        words = find_words(attempt.hypothesis, prefix_length, self._tokenizer, recording.language, num_frames)
        return self._cut(whole, [_shifted(word, window) for word in words])

    def _cut(self, whole: Segment, words: Sequence[Word]) -> list[Segment]:
        """`whole` in segments of the size of a subtitle, each with its own ids and words."""
        segments: list[Segment] = []
        num_ids = num_characters = 0
        for part in cut_segments(words):
            text = "".join(word.text for word in part)
            num_characters += len(text)
            until = bisect_left(
                range(len(whole.ids)), num_characters, lo=num_ids, key=lambda count: len(self._text(whole.ids[:count]))
            )
            ids, num_ids = whole.ids[num_ids:until], until
            segments.append(
                replace(whole, text=text, start_s=part[0].start_s, end_s=part[-1].end_s, ids=ids, words=tuple(part))
            )
        return segments

    def _text(self, ids: tuple[int, ...]) -> str:
        """With a space at the beginning, as every window but a recording's first has it in the transcript."""
        text = self._tokenizer.decode(ids)
        # Byte-level pieces bring their white space with them.
        return f" {text}" if self.manifest.tokenizer.kind == "sentencepiece" and text else text

    def _transcript(self, recording: _Recording, options: TranscribeOptions) -> Transcript:
        segments = recording.segments
        language = recording.language or _UNKNOWN
        return Transcript(
            "".join(segment.text for segment in segments),
            "en" if options.task == "translate" else language,
            len(recording.waveform) / SAMPLE_RATE_HZ,
            tuple(segments),
            tuple(recording.warnings),
        )


def _temperature(window: _Window, options: TranscribeOptions) -> float:
    """That of the window's next attempt."""
    return TEMPERATURES[len(window.attempts)] if options.temperature is None else options.temperature


def _shifted(word: Word, window: _Window) -> Word:
    """With times of the recording instead of the window, and inside of it."""
    start_s, end_s = (min(window.start_s + time_s, window.end_s) for time_s in (word.start_s, word.end_s))
    return replace(word, start_s=start_s, end_s=end_s)
