"""What is done with a decoding of a window: kept, tried again, dropped as silence."""

import numpy as np
import pytest

from app.decoding.interface import FinishReason, Hypothesis
from app.tasks.attempts import Attempt, best_of

TEXT = " The quick brown fox jumps over the lazy dog near the river bank."


def attempt(
    text: str = TEXT,
    mean: float = -0.3,
    no_speech: float = 0.0,
    reason: FinishReason = "stop",
    temperature: float = 0.0,
) -> Attempt:
    ids = tuple(range(10))
    hypothesis = Hypothesis(ids, mean * 11, mean, reason, first_log_probs=np.zeros(1, np.float32))
    return Attempt(hypothesis, ids, text, temperature, no_speech)


@pytest.mark.parametrize(
    ("tried", "fault"),
    [
        (attempt(), None),
        (attempt(text=" so it goes" * 20), "repeated itself"),
        (attempt(mean=-1.2), "not sure"),
        (attempt(reason="length"), "no end"),
        (attempt(mean=-1.2, no_speech=0.9), None),  # it is silence
        (attempt(text=""), None),
    ],
)
def test_faults(tried: Attempt, fault: str | None) -> None:
    assert (tried.fault is None) == (fault is None)
    assert fault is None or fault in (tried.fault or "")


def test_only_unsure_text_is_taken_for_silence() -> None:
    assert attempt(mean=-1.2, no_speech=0.9).is_silence
    assert not attempt(mean=-0.5, no_speech=0.9).is_silence
    assert not attempt(mean=-1.2, no_speech=0.5).is_silence


def test_the_best_has_no_fault_or_is_the_surest_that_is_no_loop() -> None:
    loop, unsure, worse = attempt(text=" so it goes" * 20, mean=-0.1), attempt(mean=-1.2), attempt(mean=-1.5)
    good = attempt(mean=-0.9, temperature=0.4)
    assert best_of([loop, unsure, good]) is good
    assert best_of([loop, worse, unsure]) is unsure
    assert best_of([loop]) is loop
