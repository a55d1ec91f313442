"""What an artifact says of itself: the schema of `manifest.json` and `golden.json`; `docs/artifact.md` explains it."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

FORMAT_VERSION = 1
# Where an artifact that may be trained further has its weights, in float16.
WEIGHTS_FILE = "weights.safetensors"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Task = Literal["translate", "summarize", "transcribe"]
VariantName = Literal["fp32", "fp16", "int8", "int8-fast"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StateTensor(_Record):
    """One tensor that the graphs hand from step to step.

    `memory`: made by encode, read by every step, one entry a source [B, ...]; `length_axis` is the source's axis.
    `fixed`: one entry a row [R, ...], replaced by every step; encode gives its first value for each source.
    `growing`: one entry a row [R, ...], a slot of `length_axis` positions that step writes in place.
    `shape` leaves the first axis out; -1 stands at the length axis (counted with the first axis as 0).
    """

    name: str
    kind: Literal["memory", "fixed", "growing"]
    dtype: Literal["float32", "float16", "int64", "uint8"]
    shape: list[int]
    length_axis: int | None = None


class Variant(_Record):
    """One precision of the model: its graphs, and the state as they want it.

    `overflows`: whether two neighbouring products of int8 weights may be too large for 16 bits, in which processors
    with AVX2 alone add them. Weights of artifacts that do not say so may.
    `shortlist`: a third graph that cuts the vocabulary to what the sources that run together allow.
    """

    encode: str
    step: str
    shortlist: str | None = None
    overflows: bool = True
    state: list[StateTensor]

    @property
    def graphs(self) -> list[str]:
        """The files of all its graphs."""
        return [file for file in (self.encode, self.step, self.shortlist) if file is not None]


class Tokenizer(_Record):
    """How text becomes ids. `language_ids` holds the token that asks for a target language, put before the source."""

    kind: Literal["sentencepiece", "bpe"] = "sentencepiece"
    file: str = "tokenizer/tokenizer.model"
    language_ids: dict[str, int] = Field(default_factory=dict)
    lower_case: bool = False


class Speech(_Record):
    """How a speech model is asked. Ids are those of tokens that stand for no text; None, or empty, where a model has
    no such token: an English-only model has neither languages nor tasks to choose from.

    `window_frames`: every source is padded to so many frames before it is read; None: sources keep their length.
    `suppressed_ids` never are the best candidate: their bias in the step graph is lower by `suppression`, so that the
    logit they would have had can still be told. `suppressed_first_ids` must not begin a text: that is the search's.
    `probe_ids` are those whose log-probability every step tells: of silence and of the languages.
    `alignment_heads` are (decoder layer, head) whose cross-attention follows the audio, by layer.
    """

    sample_rate_hz: int = Field(16_000, ge=1)
    num_mels: int = Field(ge=1)
    window_frames: int | None = None
    languages: list[str] = Field(description="Codes of what it can write down.")
    language_ids: dict[str, int] = Field(default_factory=dict)
    task_ids: dict[Literal["transcribe", "translate"], int] = Field(default_factory=dict)
    no_timestamps_id: int | None = None
    first_timestamp_id: int | None = Field(None, description="0.00 s; the next ones are 0.02 s apart.")
    no_speech_id: int | None = None
    previous_text_id: int | None = None
    suppressed_ids: list[int] = Field(default_factory=list)
    suppressed_first_ids: list[int] = Field(default_factory=list)
    suppression: float = 0.0
    probe_ids: list[int] = Field(default_factory=list)
    alignment_heads: list[tuple[int, int]] = Field(default_factory=list)

    def prefix(
        self, language: str | None, task: Literal["transcribe", "translate"], *, has_timestamps: bool
    ) -> tuple[int, ...]:
        """What a target begins with, after the begin of sentence; tokens that the model does not have are left out."""
        asked = (
            self.language_ids.get(language) if language else None,
            self.task_ids.get(task),
            None if has_timestamps else self.no_timestamps_id,
        )
        return tuple(token for token in asked if token is not None)


class File(_Record):
    sha256: Sha256
    bytes: int = Field(ge=0)


class Manifest(_Record):
    """`manifest.json`: everything the serving half needs to know, and a checksum of every other file."""

    format_version: Literal[1] = 1
    name: Name
    version: Name
    task: Task
    architecture: str
    num_parameters: int = Field(ge=1)
    created_at: datetime
    created_by: dict[str, str] = Field(description="Versions of what made it: seq2serve, torch, onnx.")
    directions: list[tuple[str, str]] = Field(default_factory=list, description="(source, target) language codes.")
    vocabulary_size: int = Field(ge=4)
    pad_id: int
    unk_id: int
    bos_id: int
    eos_id: int
    max_source_length: int = Field(ge=1, description="Source tokens, the end of sentence included.")
    max_target_length: int = Field(ge=1, description="Steps a row may take.")
    tokenizer: Tokenizer
    speech: Speech | None = None
    variants: dict[VariantName, Variant]
    default_search: dict[str, float] = Field(default_factory=dict, description="beam_size, length_penalty.")
    files: dict[str, File]


class GoldenFeatures(_Record):
    """Features [F, M] of one source as 8-bit codes, deflated and in base64: a feature is lowest + step x code."""

    shape: tuple[int, int]
    lowest: float
    step: float
    codes: str


class GoldenCase(_Record):
    """An input and the ids that PyTorch gave, greedy, fp32. Cases are chosen where no step was a near tie, so that
    every variant on every provider must give the same ids."""

    source: list[int] | GoldenFeatures
    target: list[int]


class Golden(_Record):
    """`golden.json`. Every target begins with `prefix`, which was forced."""

    made_with: dict[str, str]
    max_length: int
    prefix: list[int] = Field(default_factory=list)
    cases: list[GoldenCase]
