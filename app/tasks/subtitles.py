"""Segments as subtitles: SubRip (srt) and WebVTT (vtt)."""

from collections.abc import Iterator, Sequence

from app.tasks.transcript import Segment


def srt(segments: Sequence[Segment]) -> str:
    """SubRip: numbered cues, a comma before the milliseconds. Empty without segments."""
    cues = enumerate(_cues(segments, ","), 1)
    return "".join(f"{number}\n{times}\n{text}\n\n" for number, (times, text) in cues)


def vtt(segments: Sequence[Segment]) -> str:
    """WebVTT; its first line is there without segments too. Source: https://www.w3.org/TR/webvtt1/."""
    cues = ((times, _escaped(text)) for times, text in _cues(segments, "."))
    return "WEBVTT\n\n" + "".join(f"{times}\n{text}\n\n" for times, text in cues)


def _cues(segments: Sequence[Segment], point: str) -> Iterator[tuple[str, str]]:
    """(times, text) of every segment that says something; white space is one space, for an empty line ends a cue."""
    for segment in segments:
        text = " ".join(segment.text.split())
        if text:
            yield f"{_time(segment.start_s, point)} --> {_time(segment.end_s, point)}", text


def _time(seconds: float, point: str) -> str:
    """As 01:02:03.456."""
    minutes, milliseconds = divmod(round(max(0.0, seconds) * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
