"""Real audio files in every container, written with PyAV."""

from io import BytesIO

import av
import numpy as np
import numpy.typing as npt

from app.audio.features import SAMPLE_RATE_HZ

Floats = npt.NDArray[np.float32]


def speech_like(duration_s: float, seed: int = 0) -> Floats:
    """Harmonics of a gliding pitch, with syllables and breaks: [S] at 16 kHz."""
    random = np.random.default_rng(seed)
    time_s = np.arange(int(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    pitch_hz = 120 + 30 * np.sin(2 * np.pi * 0.7 * time_s + seed)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    voice = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 20))
    syllables = np.maximum(0.0, np.sin(2 * np.pi * 3.1 * time_s)) ** 0.5
    sound = 0.2 * voice * syllables + 0.001 * random.standard_normal(len(time_s))
    return np.asarray(sound, np.float32)


def encoded(
    samples: Floats, container: str, codec: str, rate_hz: int = SAMPLE_RATE_HZ, layout: str = "mono"
) -> BytesIO:
    """`samples` [S] or [S, channels] at `rate_hz` as a file; nothing is resampled."""
    file = BytesIO()
    interleaved = np.ascontiguousarray(samples, np.float32).reshape(1, -1)
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate_hz, layout=layout)
        if interleaved.size:
            frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
            frame.sample_rate, frame.pts = rate_hz, 0
            for packet in stream.encode(frame):
                output.mux(packet)
            for packet in stream.encode(None):
                output.mux(packet)
        else:
            output.start_encoding()
    file.seek(0)
    return file


def wav(samples: Floats, rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    return encoded(samples, "wav", "pcm_s16le", rate_hz).getvalue()


def silent_film() -> BytesIO:
    """A video without an audio track."""
    file = BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(10):
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)
    file.seek(0)
    return file
