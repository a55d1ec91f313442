"""Log-mel features as Whisper computes them: one implementation for training and serving.

Source: openai/whisper `audio.py` (Radford 2022) and librosa's Slaney mel scale, which its filters are made with.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000
FRAMES_PER_S = 100
SAMPLES_A_FRAME = SAMPLE_RATE_HZ // FRAMES_PER_S
_FFT_SIZE = 400
_DECADES = 8.0  # what is fainter than the loudest by more counts as that much fainter
# Slaney's scale: linear up to 1 kHz, logarithmic above.
_HZ_PER_LINEAR_MEL = 200.0 / 3
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _HZ_PER_LINEAR_MEL
_MELS_PER_LOG_HZ = 27.0 / np.log(6.4)


def log_mel(waveform: Floats, num_mels: int, num_frames: int | None = None) -> Floats:
    """Samples [S] at 16 kHz -> features [F, M], one frame each 10 ms; silence fills up to `num_frames`.

    Values span 2.0 below the loudest, which is about 1.5 for speech at full scale.
    """
    if num_frames is not None:
        waveform = waveform[: num_frames * SAMPLES_A_FRAME]
        waveform = np.pad(waveform, (0, num_frames * SAMPLES_A_FRAME - len(waveform)))
    power = _power_spectrogram(waveform.astype(np.float32, copy=False))  # [F, 201]
    log_power = np.log10(np.maximum(power @ _mel_filters(num_mels), 1e-10))
    log_power = np.maximum(log_power, log_power.max(initial=-_DECADES) - _DECADES)
    features: Floats = ((log_power + 4.0) / 4.0).astype(np.float32)
    return features


def _power_spectrogram(waveform: Floats) -> Floats:
    """Samples [S] -> [S // 160, 201], frames centred on every 160th sample, the ends mirrored."""
    num_frames = len(waveform) // SAMPLES_A_FRAME
    if num_frames == 0:
        return np.zeros((0, _FFT_SIZE // 2 + 1), np.float32)
    half = _FFT_SIZE // 2
    padded = np.pad(waveform, half, mode="reflect" if len(waveform) > half else "constant")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FFT_SIZE)[::SAMPLES_A_FRAME][:num_frames]
    spectrum = np.fft.rfft(frames * _window(), axis=1)
    power: Floats = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    return power


@cache
def _window() -> Floats:
    """The periodic Hann window."""
    return np.hanning(_FFT_SIZE + 1)[:-1].astype(np.float32)


@cache
def _mel_filters(num_mels: int) -> Floats:
    """Triangles over the spectrum's bins, each of the same area [201, M]."""
    bins_hz = np.linspace(0.0, SAMPLE_RATE_HZ / 2, _FFT_SIZE // 2 + 1)
    edges_hz = _hz(np.linspace(0.0, _mel(SAMPLE_RATE_HZ / 2), num_mels + 2))
    widths = np.diff(edges_hz)
    rising = (bins_hz[:, None] - edges_hz[None, :-2]) / widths[:-1]
    falling = (edges_hz[None, 2:] - bins_hz[:, None]) / widths[1:]
    filters = np.maximum(0.0, np.minimum(rising, falling)) * 2.0 / (edges_hz[2:] - edges_hz[:-2])
    return filters.astype(np.float32)


def _mel(hz: float) -> float:
    return float(_BREAK_MEL + np.log(hz / _BREAK_HZ) * _MELS_PER_LOG_HZ) if hz >= _BREAK_HZ else hz / _HZ_PER_LINEAR_MEL


def _hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    above = _BREAK_HZ * np.exp((mel - _BREAK_MEL) / _MELS_PER_LOG_HZ)
    return np.where(mel >= _BREAK_MEL, above, mel * _HZ_PER_LINEAR_MEL)
