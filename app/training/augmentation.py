"""What training does to recordings, so that a model meets more voices, rooms and microphones than its data has.

Every function takes the random generator that it draws from: what is drawn can be drawn again.
"""

from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

Floats = npt.NDArray[np.float32]


class AugmentationOptions(BaseModel):
    """Ranges, smallest and largest, that are drawn from for every source anew; by default nothing is changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    speed: tuple[float, float] = Field((1.0, 1.0), description="How much faster it plays; pitch goes with it.")
    gain_db: tuple[float, float] = Field((0.0, 0.0), description="How much louder.")
    noise_probability: float = Field(0.0, ge=0, le=1, description="How often noise is added.")
    noise_snr_db: tuple[float, float] = Field((10.0, 40.0), description="Speech over noise.")
    tilt_db: float = Field(0.0, ge=0, le=40, description="Most that the spectrum's course is bent up or down.")
    frequency_masks: int = Field(0, ge=0)
    frequency_mask_mels: int = Field(15, ge=1, description="Widest mask.")
    time_masks: int = Field(0, ge=0)
    time_mask_frames: int = Field(40, ge=1, description="Longest mask; never more than a fifth of the source.")

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        for name in ("speed", "gain_db", "noise_snr_db"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} [{low}, {high}] must be a range: smallest, then largest")
        if not 0.5 <= self.speed[0] <= self.speed[1] <= 2:
            raise ValueError(f"speed {list(self.speed)} must lie between 0.5 and 2")
        return self


def changed_speed(waveform: Floats, speed: float) -> Floats:
    """`waveform` [S] played `speed` times as fast [round(S / speed)] (Ko 2015, "Audio augmentation")."""
    if speed == 1.0 or not len(waveform):
        return waveform
    places = np.arange(num_samples(len(waveform), speed)) * speed
    changed: Floats = np.interp(places, np.arange(len(waveform)), waveform).astype(np.float32)
    return changed


def num_samples(count: int, speed: float) -> int:
    """How many samples `count` of them are at `speed`."""
    return max(1, round(count / speed)) if count else 0


def spoil(waveform: Floats, options: AugmentationOptions, random: np.random.Generator) -> Floats:
    """Another microphone, another room: the spectrum's course, loudness, noise. [S] -> [S]."""
    if options.tilt_db:
        waveform = _tilted(waveform, options.tilt_db, random)
    if options.gain_db != (0.0, 0.0):
        waveform = waveform * np.float32(10 ** (random.uniform(*options.gain_db) / 20))
    if options.noise_probability and random.random() < options.noise_probability:
        noise = _noise(len(waveform), exponent=random.uniform(0, 2), random=random)
        loudness = np.sqrt(np.mean(waveform**2)) * 10 ** (-random.uniform(*options.noise_snr_db) / 20)
        waveform = waveform + np.float32(loudness) * noise
    return waveform.astype(np.float32, copy=False)


def _noise(length: int, exponent: float, random: np.random.Generator) -> Floats:
    """Noise [S] of mean square 1 whose power falls with frequency ** -exponent: 0 is white, 1 pink, 2 brown."""
    spectrum = np.fft.rfft(random.standard_normal(_fast_size(length)))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1) ** (-exponent / 2)
    noise = np.fft.irfft(spectrum)[:length]
    return (noise / max(float(np.sqrt(np.mean(noise**2))), 1e-12)).astype(np.float32)


def _tilted(waveform: Floats, tilt_db: float, random: np.random.Generator) -> Floats:
    """The spectrum raised and lowered along a course of straight lines between random points."""
    size = _fast_size(len(waveform))
    spectrum = np.fft.rfft(waveform, size)
    corners = random.uniform(-tilt_db, tilt_db, 6)
    # Even on a scale of octaves above a hundredth of the highest frequency, as hearing is.
    places = np.log(np.linspace(0, 1, len(spectrum)) * 100 + 1) / np.log(101)
    course = np.interp(places, np.linspace(0, 1, len(corners)), corners)
    tilted: Floats = np.fft.irfft(spectrum * 10 ** (course / 20), size)[: len(waveform)].astype(np.float32)
    return tilted


def _fast_size(length: int) -> int:
    """A length with small factors, not below `length`: the transform of a prime one takes twenty times as long."""
    step = 1 << max(0, length.bit_length() - 3)
    return max(2, -(-length // step) * step)


def mask(features: Floats, options: AugmentationOptions, random: np.random.Generator) -> Floats:
    """SpecAugment: bands of mels and spans of frames are set to the mean. [F, M] -> [F, M].

    Source: Park 2019, arXiv:1904.08779, section 2, without time warping.
    """
    num_frames, num_mels = features.shape
    masked, mean = features.copy(), features.mean()
    for _ in range(options.frequency_masks):
        size = int(random.integers(0, min(options.frequency_mask_mels, num_mels) + 1))
        start = int(random.integers(0, num_mels - size + 1))
        masked[:, start : start + size] = mean
    for _ in range(options.time_masks):
        size = int(random.integers(0, min(options.time_mask_frames, num_frames // 5) + 1))
        start = int(random.integers(0, num_frames - size + 1))
        masked[start : start + size] = mean
    return masked
