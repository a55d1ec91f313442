"""`POST /translate` and `POST /detect`."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.api.disconnect import unless_disconnected
from app.api.events import Tell, stream, wants_events
from app.api.names import language_name
from app.api.parameters import read_parameters, require, validate
from app.api.problems import PROBLEMS, problem_response, public_message
from app.api.schemas import DetectedLanguage, DetectRequest, TranslateRequest, TranslateResponse
from app.api.service import Service, service_of
from app.errors import AppError, InputError, UnknownModelError
from app.tasks.build import LoadedTask, LoadedTranslator
from app.tasks.detect import Detection
from app.tasks.translate import TranslateItem, TranslateOptions, Translation
from app.telemetry import REJECTED_TOTAL

router = APIRouter(tags=["translation"])

_NUM_DETECTIONS = 3


def _body(schema: type[TranslateRequest] | type[DetectRequest]) -> dict[str, Any]:
    """The request body for the OpenAPI page, which cannot see that we read it ourselves."""
    forms = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")
    content = {form: {"schema": schema.model_json_schema()} for form in forms}
    return {"requestBody": {"required": True, "content": content}}


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one text."""

    result: Translation | AppError
    detection: Detection | None
    model: str | None


@router.post("/translate", response_model=TranslateResponse, responses=PROBLEMS, openapi_extra=_body(TranslateRequest))
async def translate(request: Request) -> Response:
    """Translate a text, or a list of texts as one batch. LibreTranslate's clients work as they are.

    With `Accept: text/event-stream` a single text is answered sentence by sentence.
    """
    service = service_of(request)
    parameters = await read_parameters(request)
    service.check_key(request, parameters.get("api_key"))
    require(parameters, "q", "source", "target")
    texts = _texts(parameters["q"], service)
    asked = validate(TranslateRequest, {**parameters, "q": ""})
    _check_limits(asked, service)
    service.check_ready()
    deadline_s = service.deadline_s(request)
    if wants_events(request) and isinstance(parameters["q"], str):

        async def work(tell: Tell) -> JSONResponse:
            return _answer(await _translate(service, texts, asked, deadline_s, tell), asked, is_list=False)

        return stream(work)
    outcomes = await unless_disconnected(request, _translate(service, texts, asked, deadline_s))
    return _answer(outcomes, asked, is_list=not isinstance(parameters["q"], str))


@router.post("/detect", response_model=list[DetectedLanguage], responses=PROBLEMS, openapi_extra=_body(DetectRequest))
async def detect(request: Request) -> list[DetectedLanguage]:
    """Which of the loaded languages a text is in, likeliest first."""
    service = service_of(request)
    parameters = await read_parameters(request)
    service.check_key(request, parameters.get("api_key"))
    require(parameters, "q")
    text = parameters["q"]
    if not isinstance(text, str):
        raise InputError("Invalid request: q parameter must be a string")
    _check_length(len(text), service.settings.max_characters)
    service.check_ready()
    [detections] = await service.detector.detect([text], service.source_languages())
    return [_detected(detection) for detection in detections[:_NUM_DETECTIONS]]


def _texts(q: object, service: Service) -> list[str]:
    given = q if isinstance(q, list) else [q]
    _check_length(len(given), service.settings.max_items)
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) < len(given):
        raise InputError("Invalid request: q parameter must be a string or a list of strings")
    _check_length(sum(map(len, texts)), service.settings.max_characters)
    return texts


def _check_length(length: int, limit: int) -> None:
    if length > limit:
        REJECTED_TOTAL.labels("too_large").inc()
        raise InputError(f"Invalid request: request ({length}) exceeds text limit ({limit})")


def _check_limits(asked: TranslateRequest, service: Service) -> None:
    settings = service.settings
    if asked.format != "text":
        raise InputError(f"{asked.format[:16]} format is not supported")
    max_alternatives = min(settings.max_alternatives, settings.max_beam_size - 1)
    if asked.alternatives > max_alternatives:
        raise InputError(f"Invalid request: alternatives parameter must be <= {max_alternatives}")
    if asked.beam_size is not None and asked.beam_size > settings.max_beam_size:
        raise InputError(f"Invalid request: beam_size parameter must be <= {settings.max_beam_size}")


async def _translate(
    service: Service, texts: Sequence[str], asked: TranslateRequest, deadline_s: float, tell: Tell | None = None
) -> list[_Outcome]:
    detections: list[Detection | None] = [None] * len(texts)
    if asked.source == "auto":
        detections = [ranked[0] for ranked in await service.detector.detect(texts, service.source_languages())]
    items = [
        TranslateItem(text, asked.source if found is None else found.language, asked.target)
        for text, found in zip(texts, detections, strict=True)
    ]
    results: list[Translation | AppError | None] = [None] * len(items)
    models: list[str | None] = [None] * len(items)
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        try:
            places[_choose(service, asked.model, item)].append(place)
        except AppError as error:
            results[place] = error
    options = TranslateOptions(
        asked.beam_size or service.settings.default_beam_size,
        asked.max_length,
        asked.length_penalty,
        asked.alternatives,
    )

    async def run(loaded: LoadedTask, own: list[int]) -> None:
        try:
            if not isinstance(loaded, LoadedTranslator):
                raise UnknownModelError(f"{loaded.manifest.name} does not translate, it can {loaded.manifest.task}")
            found = await loaded.translator.translate([items[place] for place in own], options, deadline_s, tell)
        except AppError as error:
            found = [error] * len(own)
        for place, result in zip(own, found, strict=True):
            results[place] = result
            models[place] = f"{loaded.manifest.name}@{loaded.manifest.version}"

    with ExitStack() as leases:
        runs = [run(leases.enter_context(service.catalog.lease(name)), own) for name, own in places.items()]
        if len(runs) == 1:
            await runs[0]
        else:
            async with asyncio.TaskGroup() as group:
                for each in runs:
                    group.create_task(each)
    return [
        _Outcome(result, detection, model)
        for result, detection, model in zip(results, detections, models, strict=True)
        if result is not None
    ]


def _choose(service: Service, model: str | None, item: TranslateItem) -> str:
    """The name of the model that a request asks for, else of one that knows the direction.

    Raises: InputError that says what there is.
    """
    if model is not None:
        name, _, version = model.partition("@")
        loaded = service.catalog.get(name)
        if version not in ("", loaded.manifest.version):
            raise UnknownModelError(f"{name} serves version {loaded.manifest.version}, not {version[:64]!r}")
        return name
    directions = service.directions()
    for code in (item.source, item.target):
        if not any(code in direction for direction in directions):
            known = ", ".join(sorted({language for direction in directions for language in direction}))
            raise InputError(f"{code[:16]} is not supported; available: {known}")
    if item.source == item.target:
        speaking = (one for one in service.translators() if any(item.source in d for d in one.manifest.directions))
        return next(speaking).manifest.name
    if (item.source, item.target) not in directions:
        available = ", ".join(f"{source}-{target}" for source, target in directions)
        raise InputError(
            f"{_named(item.target)} is not available as a target language from {_named(item.source)}; "
            f"available: {available}"
        )
    return service.catalog.find("translate", item.source, item.target).manifest.name


def _named(code: str) -> str:
    return f"{language_name(code)} ({code})"


def _answer(outcomes: Sequence[_Outcome], asked: TranslateRequest, is_list: bool) -> JSONResponse:
    failures = [outcome.result for outcome in outcomes if isinstance(outcome.result, AppError)]
    if len(failures) == len(outcomes):
        return problem_response(failures[0])
    columns = _columns(outcomes, asked)
    if not is_list:
        return JSONResponse({name: values[0] for name, values in columns.items()})
    if failures:
        columns["errors"] = [
            public_message(outcome.result) if isinstance(outcome.result, AppError) else None for outcome in outcomes
        ]
    return JSONResponse(columns)


def _columns(outcomes: Sequence[_Outcome], asked: TranslateRequest) -> dict[str, list[Any]]:
    done = [outcome.result if isinstance(outcome.result, Translation) else None for outcome in outcomes]
    columns: dict[str, list[Any]] = {"translatedText": [one and one.text for one in done]}
    if asked.source == "auto":
        columns["detectedLanguage"] = [
            outcome.detection and _detected(outcome.detection).model_dump() for outcome in outcomes
        ]
    if asked.alternatives:
        columns["alternatives"] = [one and list(one.alternatives) for one in done]
    columns["model"] = [one and outcome.model for one, outcome in zip(done, outcomes, strict=True)]
    columns["truncated"] = [one and one.is_truncated for one in done]
    columns["finish_reason"] = [one and one.finish_reason for one in done]
    return columns


def _detected(detection: Detection) -> DetectedLanguage:
    return DetectedLanguage(confidence=round(100 * detection.confidence, 1), language=detection.language)
