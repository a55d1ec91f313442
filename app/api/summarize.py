"""`POST /summarize`."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.api.disconnect import unless_disconnected
from app.api.events import Tell, stream, wants_events
from app.api.parameters import read_parameters, validate
from app.api.problems import PROBLEMS, problem_response, public_message
from app.api.schemas import SummarizeRequest, SummarizeResponse, SummarizeResults
from app.api.service import Service, service_of
from app.errors import AppError, InputError, UnknownModelError
from app.tasks.build import LoadedSummarizer
from app.tasks.summarize import SummarizeOptions, Summary
from app.telemetry import REJECTED_TOTAL

router = APIRouter(tags=["summarization"])

_FORMS = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")
_BODY = {
    "requestBody": {
        "required": True,
        "content": {form: {"schema": SummarizeRequest.model_json_schema()} for form in _FORMS},
    }
}


@router.post("/summarize", response_model=SummarizeResponse | SummarizeResults, responses=PROBLEMS, openapi_extra=_BODY)
async def summarize(request: Request) -> Response:
    """Summarize a document, or a list of documents as one batch. What is too long for the model is read in parts.

    With `Accept: text/event-stream` a single text is answered by events.
    """
    service = service_of(request)
    parameters = await read_parameters(request)
    service.check_key(request, parameters.get("api_key"))
    texts = _texts(parameters, service)
    asked = validate(SummarizeRequest, {**parameters, "text": "", "texts": None})
    options = _options(asked, service)
    service.check_ready()
    is_list = parameters.get("texts") is not None
    name, deadline_s = _choose(service, asked.model), service.deadline_s(request)
    if wants_events(request) and not is_list:

        async def work(tell: Tell) -> JSONResponse:
            return await _summarize(service, name, texts, options, deadline_s, is_list=False, tell=tell)

        return stream(work)
    return await unless_disconnected(request, _summarize(service, name, texts, options, deadline_s, is_list=is_list))


async def _summarize(
    service: Service,
    name: str,
    texts: Sequence[str],
    options: SummarizeOptions,
    deadline_s: float,
    *,
    is_list: bool,
    tell: Tell | None = None,
) -> JSONResponse:
    with service.catalog.lease(name) as loaded:
        assert isinstance(loaded, LoadedSummarizer)
        results = await loaded.summarizer.summarize(texts, options, deadline_s)
    model = f"{loaded.manifest.name}@{loaded.manifest.version}"
    answers = [_answer(result, model, options) for result in results]
    if is_list:
        return JSONResponse({"results": answers})
    if isinstance(results[0], AppError):
        return problem_response(results[0])
    if tell is not None:
        tell(results[0].text)
    return JSONResponse(answers[0])


def _texts(parameters: dict[str, Any], service: Service) -> list[str]:
    text, texts = parameters.get("text"), parameters.get("texts")
    if text is not None and texts is not None:
        raise InputError("Invalid request: give text or texts, not both")
    if texts is None:
        if text is None or text == "":
            raise InputError("Invalid request: missing text parameter")
        if not isinstance(text, str):
            raise InputError("Invalid request: text parameter must be a string; a list goes into texts")
        given: Sequence[object] = [text]
    else:
        if not isinstance(texts, list) or not texts:
            raise InputError("Invalid request: texts parameter must be a list of strings, with at least one")
        given = texts
    found = [one for one in given if isinstance(one, str)]
    if len(found) < len(given):
        raise InputError("Invalid request: texts parameter must be a list of strings")
    _check_limit("documents", len(found), service.settings.max_items)
    _check_limit("characters", sum(map(len, found)), service.settings.max_document_characters)
    return found


def _check_limit(unit: str, number: int, limit: int) -> None:
    if number > limit:
        REJECTED_TOTAL.labels("too_large").inc()
        raise InputError(f"Invalid request: {number} {unit} are over the limit of {limit}; send less at once")


def _options(asked: SummarizeRequest, service: Service) -> SummarizeOptions:
    widest = service.settings.max_beam_size
    for name, value in (("beam_size", asked.beam_size), ("num_summaries", asked.num_summaries)):
        if value is not None and value > widest:
            raise InputError(f"Invalid request: {name} parameter must be <= {widest}")
    for unit, shortest, longest in (
        ("length", asked.min_length, asked.max_length),
        ("tokens", asked.min_tokens, asked.max_tokens),
    ):
        if shortest is not None and longest is not None and shortest > longest:
            raise InputError(f"Invalid request: min_{unit} parameter must be <= max_{unit} = {longest}")
    if asked.beam_size is not None and asked.num_summaries > asked.beam_size:
        raise InputError(f"Invalid request: num_summaries parameter must be <= beam_size = {asked.beam_size}")
    return SummarizeOptions(
        kind=asked.kind,
        beam_size=asked.beam_size or service.settings.default_beam_size,
        length_penalty=asked.length_penalty,
        num_summaries=asked.num_summaries,
        min_words=asked.min_length,
        max_words=asked.max_length,
        min_tokens=asked.min_tokens,
        max_tokens=asked.max_tokens,
    )


def _choose(service: Service, model: str | None) -> str:
    if model is None:
        return service.catalog.find("summarize").manifest.name
    name, _, version = model.partition("@")
    loaded = service.catalog.get(name)
    if version not in ("", loaded.manifest.version):
        raise UnknownModelError(f"{name} serves version {loaded.manifest.version}, not {version[:64]!r}")
    if not isinstance(loaded, LoadedSummarizer):
        raise UnknownModelError(f"{name} does not summarize, it can {loaded.manifest.task}")
    return name


def _answer(result: Summary | AppError, model: str, options: SummarizeOptions) -> dict[str, Any]:
    if isinstance(result, AppError):
        return {"error": public_message(result)}
    answer: dict[str, Any] = {"summary": result.text}
    if options.num_summaries > 1:
        answer["alternatives"] = list(result.alternatives)
    return answer | {
        "model": model,
        "kind": result.kind,
        "parts": result.num_parts,
        "truncated": result.is_truncated,
        "finish_reason": result.finish_reason,
        "warnings": list(result.warnings),
    }
