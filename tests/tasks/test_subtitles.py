"""Subtitles as strict parsers of others read them."""

from datetime import timedelta
from io import StringIO

import srt as srt_parser
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from app.tasks.subtitles import srt, vtt
from app.tasks.transcript import Segment


def segment(text: str, start_s: float, end_s: float) -> Segment:
    return Segment(text, start_s, end_s, (), 0.0, -0.1, 1.0, 0.0)


SEGMENTS = [
    segment("Good morning.", 0.0, 1.2345),
    segment(" A & B <i>say</i>\n\n--> yes.", 59.9996, 61),
    segment("  ", 61, 62),
    segment(" The end.", 3_723.456, 36_000.5),
]


def test_srt_is_read_back() -> None:
    cues = list(srt_parser.parse(srt(SEGMENTS), ignore_errors=False))
    assert [cue.index for cue in cues] == [1, 2, 3]
    assert [cue.content for cue in cues] == ["Good morning.", "A & B <i>say</i> --> yes.", "The end."]
    assert cues[0].end == timedelta(milliseconds=1234)
    assert (cues[1].start, cues[1].end) == (timedelta(minutes=1), timedelta(seconds=61))
    assert (cues[2].start, cues[2].end) == (timedelta(milliseconds=3_723_456), timedelta(milliseconds=36_000_500))


def test_vtt_is_read_back() -> None:
    captions = webvtt.from_buffer(StringIO(vtt(SEGMENTS)))
    assert [caption.text for caption in captions] == ["Good morning.", "A & B <i>say</i> --> yes.", "The end."] or [
        caption.raw_text for caption in captions
    ] == ["Good morning.", "A &amp; B &lt;i&gt;say&lt;/i&gt; --&gt; yes.", "The end."]
    assert captions[2].start == "01:02:03.456"
    assert "<i>" not in vtt(SEGMENTS)


def test_without_segments_srt_is_empty_and_vtt_has_its_first_line() -> None:
    assert srt([]) == ""
    assert vtt([]).startswith("WEBVTT\n")
    assert len(webvtt.from_buffer(StringIO(vtt([])))) == 0


@given(st.lists(st.tuples(st.text(max_size=30), st.floats(0, 90_000), st.floats(0, 100)), max_size=5))
def test_any_text_is_one_cue(parts: list[tuple[str, float, float]]) -> None:
    segments = [segment(text, start_s, start_s + length_s) for text, start_s, length_s in parts]
    said = sum(bool(text.split()) for text, _, _ in parts)
    assert vtt(segments).count("\n\n") == said + 1
    assert srt(segments).count("\n\n") == said
