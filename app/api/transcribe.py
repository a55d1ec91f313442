"""`POST /transcribe`."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.api.disconnect import unless_disconnected
from app.api.events import Tell, stream, wants_events
from app.api.parameters import MULTIPART, validate
from app.api.problems import PROBLEMS, problem_response, public_message
from app.api.refusals import ParameterError
from app.api.schemas import TranscribeRequest, TranscribeResponse, TranscribeResults
from app.api.service import Service, service_of
from app.api.speech import beam_size_of, choose_transcriber, transcribe_with
from app.api.transcripts import transcript_json, transcript_text
from app.api.uploads import read_upload
from app.errors import AppError
from app.tasks.recordings import Waveform
from app.tasks.transcript import TranscribeOptions

router = APIRouter(tags=["transcription"])

_BODY = {
    "requestBody": {"required": True, "content": {MULTIPART: {"schema": TranscribeRequest.model_json_schema()}}},
}


@router.post(
    "/transcribe", response_model=TranscribeResponse | TranscribeResults, responses=PROBLEMS, openapi_extra=_BODY
)
async def transcribe(request: Request) -> Response:
    """Transcribe a recording, or several as one batch, or translate what is said into English.

    With `Accept: text/event-stream` a single recording is answered segment by segment.
    """
    service = service_of(request)
    service.check_ready()
    async with read_upload(request, service.settings.max_files) as upload:
        parameters = upload.first()
        service.check_key(request, parameters.get("api_key"))
        asked = validate(TranscribeRequest, {**parameters, "file": [""]})
        options = _options(asked, service)
        is_list, has_events = len(upload.files) > 1, wants_events(request)
        if asked.response_format in ("text", "srt", "vtt") and (is_list or has_events):
            raise ParameterError(
                "response_format",
                f"response_format {asked.response_format} is for one recording without events; ask for json",
            )
        name = choose_transcriber(service, asked.model, options.language, options.task)
        deadline_s = service.deadline_s(request, service.settings.audio_timeout_s)
        recordings = await unless_disconnected(request, service.recordings.read(upload.files, deadline_s))
    if has_events and not is_list:
        if isinstance(recordings[0], AppError):
            raise recordings[0]

        async def work(tell: Tell) -> Response:
            return await _transcribe(service, name, recordings, asked, options, deadline_s, tell)

        return stream(work)
    return await unless_disconnected(request, _transcribe(service, name, recordings, asked, options, deadline_s, None))


async def _transcribe(
    service: Service,
    name: str,
    recordings: Sequence[Waveform | AppError],
    asked: TranscribeRequest,
    options: TranscribeOptions,
    deadline_s: float,
    tell: Tell | None,
) -> Response:
    manifest, results = await transcribe_with(service, name, recordings, options, deadline_s, tell)
    model = f"{manifest.name}@{manifest.version}"

    def answer(result: Any) -> dict[str, Any]:
        if isinstance(result, AppError):
            return {"error": public_message(result)}
        return transcript_json(result, options.task, model, is_verbose=asked.response_format == "verbose_json")

    if len(results) > 1:
        return JSONResponse({"results": [answer(result) for result in results]})
    [result] = results
    if isinstance(result, AppError):
        return problem_response(result)
    if asked.response_format == "json" or asked.response_format == "verbose_json":
        return JSONResponse(answer(result))
    return transcript_text(result, asked.response_format)


def _options(asked: TranscribeRequest, service: Service) -> TranscribeOptions:
    return TranscribeOptions(
        language=asked.language.lower() if asked.language else None,
        task=asked.task,
        beam_size=beam_size_of(service, asked.beam_size),
        temperature=asked.temperature,
        prompt=asked.prompt,
        has_word_times=asked.word_timestamps,
    )
