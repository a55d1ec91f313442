"""What goes over the wire: LibreTranslate's shapes, and our own fields beside them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TranslateRequest(BaseModel):
    """`POST /translate`, as JSON, as a form or in the query string. A list of texts goes through JSON only."""

    model_config = ConfigDict(frozen=True)

    q: str | list[str] = Field(
        description="Text, or texts, to translate; long ones are split into sentences, never cut.",
        examples=["Good morning."],
    )
    source: str = Field(description='Code of the source language, or "auto" to detect it.', examples=["en"])
    target: str = Field(description="Code of the target language.", examples=["de"])
    format: str = Field(default="text", description='"text" is the only format.')
    alternatives: int = Field(default=0, ge=0, description="How many other translations to give at the most.")
    api_key: str | None = Field(default=None, description="Also taken from `Authorization: Bearer`.")
    model: str | None = Field(default=None, description="Name of a model; else one that knows the direction.")
    beam_size: int | None = Field(default=None, ge=1, description="Hypotheses that the search keeps.")
    max_length: int | None = Field(default=None, ge=1, description="Target tokens of a sentence, at the most.")
    length_penalty: float | None = Field(
        default=None, ge=0, le=10, allow_inf_nan=False, description="Above 1 favours longer translations."
    )


class DetectedLanguage(BaseModel):
    confidence: float = Field(ge=0, le=100)
    language: str


class TranslateResponse(BaseModel):
    """For a list `q` every field but `errors` is a list too, in the order of `q`.

    An item that failed has null in them (but for what was detected) and its message in `errors`, which is there only if
    an item failed; if all did, the answer is the first one's error.
    """

    translatedText: str | list[str | None]  # noqa: N815 (LibreTranslate's name)
    detectedLanguage: DetectedLanguage | list[DetectedLanguage | None] | None = Field(  # noqa: N815
        default=None, description='Only if source is "auto".'
    )
    alternatives: list[str] | list[list[str] | None] | None = Field(
        default=None, description="Only if asked for: unlike each other and the translation, best first."
    )
    model: str | list[str | None] = Field(description="Name and version of the model that translated.")
    truncated: bool | list[bool | None] = Field(description="Whether a sentence met its limit, so text is missing.")
    finish_reason: Literal["stop", "length"] | list[Literal["stop", "length"] | None]
    errors: list[str | None] | None = None


class DetectRequest(BaseModel):
    """`POST /detect`."""

    model_config = ConfigDict(frozen=True)

    q: str = Field(description="Text whose language is asked for.", examples=["Guten Morgen."])
    api_key: str | None = None


class SummarizeRequest(BaseModel):
    """`POST /summarize`, as JSON, as a form or in the query string. A list goes through JSON only."""

    model_config = ConfigDict(frozen=True)

    text: str | None = Field(default=None, description="A document; a long one is read in parts, never cut.")
    texts: list[str] | None = Field(default=None, description="Documents, as one batch; instead of `text`.")
    kind: str | None = Field(
        default=None, description="Kind of summary, as tldr or title; the model's first where not given."
    )
    min_length: int | None = Field(default=None, ge=1, description="Words of the summary, at least; best effort.")
    max_length: int | None = Field(default=None, ge=1, description="Words of the summary, at the most.")
    min_tokens: int | None = Field(default=None, ge=1, description="Tokens of the summary, at least.")
    max_tokens: int | None = Field(default=None, ge=1, description="Tokens of the summary, at the most.")
    beam_size: int | None = Field(default=None, ge=1, description="Hypotheses that the search keeps.")
    num_summaries: int = Field(default=1, ge=1, description="How many summaries to give; the best is `summary`.")
    length_penalty: float | None = Field(
        default=None, ge=0, le=10, allow_inf_nan=False, description="Above 1 favours longer summaries."
    )
    model: str | None = Field(default=None, description="Name of a model; else the first that summarizes.")
    api_key: str | None = Field(default=None, description="Also taken from `Authorization: Bearer`.")


class SummarizeResponse(BaseModel):
    """One document's summary."""

    summary: str
    alternatives: list[str] | None = Field(default=None, description="Only if several were asked for, best first.")
    model: str = Field(description="Name and version of the model.")
    kind: str
    parts: int = Field(description="In how many parts the document was read.")
    truncated: bool = Field(description="Whether the summary met its limit, so its end is missing.")
    finish_reason: Literal["stop", "length"]
    warnings: list[str] = Field(description="What a guard found, as `code: explanation`.")


class SummarizeError(BaseModel):
    error: str


class SummarizeResults(BaseModel):
    """For a list: a summary or an error for every document, in order."""

    results: list[SummarizeResponse | SummarizeError]


class TranscribeRequest(BaseModel):
    """`POST /transcribe`, as multipart form; all but `file` may stand in the query string too."""

    model_config = ConfigDict(frozen=True)

    file: list[str] = Field(
        json_schema_extra={"items": {"type": "string", "format": "binary"}},
        description="A recording (wav, flac, mp3, ogg, opus, m4a, aac, webm, mp4), or several in fields of this name.",
    )
    language: str | None = Field(default=None, description="Code of what is spoken; heard where not given.")
    task: Literal["transcribe", "translate"] = Field(
        default="transcribe", description='"translate": into English, by models that can.'
    )
    prompt: str = Field(
        default="", max_length=10_000, description="Text that went before: names and how they are spelled."
    )
    temperature: float | None = Field(
        default=None, ge=0, le=1, description="0 first and higher ones where the model is unsure, where not given."
    )
    beam_size: int | None = Field(default=None, ge=1, description="Hypotheses that the search keeps.")
    word_timestamps: bool = Field(default=False, description="Give every word's times too.")
    response_format: Literal["json", "text", "srt", "vtt", "verbose_json"] = Field(
        default="json", description="text, srt and vtt are for one recording."
    )
    model: str | None = Field(default=None, description="Name of a model; else one that can do what is asked.")
    api_key: str | None = Field(default=None, description="Also taken from `Authorization: Bearer`.")


class TranscriptWord(BaseModel):
    word: str
    start: float
    end: float
    confidence: float = Field(ge=0, le=1)


class TranscriptSegment(BaseModel):
    """What was said without a longer pause; times in seconds. The last six fields come with `verbose_json` only."""

    id: int
    start: float
    end: float
    text: str = Field(description="As it stands in the whole text, with the space before it.")
    confidence: float = Field(ge=0, le=1, description="Mean probability of a token.")
    words: list[TranscriptWord] | None = Field(default=None, description="Only if asked for.")
    seek: int | None = Field(default=None, description="Where it starts, in hundredths of a second.")
    tokens: list[int] | None = None
    temperature: float | None = None
    avg_logprob: float | None = None
    compression_ratio: float | None = Field(default=None, description="Of the text: above 2.4 it repeats itself.")
    no_speech_prob: float | None = None


class TranscribeResponse(BaseModel):
    """One recording's transcript; `task` comes with `verbose_json` only."""

    task: Literal["transcribe", "translate"] | None = None
    text: str
    language: str = Field(description="Code of the text's language.")
    duration: float = Field(description="Seconds of the recording.")
    segments: list[TranscriptSegment]
    model: str = Field(description="Name and version of the model.")
    warnings: list[str] = Field(description="Where the model was unsure, as `code: explanation`.")


class TranscribeError(BaseModel):
    error: str


class TranscribeResults(BaseModel):
    """For several recordings: a transcript or an error for every one, in order."""

    results: list[TranscribeResponse | TranscribeError]


class Language(BaseModel):
    code: str
    name: str
    targets: list[str]


class Model(BaseModel):
    """A version that the service knows; `reason` says why it is not ready."""

    name: str
    version: str
    task: str | None
    directions: list[tuple[str, str]]
    variant: str | None
    provider: str | None
    state: str
    reason: str | None
    is_current: bool = Field(description="Whether this version answers.")


class Problem(BaseModel):
    """Every error, on every route."""

    error: str
