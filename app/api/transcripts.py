"""Transcripts on the wire: our JSON, plain text and subtitles."""

import math
from collections.abc import Sequence
from typing import Any, Literal

from fastapi.responses import PlainTextResponse

from app.tasks import subtitles
from app.tasks.transcript import Segment, SpeechTask, Transcript, Word

TextFormat = Literal["text", "srt", "vtt"]
_MEDIA_TYPES: dict[TextFormat, str] = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


def transcript_text(transcript: Transcript, form: TextFormat) -> PlainTextResponse:
    """All of it as one string."""
    if form == "text":
        content = transcript.text + "\n"
    else:
        content = (subtitles.srt if form == "srt" else subtitles.vtt)(transcript.segments)
    return PlainTextResponse(content, media_type=_MEDIA_TYPES[form])


def transcript_json(transcript: Transcript, task: SpeechTask, model: str, *, is_verbose: bool) -> dict[str, Any]:
    """As `TranscribeResponse`."""
    made = {"task": task} if is_verbose else {}
    return made | {
        "text": transcript.text,
        "language": transcript.language,
        "duration": seconds(transcript.duration_s),
        "segments": [
            segment_json(number, segment, is_verbose=is_verbose) for number, segment in enumerate(transcript.segments)
        ],
        "model": model,
        "warnings": list(transcript.warnings),
    }


def segment_json(number: int, segment: Segment, *, is_verbose: bool) -> dict[str, Any]:
    """As `TranscriptSegment`."""
    found: dict[str, Any] = {
        "id": number,
        "start": seconds(segment.start_s),
        "end": seconds(segment.end_s),
        "text": segment.text,
        "confidence": round(math.exp(segment.mean_log_prob), 4),
    }
    if segment.words:
        found["words"] = words_json(segment.words, has_confidence=True)
    return found | segment_details(segment) if is_verbose else found


def segment_details(segment: Segment) -> dict[str, Any]:
    """What OpenAI's `verbose_json` has of a segment beside its text and times."""
    return {
        "seek": round(segment.start_s * 100),
        "tokens": list(segment.ids),
        "temperature": segment.temperature,
        "avg_logprob": round(segment.mean_log_prob, 6),
        "compression_ratio": round(segment.compression_ratio, 6),
        "no_speech_prob": round(segment.no_speech_probability, 6),
    }


def words_json(words: Sequence[Word], *, has_confidence: bool) -> list[dict[str, Any]]:
    return [
        {"word": word.text.strip(), "start": seconds(word.start_s), "end": seconds(word.end_s)}
        | ({"confidence": round(word.probability, 4)} if has_confidence else {})
        for word in words
    ]


def seconds(value: float) -> float:
    """To the millisecond."""
    return round(value, 3)
