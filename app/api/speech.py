"""What all routes that take recordings share: which model answers, and what it is asked."""

from collections.abc import Sequence

from app.api.events import Tell
from app.api.refusals import ParameterError
from app.api.service import Service
from app.errors import AppError, InputError, UnknownModelError
from app.store.manifest import Manifest
from app.tasks.build import LoadedTranscriber
from app.tasks.recordings import Waveform
from app.tasks.transcript import SpeechTask, TranscribeOptions, Transcript
from app.telemetry import AUDIO_SECONDS_TOTAL


def choose_transcriber(service: Service, model: str | None, language: str | None, task: SpeechTask) -> str:
    """The name of the model that a request asks for, else of one that can do what it asks; the default one first.

    Raises: UnknownModelError, or ParameterError where the named one can not.
    """
    if model is None:
        able = [one.manifest for one in service.transcribers() if _why_not(one.manifest, language, task) is None]
        if able:
            return next((m.name for m in able if m.name == service.settings.default_model), able[0].name)
        # The one that would answer says what it lacks.
        manifest = service.catalog.find("transcribe").manifest
    else:
        name, _, version = model.partition("@")
        loaded = service.catalog.get(name)
        manifest = loaded.manifest
        if version not in ("", manifest.version):
            raise UnknownModelError(f"{name} serves version {manifest.version}, not {version[:64]!r}")
        if not isinstance(loaded, LoadedTranscriber):
            raise UnknownModelError(f"{name} does not transcribe, it can {manifest.task}")
    refusal = _why_not(manifest, language, task)
    if refusal is not None:
        raise refusal
    return manifest.name


async def transcribe_with(
    service: Service,
    name: str,
    recordings: Sequence[Waveform | AppError],
    options: TranscribeOptions,
    deadline_s: float,
    tell: Tell | None = None,
) -> tuple[Manifest, list[Transcript | AppError]]:
    """A transcript or an error for every recording, in order, and by which model; those that could not be read stay so.

    `tell` is for a single recording.
    """
    readable = [recording for recording in recordings if not isinstance(recording, AppError)]
    with service.catalog.lease(name) as loaded:
        assert isinstance(loaded, LoadedTranscriber)
        tell_segment = None if tell is None else (lambda segment: tell(segment.text))
        found = await loaded.transcriber.transcribe(readable, options, deadline_s, tell_segment)
    for result in found:
        if isinstance(result, Transcript):
            AUDIO_SECONDS_TOTAL.labels(name).inc(result.duration_s)
    done = iter(found)
    return loaded.manifest, [one if isinstance(one, AppError) else next(done) for one in recordings]


def beam_size_of(service: Service, asked: int | None) -> int | None:
    """The beam that is asked for, else the setting's; None: the model's own. Raises: InputError for one too wide."""
    widest = service.settings.max_beam_size
    if asked is not None and asked > widest:
        raise ParameterError("beam_size", f"beam_size parameter must be <= {widest}")
    return asked or service.settings.default_beam_size


def _why_not(manifest: Manifest, language: str | None, task: SpeechTask) -> InputError | None:
    speech = manifest.speech
    assert speech is not None
    if language is not None and language not in speech.languages:
        known = ", ".join(speech.languages)
        return ParameterError("language", f"language {language[:16]!r} is not known; {manifest.name} has {known}")
    if task == "translate" and "translate" not in speech.task_ids:
        return ParameterError("model", f"{manifest.name} can not translate speech, only transcribe it")
    return None
