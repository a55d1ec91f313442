"""`ServiceSettings`: every `SEQ2SERVE_…` variable of the service, typed, bounded and described."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.errors import AppError

PREFIX = "SEQ2SERVE_"
# Not settings of the service: the folder of corpora that recipes and tests read.
_OTHER_VARIABLES = frozenset({"SEQ2SERVE_DATA"})


class ServiceSettings(BaseSettings):
    """What the service reads from the environment; lists are separated by commas."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    model_store: Path = Field(Path("model_store"), description="Folder of published artifacts.")
    default_model: str | None = Field(None, description="Model that answers where several know a direction.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes CUDA where there is a GPU.")
    variant: Literal["auto", "fp32", "fp16", "int8", "int8-fast"] = Field(
        "auto", description="Precision; auto takes int8 on the CPU and fp16 on CUDA, else fp32."
    )
    batches: int = Field(
        0, ge=0, le=64, description="Batches that run side by side; 0: one a core, up to four, and one alone on CUDA."
    )
    threads: int = Field(0, ge=0, le=256, description="Threads of each batch's steps; 0: its share of the cores.")

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(("*",), description="Web origins that may call.")

    max_body_bytes: int = Field(2_000_000, ge=1024, le=1 << 30, description="Request body, before any parsing.")
    max_items: int = Field(256, ge=1, le=100_000, description="Texts in one request's list.")
    max_characters: int = Field(100_000, ge=1, le=100_000_000, description="Characters of all texts of a request.")
    max_document_characters: int = Field(
        200_000, ge=1, le=100_000_000, description="Characters of all documents of a request to /summarize."
    )
    max_alternatives: int = Field(7, ge=0, le=31, description="Other translations that a request may ask for.")
    max_beam_size: int = Field(8, ge=1, le=32, description="Widest beam that a request may ask for.")
    default_beam_size: int | None = Field(
        None, ge=1, le=32, description="Beam of a request that asks for none; else the manifest's."
    )

    max_upload_bytes: int = Field(
        100_000_000, ge=1024, le=1 << 34, description="Request body with recordings, before any parsing."
    )
    max_files: int = Field(16, ge=1, le=1000, description="Recordings in one request.")
    max_audio_s: float = Field(7200.0, gt=0, le=86_400, description="Seconds of all recordings of a request.")
    audio_queue_s: float = Field(
        14_400.0, gt=0, le=1_000_000, description="Seconds of audio in memory for all requests, before a 429."
    )
    audio_timeout_s: float = Field(
        900.0, gt=0, le=86_400, description="From a recording's arrival to its transcript, at the most."
    )

    queue_limit: int = Field(1024, ge=1, le=1_000_000, description="Sentences that may wait before a 429.")
    queue_token_limit: int = Field(
        200_000, ge=64, le=1 << 30, description="Source and expected target tokens that may wait, every row counted."
    )
    max_rows: int = Field(128, ge=1, le=4096, description="Rows of one batch, beams counted.")
    max_tokens: int = Field(16_384, ge=64, le=10_000_000, description="Source and target positions of one batch.")
    request_timeout_s: float = Field(60.0, gt=0, le=3600, description="From arrival to answer, at the most; of text.")
    drain_delay_s: float = Field(5.0, ge=0, le=300, description="From SIGTERM to a closed listener, readiness 503.")
    drain_timeout_s: float = Field(20.0, ge=0, le=3600, description="After that, for the work that still runs.")

    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="Accepted keys; none: all are welcome."
    )
    api_keys_file: Path | None = Field(None, description="File of accepted keys, one a line, # begins a comment.")
    require_api_key: bool = Field(False, description="Refuse requests without a key, not only those with a wrong one.")

    refresh_s: float = Field(10.0, ge=0.5, le=86_400, description="How often to look for promoted versions.")
    heartbeat_timeout_s: float = Field(
        60.0, ge=5, le=3600, description="A worker silent for longer is taken for hung; /health/live fails."
    )

    log_format: Literal["plain", "json"] = Field("plain", description="Shape of the log lines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")

    @field_validator("cors_origins", "api_keys", mode="before")
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        return tuple(item.strip() for item in value.split(",") if item.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_beams(self) -> Self:
        widest = max(self.max_beam_size, self.default_beam_size or 1)
        if widest > self.max_rows:
            raise ValueError(f"max_rows is {self.max_rows}, but a beam may take {widest} rows")
        return self


def read_settings(**overrides: Any) -> ServiceSettings:
    """The settings of this process; `overrides` (a command's options, None = not given) win over the environment.

    Raises: AppError if a variable is unknown or its value is wrong; it names the variable, never the value.
    """
    _refuse_unknown(os.environ)
    try:
        return ServiceSettings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        lines = [": ".join([*(f"{PREFIX}{name}".upper() for name in e["loc"][:1]), e["msg"]]) for e in error.errors()]
        raise AppError("; ".join(lines)) from None


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in ServiceSettings.model_fields} | _OTHER_VARIABLES
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            nearest = difflib.get_close_matches(name.upper(), sorted(known), n=1, cutoff=0.0)
            raise AppError(f"{name}: no such setting; did you mean {nearest[0]}?")
