"""One decoding of a window, and what a guard has to say against it (Radford 2022, section 4.5)."""

import math
import zlib
from dataclasses import dataclass

from app.decoding.interface import Hypothesis

# Whisper's thresholds.
_MOST_COMPRESSED = 2.4
_LEAST_LOG_PROB = -1.0
_NO_SPEECH = 0.6
# The first is greedy or a beam; the others are sampled, each after the one before it has failed.
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a window was decoded to. `hypothesis` is the best one; `ids` are those of the text."""

    hypothesis: Hypothesis
    ids: tuple[int, ...]
    text: str
    temperature: float
    no_speech_probability: float

    @property
    def mean_log_prob(self) -> float:
        """Of a token of the text, its end counted, in nats."""
        return self.hypothesis.log_prob / (len(self.ids) + 1)

    @property
    def compression_ratio(self) -> float:
        data = self.text.encode("utf-8", "replace")
        return len(data) / len(zlib.compress(data)) if data else 0.0

    @property
    def is_silence(self) -> bool:
        """Whether the model hears no speech, and does not insist on its text."""
        return self.no_speech_probability > _NO_SPEECH and self.mean_log_prob < _LEAST_LOG_PROB

    @property
    def fault(self) -> str | None:
        """Why to try again; None where it will do."""
        if self.is_silence:
            return None
        if self.compression_ratio > _MOST_COMPRESSED:
            return "the text repeated itself"
        if self.hypothesis.finish_reason == "length":
            return "the text had no end"
        if self.mean_log_prob < _LEAST_LOG_PROB:
            return "the model was not sure of its words"
        return None


def best_of(attempts: list[Attempt]) -> Attempt:
    """The first without fault; else the surest of those that do not repeat themselves, if there are such."""
    return min(attempts, key=_rank)


def _rank(attempt: Attempt) -> tuple[bool, bool, float]:
    is_loop = attempt.compression_ratio > _MOST_COMPRESSED or attempt.hypothesis.finish_reason == "length"
    log_prob = attempt.mean_log_prob if not math.isnan(attempt.mean_log_prob) else -math.inf
    return attempt.fault is not None, is_loop, -log_prob
