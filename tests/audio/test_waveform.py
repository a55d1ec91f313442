"""Files of every kind to samples: right where they are sound, refused in little memory where they are not."""

import struct
import tracemalloc
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.audio.features import SAMPLE_RATE_HZ
from app.audio.waveform import read_waveform
from app.errors import AppError, InputError, TooLargeError
from tests.audio.recordings import encoded, silent_film, speech_like, wav

VOICE = speech_like(3.0)


@pytest.mark.parametrize(
    ("container", "codec", "rate_hz", "most_different"),
    [
        ("wav", "pcm_s16le", 16_000, 1e-4),
        ("wav", "pcm_f32le", 16_000, 1e-6),
        ("flac", "flac", 16_000, 1e-4),
        ("mp3", "libmp3lame", 16_000, 0.1),
        ("ogg", "libopus", 48_000, 0.2),
        ("webm", "libopus", 48_000, 0.2),
        ("ipod", "aac", 16_000, 0.1),
        ("mp4", "aac", 16_000, 0.1),
    ],
)
def test_every_format_gives_the_sound_that_was_written(
    container: str, codec: str, rate_hz: int, most_different: float
) -> None:
    written = np.repeat(VOICE, rate_hz // SAMPLE_RATE_HZ)
    waveform = read_waveform(encoded(written, container, codec, rate_hz), 60)
    assert waveform.dtype == np.float32
    assert abs(len(waveform) - len(VOICE)) <= 1152  # codecs pad their last frame
    heard, meant = waveform[: len(VOICE)], VOICE[: len(waveform)]
    assert np.sqrt(np.mean((heard - meant) ** 2)) < most_different * np.sqrt(np.mean(meant**2))


def test_aac_without_a_container_is_read() -> None:
    waveform = read_waveform(encoded(VOICE, "adts", "aac"), 60)
    assert len(waveform) == pytest.approx(len(VOICE), abs=4096)  # nothing there says how long the lead-in is


@pytest.mark.parametrize(
    ("rate_hz", "layout", "channels"), [(192_000, "7.1", 8), (44_100, "stereo", 2), (8_000, "mono", 1)]
)
def test_rates_and_channels_are_brought_to_mono_at_16_khz(rate_hz: int, layout: str, channels: int) -> None:
    time_s = np.arange(rate_hz) / rate_hz
    tone = 0.1 * np.sin(2 * np.pi * 440 * time_s).astype(np.float32)
    file = encoded(np.repeat(tone[:, None], channels, axis=1), "wav", "pcm_s16le", rate_hz, layout)
    waveform = read_waveform(file, 60)
    assert len(waveform) == pytest.approx(SAMPLE_RATE_HZ, abs=40)
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    assert np.argmax(spectrum) * SAMPLE_RATE_HZ / len(waveform) == pytest.approx(440, abs=1.5)


def test_the_end_of_a_file_may_be_missing() -> None:
    whole = wav(VOICE)
    waveform = read_waveform(BytesIO(whole[: len(whole) // 2]), 60)
    assert len(waveform) == pytest.approx(len(VOICE) / 2, abs=100)
    mp3 = encoded(VOICE, "mp3", "libmp3lame").getvalue()
    assert len(read_waveform(BytesIO(mp3[: len(mp3) // 2]), 60)) == pytest.approx(len(VOICE) / 2, rel=0.2)


def test_a_header_that_lies_about_the_length_is_not_believed() -> None:
    content = bytearray(wav(VOICE))
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", 0xFFFFFF00)
    assert len(read_waveform(BytesIO(bytes(content)), 60)) == len(VOICE)


@pytest.mark.parametrize(("offset", "value"), [(24, 3), (24, 4_000_000_000), (22, 60_000)])
def test_absurd_rates_and_channels_are_refused(offset: int, value: int) -> None:
    content = bytearray(wav(VOICE))
    field = struct.pack("<H" if offset == 22 else "<I", value)
    content[offset : offset + len(field)] = field
    with pytest.raises(InputError):
        read_waveform(BytesIO(bytes(content)), 60)


@pytest.mark.parametrize(("container", "codec", "rate_hz"), [("flac", "flac", 16_000), ("ogg", "libopus", 48_000)])
def test_a_small_file_of_long_silence_is_refused_in_little_memory(container: str, codec: str, rate_hz: int) -> None:
    file = encoded(np.zeros(600 * rate_hz, np.float32), container, codec, rate_hz)
    assert len(file.getvalue()) < 1_000_000
    tracemalloc.start()
    with pytest.raises(TooLargeError, match="longer than 20 s, the limit; send it in parts"):
        read_waveform(file, 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * 20 * SAMPLE_RATE_HZ * 4


def test_many_channels_at_a_high_rate_have_a_limit_of_work() -> None:
    file = encoded(np.zeros((2 * 192_000, 8), np.float32), "flac", "flac", 192_000, "7.1")
    with pytest.raises(TooLargeError, match="fewer channels"):
        read_waveform(file, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"This is a letter, not a recording.\n" * 50, "no audio that can be read"),
        (b"RIFF\x00\x00\x00\x00WAVE", "no audio that can be read"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n", "no audio"),
        (b"ffconcat version 1.0\nfile '/etc/hostname'\n", "no audio"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "no audio"),
    ],
)
def test_what_is_no_audio_is_refused_with_the_way_out(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "secret-name.wav"
    path.write_bytes(content)
    for file in (path, BytesIO(content)):
        with pytest.raises(InputError, match=message) as caught:
            read_waveform(file, 60)
        assert "send" in str(caught.value) and "secret-name" not in str(caught.value)


def test_a_video_without_sound_is_refused() -> None:
    with pytest.raises(InputError, match="no audio track"):
        read_waveform(silent_film(), 60)


@pytest.mark.parametrize("num_samples", [0, 1, 2])
def test_a_handful_of_samples_is_a_recording(num_samples: int) -> None:
    assert len(read_waveform(BytesIO(wav(VOICE[:num_samples])), 60)) == num_samples


def test_samples_that_are_no_numbers_are_refused() -> None:
    samples = VOICE.copy()
    samples[100] = np.nan
    with pytest.raises(InputError, match="no numbers"):
        read_waveform(encoded(samples, "wav", "pcm_f32le"), 60)


FILES = [
    wav(VOICE[:8000]),
    *(
        encoded(np.repeat(VOICE[:8000], rate_hz // SAMPLE_RATE_HZ), container, codec, rate_hz).getvalue()
        for container, codec, rate_hz in (
            ("mp3", "libmp3lame", 16_000),
            ("flac", "flac", 16_000),
            ("ogg", "libopus", 48_000),
            ("mp4", "aac", 16_000),
        )
    ),
]


@settings(max_examples=150, deadline=None)
@given(
    content=st.sampled_from(FILES),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=20),
    kept=st.floats(0, 1),
)
def test_damage_ends_in_samples_or_in_an_error_of_ours(
    content: bytes, changes: list[tuple[float, int]], kept: float
) -> None:
    damaged = bytearray(content)
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    try:
        waveform = read_waveform(BytesIO(bytes(damaged[: int(kept * len(damaged))])), 5)
    except AppError:
        return
    assert len(waveform) <= 5 * SAMPLE_RATE_HZ + 200


def test_real_speech_is_read(data_folder: Path) -> None:
    waveform = read_waveform(data_folder / "speech" / "read_en" / "audio" / "smoke" / "jfk.flac", 60)
    assert len(waveform) == 11 * SAMPLE_RATE_HZ and 0.5 < np.abs(waveform).max() <= 1.0
