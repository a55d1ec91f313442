"""Where speech is: the Silero voice activity model (MIT, in `silero/`), and spans of what it hears.

The model reads many frames in one run and carries its state from run to run, so long recordings take little memory.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from app.audio.features import SAMPLE_RATE_HZ
from app.errors import ArtifactError

Floats = npt.NDArray[np.float32]

# Release 6.2.3 of the package silero-vad, its silero_vad_16k_sequence.onnx.
_FILE = Path(__file__).parent / "silero" / "voice.onnx"
_SHA256 = "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"
FRAME_SAMPLES = 512
_CONTEXT_SAMPLES = 64  # every frame is read with the end of the one before
_STATE_SIZE = 128
_FRAMES_A_RUN = 512

# Speech begins above the first probability and ends below the second; what is shorter than the rest counts for nothing.
_BEGIN, _END = 0.5, 0.35
_SHORTEST_SPEECH = round(0.1 * SAMPLE_RATE_HZ / FRAME_SAMPLES)
_SHORTEST_SILENCE = round(0.16 * SAMPLE_RATE_HZ / FRAME_SAMPLES)


@dataclass(frozen=True, slots=True)
class Span:
    """Samples of a recording from `start` to before `end`."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


def speech_probabilities(waveform: Floats) -> Floats:
    """Samples [S] -> [ceil(S / 512)], the probability of speech in every frame of 32 ms."""
    session, probabilities = _session(), []
    hidden = cell = np.zeros((1, 1, _STATE_SIZE), np.float32)
    context = np.zeros(_CONTEXT_SAMPLES, np.float32)
    for start in range(0, len(waveform), _FRAMES_A_RUN * FRAME_SAMPLES):
        samples = waveform[start : start + _FRAMES_A_RUN * FRAME_SAMPLES]
        samples = np.pad(samples, (0, -len(samples) % FRAME_SAMPLES))
        frames = samples.reshape(-1, FRAME_SAMPLES)
        contexts = np.concatenate([context[None], frames[:-1, -_CONTEXT_SAMPLES:]])
        context = frames[-1, -_CONTEXT_SAMPLES:]
        found, hidden, cell = session.run(
            ["speech_probs", "hn", "cn"], {"input": np.concatenate([contexts, frames], 1), "h": hidden, "c": cell}
        )
        probabilities.append(np.asarray(found, np.float32))
    return np.concatenate(probabilities) if probabilities else np.zeros(0, np.float32)


def find_speech(probabilities: Floats, num_samples: int) -> list[Span]:
    """The spans of speech in a recording of `num_samples`, by the probabilities of its frames."""
    spans: list[list[int]] = []
    is_speaking = False
    for place, probability in enumerate(probabilities.tolist()):
        if probability >= (_END if is_speaking else _BEGIN):
            if is_speaking or (spans and place - spans[-1][1] < _SHORTEST_SILENCE):
                spans[-1][1] = place + 1
            else:
                spans.append([place, place + 1])
            is_speaking = True
        else:
            is_speaking = False
    return [
        Span(start * FRAME_SAMPLES, min(end * FRAME_SAMPLES, num_samples))
        for start, end in spans
        if end - start >= _SHORTEST_SPEECH
    ]


@cache
def _session() -> onnxruntime.InferenceSession:
    """The model, on one thread: many recordings are read side by side."""
    content = _FILE.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != _SHA256:
        raise ArtifactError(f"{_FILE.name}: sha256 starts {found[:4]}, expected {_SHA256[:4]}; install seq2serve again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
