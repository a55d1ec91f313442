"""Log-mel features against the published reference, computed anew with PyTorch's transform and librosa's scale."""

import math

import numpy as np
import pytest
import torch

from app.audio.features import FRAMES_PER_S, SAMPLE_RATE_HZ, log_mel
from tests.audio.recordings import Floats, speech_like


def slaney_filters(num_mels: int) -> torch.Tensor:
    """As librosa's `filters.mel(sr=16000, n_fft=400)`, one filter at a time: [M, 201]."""

    def to_hz(mel: float) -> float:
        return 200 / 3 * mel if mel < 15 else 1000 * math.exp(math.log(6.4) / 27 * (mel - 15))

    highest = 15 + 27 * math.log(8000 / 1000) / math.log(6.4)
    edges = [to_hz(highest * place / (num_mels + 1)) for place in range(num_mels + 2)]
    filters = torch.zeros(num_mels, 201, dtype=torch.float64)
    for mel in range(num_mels):
        low, middle, high = edges[mel : mel + 3]
        for place in range(201):
            hz = 40.0 * place
            height = min((hz - low) / (middle - low), (high - hz) / (high - middle))
            filters[mel, place] = max(0.0, height) * 2 / (high - low)
    return filters.float()


def whisper_features(waveform: Floats, num_mels: int) -> torch.Tensor:
    """openai/whisper, `log_mel_spectrogram`: [M, F]."""
    spectrum = torch.stft(torch.from_numpy(waveform), 400, 160, window=torch.hann_window(400), return_complex=True)
    log_mels = (slaney_filters(num_mels) @ spectrum[..., :-1].abs() ** 2).clamp(min=1e-10).log10()
    return (torch.maximum(log_mels, log_mels.max() - 8.0) + 4.0) / 4.0


@pytest.mark.parametrize("num_mels", [80, 128])
@pytest.mark.parametrize("kind", ["speech", "noise", "silence", "short"])
def test_features_are_whispers(num_mels: int, kind: str) -> None:
    waveform = {
        "speech": speech_like(7.3),
        "noise": np.random.default_rng(0).standard_normal(50_000).astype(np.float32) * 0.3,
        "silence": np.zeros(16_000, np.float32),
        "short": speech_like(0.05),
    }[kind]
    features = log_mel(waveform, num_mels)
    expected = whisper_features(waveform, num_mels).T.numpy()
    assert features.shape == expected.shape and features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_a_window_is_filled_with_silence() -> None:
    waveform = speech_like(2.0)
    padded = np.pad(waveform, (0, 30 * SAMPLE_RATE_HZ - len(waveform)))
    features = log_mel(waveform, 80, 30 * FRAMES_PER_S)
    assert features.shape == (3000, 80)
    np.testing.assert_allclose(features, whisper_features(padded, 80).T.numpy(), atol=1e-4)


def test_features_equal_faster_whispers() -> None:
    extractor = pytest.importorskip("faster_whisper.feature_extractor").FeatureExtractor()
    waveform = speech_like(7.3)
    np.testing.assert_allclose(log_mel(waveform, 80), extractor(waveform, padding=0).T[:730], atol=1e-4)


@pytest.mark.parametrize("num_samples", [0, 1, 159])
def test_less_than_a_frame_gives_none(num_samples: int) -> None:
    assert log_mel(np.ones(num_samples, np.float32), 80).shape == (0, 80)
