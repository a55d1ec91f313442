"""What comes of a recording: words, segments, the whole transcript; and what may be asked."""

from dataclasses import dataclass
from typing import Literal

SpeechTask = Literal["transcribe", "translate"]


@dataclass(frozen=True, slots=True)
class TranscribeOptions:
    """None takes the model's own, or what is heard. `temperature` None: 0 first, and higher ones where a guard fails;
    a number: that one only. `prompt` is text that went before: names and their spelling."""

    language: str | None = None
    task: SpeechTask = "transcribe"
    beam_size: int | None = None
    temperature: float | None = None
    prompt: str = ""
    has_word_times: bool = False


@dataclass(frozen=True, slots=True)
class Word:
    """A word with the white space before it, as it stands in the text; times in seconds of the recording."""

    text: str
    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True, slots=True)
class Segment:
    """What was said without a longer pause. `words` is empty unless asked for.

    `mean_log_prob` is that of a token, in nats; `compression_ratio` that of the text (above 2.4: it repeats itself);
    `no_speech_probability` that the model heard no speech at all.
    """

    text: str
    start_s: float
    end_s: float
    ids: tuple[int, ...]
    temperature: float
    mean_log_prob: float
    compression_ratio: float
    no_speech_probability: float
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Transcript:
    """All of a recording. `language` is a code; `text` is that of the segments, one after the other."""

    text: str
    language: str
    duration_s: float
    segments: tuple[Segment, ...] = ()
    warnings: tuple[str, ...] = ()
