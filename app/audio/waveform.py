"""Any audio file to samples: decoded frame by frame, and refused before it takes more memory than it may.

What a header says of the length is not believed: frames are counted as they come.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError

from app.audio.features import SAMPLE_RATE_HZ
from app.errors import InputError, TooLargeError

Waveform = npt.NDArray[np.float32]  # [S], mono, 16 kHz, -1 to 1

# Nothing that opens other files or addresses (playlists, concatenations, cue sheets), and no more code than is needed.
_CONTAINERS = ("wav", "w64", "aiff", "au", "caf", "flac", "mp3", "ogg", "mov", "matroska", "aac", "amr")
_PCM = tuple(f"pcm_{kind}" for kind in ("u8", "s8", "alaw", "mulaw")) + tuple(
    f"pcm_{kind}{order}" for kind in ("s16", "s24", "s32", "f32", "f64") for order in ("le", "be")
)
_CODECS = (
    *_PCM,
    "adpcm_ms",
    "adpcm_ima_wav",
    "flac",
    "alac",
    "mp3",
    "mp3float",
    "aac",
    "vorbis",
    "opus",
    "libopus",
    "amrnb",
    "amrwb",
)
_RESTRICTIONS = {
    "format_whitelist": ",".join(_CONTAINERS),
    "codec_whitelist": ",".join(_CODECS),
    "protocol_whitelist": "none",  # the open file is all there is
    "max_streams": "32",
}
_LOWEST_RATE_HZ, _HIGHEST_RATE_HZ = 4_000, 384_000
_MOST_CHANNELS = 64
# What may be decoded for a second of the limit: as much as eight channels at 48 kHz.
_VALUES_A_SECOND = 8 * 48_000
_READABLE = "wav, flac, mp3, ogg, opus, m4a, aac, webm or mp4"


def read_waveform(file: BinaryIO | Path, max_duration_s: float) -> Waveform:
    """The first audio track, mixed to one channel. Of a file that breaks off, what is there.

    Raises: InputError for what is no audio, TooLargeError beyond `max_duration_s`; memory stays within what so many
    seconds take.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return read_waveform(opened, max_duration_s)
    if not file.seek(0, 2):
        raise InputError("the file is empty; send a recording")
    file.seek(0)
    try:
        # Tags in a broken encoding are no reason to refuse the sound.
        with av.open(file, mode="r", metadata_errors="ignore", options=_RESTRICTIONS) as container:
            return _mixed(_frames(container), max_duration_s)
    except FFmpegError as error:  # its text may hold a path
        raise InputError(f"the file is no audio that can be read ({error.strerror}); send {_READABLE}") from error


def _frames(container: InputContainer) -> Iterator[AudioFrame]:
    """The frames that can be decoded. Raises: InputError where there is none though there should be."""
    stream = container.streams.best("audio")
    if stream is None:
        raise InputError(f"the file has no audio track; send {_READABLE}")
    # A codec that is not known here gives no decoder.
    name = stream.codec_context.name if stream.codec_context is not None else "unknown"
    if name not in _CODECS:
        raise InputError(f"audio in the codec {name!r} is not read; send {_READABLE}")
    num_frames = 0
    failure: FFmpegError | None = None
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            frames = [] if packet is None else packet.decode()
        except InvalidDataError as error:  # as players do: what is damaged is left out
            failure = error
            continue
        except FFmpegError as error:
            packet, frames, failure = None, [], error
        for frame in frames:
            if isinstance(frame, AudioFrame) and frame.samples:
                num_frames += 1
                yield frame
        if packet is None:
            break
    if failure is not None and not num_frames:
        raise InputError(f"none of the audio could be decoded ({failure.strerror}); send {_READABLE}") from failure


def _mixed(frames: Iterator[AudioFrame], max_duration_s: float) -> Waveform:
    """All frames as mono at 16 kHz. Raises: InputError for a rate or layout that makes no sense, TooLargeError."""
    samples = bytearray()  # grows in place, where a list of arrays would be copied once more
    resampler, kind = _new_resampler(), None
    duration_s, num_values = 0.0, 0
    for frame in frames:
        _check(frame)
        # Before it is resampled: nothing over the limit takes memory.
        duration_s += frame.samples / frame.sample_rate
        if duration_s > max_duration_s:
            raise TooLargeError(f"the recording is longer than {max_duration_s:g} s, the limit; send it in parts")
        num_values += frame.samples * frame.layout.nb_channels
        if num_values > _VALUES_A_SECOND * max_duration_s:
            raise TooLargeError(
                f"the recording holds more than {max_duration_s:g} s of eight channels at 48 kHz, the limit; "
                "send fewer channels or a lower sample rate"
            )
        arrived = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind not in (None, arrived):  # tracks may change on the way
            _append(samples, resampler.resample(None))
            resampler = _new_resampler()
        kind = arrived
        frame.pts = None  # time is what has been heard, whatever the stamps say
        _append(samples, resampler.resample(frame))
    if kind is not None:
        _append(samples, resampler.resample(None))
    waveform = np.frombuffer(samples, np.float32)
    if not np.isfinite(waveform).all():
        raise InputError("the recording holds samples that are no numbers; save it in another format")
    return waveform


def _check(frame: AudioFrame) -> None:
    if not _LOWEST_RATE_HZ <= frame.sample_rate <= _HIGHEST_RATE_HZ:
        raise InputError(
            f"the sample rate is {frame.sample_rate} Hz; from {_LOWEST_RATE_HZ} to {_HIGHEST_RATE_HZ} Hz are read"
        )
    if not 1 <= frame.layout.nb_channels <= _MOST_CHANNELS:
        raise InputError(f"there are {frame.layout.nb_channels} channels; from 1 to {_MOST_CHANNELS} are read")


def _new_resampler() -> AudioResampler:
    return AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)


def _append(samples: bytearray, frames: list[AudioFrame]) -> None:
    for frame in frames:
        samples += frame.to_ndarray().tobytes()
