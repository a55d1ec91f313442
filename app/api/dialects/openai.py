"""OpenAI's audio routes and its list of models: `/v1/audio/transcriptions`, `/v1/audio/translations`, `/v1/models`.

Source: https://github.com/openai/openai-openapi, `openapi.yaml`.
"""

import json
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from app.api.disconnect import unless_disconnected
from app.api.events import Frames, Tell, stream
from app.api.names import language_name
from app.api.parameters import MULTIPART, validate
from app.api.refusals import ParameterError
from app.api.service import Service, service_of
from app.api.speech import beam_size_of, choose_transcriber, transcribe_with
from app.api.transcripts import seconds, segment_details, transcript_text, words_json
from app.api.uploads import Upload, read_upload
from app.errors import AppError, InputError, TooLargeError
from app.store.manifest import Manifest
from app.tasks.recordings import Waveform
from app.tasks.transcript import SpeechTask, TranscribeOptions, Transcript

router = APIRouter(tags=["OpenAI"])

# What clients ask for that were written for OpenAI: whichever model answers where none is named.
_ALIAS = "whisper-1"
_GRANULARITIES = ("timestamp_granularities[]", "timestamp_granularities")
_NOT_KNOWN = ("include", "include[]", "known_speaker_names[]", "known_speaker_references[]")


class TranscriptionRequest(BaseModel):
    """The fields of both routes; `language`, `timestamp_granularities[]` and `stream` are for transcriptions."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    file: bytes = Field(json_schema_extra={"format": "binary"}, description="One recording.")
    model: str = Field(description=f"Name of a model, or {_ALIAS}.")
    language: str | None = Field(default=None, description="ISO 639-1 code; heard where not given.")
    prompt: str = Field(default="", max_length=10_000, description="Text that went before.")
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: float = Field(default=0, ge=0, le=1, description="0: higher ones too where the model is unsure.")
    stream: bool = Field(default=False, description="Answer by server-sent events.")


_BODY = {
    "requestBody": {"required": True, "content": {MULTIPART: {"schema": TranscriptionRequest.model_json_schema()}}},
}


@router.post("/v1/audio/transcriptions", openapi_extra=_BODY)
async def transcriptions(request: Request) -> Response:
    """Transcribe a recording, as OpenAI's clients ask for it."""
    return await _answer(request, service_of(request), "transcribe")


@router.post("/v1/audio/translations", openapi_extra=_BODY)
async def translations(request: Request) -> Response:
    """Translate what is said into English, as OpenAI's clients ask for it."""
    return await _answer(request, service_of(request), "translate")


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The models that answer now."""
    service = service_of(request)
    service.check_key(request, None)
    return {"object": "list", "data": [_model(one.manifest) for one in service.catalog.ready()]}


@router.get("/v1/models/{model:path}")
async def model(model: str, request: Request) -> dict[str, Any]:
    """One of them."""
    service = service_of(request)
    service.check_key(request, None)
    if model == _ALIAS:
        return _model(service.catalog.find("transcribe").manifest) | {"id": _ALIAS}
    return _model(service.catalog.get(model).manifest)


def _model(manifest: Manifest) -> dict[str, Any]:
    created = int(manifest.created_at.timestamp())
    return {"id": manifest.name, "object": "model", "created": created, "owned_by": "seq2serve"}


async def _answer(request: Request, service: Service, task: SpeechTask) -> Response:
    service.check_key(request, None)
    service.check_ready()
    async with read_upload(request, max_files=1) as upload:
        asked = validate(TranscriptionRequest, {**upload.first(), "file": b""})
        granularities = _granularities(upload, asked)
        options = TranscribeOptions(
            language=asked.language.lower() if asked.language and task == "transcribe" else None,
            task=task,
            beam_size=beam_size_of(service, None),
            temperature=asked.temperature or None,
            prompt=asked.prompt,
            has_word_times="word" in granularities,
        )
        name = choose_transcriber(service, None if asked.model == _ALIAS else asked.model, options.language, task)
        deadline_s = service.deadline_s(request, service.settings.audio_timeout_s)
        [recording] = await unless_disconnected(request, service.recordings.read(upload.files, deadline_s))
    if isinstance(recording, AppError):
        raise _refused(recording)

    async def work(tell: Tell | None) -> Response:
        transcript = await _transcript(service, name, recording, options, deadline_s, tell)
        if asked.stream:
            return JSONResponse({"type": "transcript.text.done", "text": transcript.text})
        if asked.response_format == "json":
            return JSONResponse({"text": transcript.text, "usage": _usage(transcript)})
        if asked.response_format == "verbose_json":
            return JSONResponse(_verbose(transcript, task, granularities))
        return transcript_text(transcript, asked.response_format)

    if asked.stream:
        return stream(work, _FRAMES, request.url.path)
    return await unless_disconnected(request, work(None))


async def _transcript(
    service: Service,
    name: str,
    recording: Waveform,
    options: TranscribeOptions,
    deadline_s: float,
    tell: Tell | None,
) -> Transcript:
    _, [result] = await transcribe_with(service, name, [recording], options, deadline_s, tell)
    if isinstance(result, AppError):
        raise result
    return result


def _granularities(upload: Upload, asked: TranscriptionRequest) -> set[str]:
    """What has times. Raises: ParameterError for what is not known, or not for this format."""
    for name in _NOT_KNOWN:
        if upload.all(name):
            raise ParameterError(name.removesuffix("[]"), f"{name.removesuffix('[]')} parameter is not supported")
    found = set(upload.all(*_GRANULARITIES))
    if found - {"word", "segment"}:
        raise ParameterError(_GRANULARITIES[1], f"{_GRANULARITIES[1]} parameter must be word or segment")
    if "word" in found and asked.response_format != "verbose_json":
        raise ParameterError(_GRANULARITIES[1], f"{_GRANULARITIES[1]} word needs response_format verbose_json")
    if asked.stream and asked.response_format not in ("json", "text"):
        raise ParameterError("response_format", f"a stream has no response_format {asked.response_format}")
    return found or {"segment"}


def _refused(error: AppError) -> AppError:
    """The error of a file that can not be read, by its parameter."""
    is_plain = isinstance(error, InputError) and not isinstance(error, TooLargeError)
    return ParameterError("file", str(error)) if is_plain else error


def _verbose(transcript: Transcript, task: SpeechTask, granularities: set[str]) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "task": task,
        "language": language_name(transcript.language).lower(),
        "duration": seconds(transcript.duration_s),
        "text": transcript.text,
    }
    if "segment" in granularities:
        answer["segments"] = [
            {"id": number, "start": seconds(segment.start_s), "end": seconds(segment.end_s), "text": segment.text}
            | segment_details(segment)
            for number, segment in enumerate(transcript.segments)
        ]
    if "word" in granularities:
        words = [word for segment in transcript.segments for word in segment.words]
        answer["words"] = words_json(words, has_confidence=False)
    return answer | {"usage": _usage(transcript)}


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": seconds(transcript.duration_s)}


def _frame(content: Any) -> bytes:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


_FRAMES = Frames(
    delta=lambda text: _frame({"type": "transcript.text.delta", "delta": text}),
    done=lambda content: _frame(content) + b"data: [DONE]\n\n",
    failed=lambda content, status: _frame(content),
)
