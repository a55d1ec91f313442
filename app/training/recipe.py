"""What a recipe may say: one TOML file describes one training run completely."""

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.errors import RecipeError
from app.models import ModelConfig
from app.models.speech import SpeechConfig
from app.models.speech_rnn import SpeechRnnConfig
from app.store.manifest import Name
from app.text.cleaning import CleaningOptions
from app.text.tokenizer import TokenizerOptions
from app.training.augmentation import AugmentationOptions


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Joining(Section):
    """Several recordings of one speaker, one after the other, are one source."""

    count: tuple[int, int] = Field(description="Fewest and most recordings of a source.")
    gap_s: tuple[float, float] = Field((0.0, 0.3), description="Shortest and longest silence between two.")

    @model_validator(mode="after")
    def _ranges_ascend(self) -> "Joining":
        if not 1 <= self.count[0] <= self.count[1] or not 0 <= self.gap_s[0] <= self.gap_s[1]:
            raise ValueError(f"count {self.count} and gap_s {self.gap_s} must be ranges: smallest, then largest")
        return self


class ParallelText(Section):
    """Pairs of texts, plain or gzip: one TSV file with a column a language, one file a language, or one file of JSON
    lines with `document` and `summary`, whose second "language" is the kind of summary (as title, tldr).

    Of recordings: files of JSON lines with `audio`, `text` and, where they are known, `speaker` and `source`; the first
    language is what is spoken, the second what is written down."""

    files: list[str] = Field(min_length=1, description="Relative to the data folder.")
    languages: tuple[str, str]
    objective: Literal["pairs", "gap-sentences", "infilling"] = Field(
        "pairs",
        description="What is learned: the pairs, or to restore their first texts: see app/training/denoising.py.",
    )
    weight: float = Field(
        1.0, gt=0, le=100, description="How often an epoch sees each pair; 0.5: a random half of them."
    )
    join: Joining | None = Field(None, description="Of recordings: how many of them make a source.")
    only: str = Field("", description="Of recordings: those whose `source` holds this.")

    @model_validator(mode="after")
    def _one_or_two_files(self) -> "ParallelText":
        if len(self.files) > 2:
            raise ValueError(f"files has {len(self.files)} entries; give one TSV or one file for each language")
        return self


class Data(Section):
    directions: list[tuple[str, str]] = Field(min_length=1, description="(source, target) language codes.")
    train: list[ParallelText] = Field(min_length=1)
    dev: list[ParallelText] = Field(min_length=1)
    test: dict[str, ParallelText] = Field(default_factory=dict)


class Optimization(Section):
    optimizer: Literal["adam", "adamw", "rmsprop"] = "adam"
    learning_rate: float = Field(1e-3, gt=0, description="The peak of the schedule.")
    schedule: Literal["inverse_sqrt", "noam", "cosine", "constant"] = "inverse_sqrt"
    warmup_steps: int = Field(1000, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    accumulation: int = Field(1, ge=1, description="Batches summed into one step.")
    freeze: list[str] = Field(
        default_factory=list,
        description="Weights that stay as they are, by how their names begin: as encoder_layers, convolution_.",
    )
    ema_decay: float = Field(0.0, ge=0, lt=1, description="Exponential moving average of the weights; 0: none.")


class Schedule(Section):
    max_steps: int = Field(ge=1)
    batch_tokens: int = Field(
        4096, ge=16, description="Source and target tokens a batch, padding included; of speech frames and tokens."
    )
    max_length: int = Field(256, ge=2, description="Longer sides are left out of training; of speech longer targets.")
    evaluate_every: int = Field(1000, ge=1)
    checkpoint_every: int = Field(500, ge=1)
    log_every: int = Field(50, ge=1)
    patience: int = Field(0, ge=0, description="Stop after so many evaluations without a better metric; 0: never.")
    metric: Literal["loss", "bleu", "chrf", "rouge", "wer", "cer"] = "loss"
    dev_sentences: int = Field(500, ge=1, description="Dev pairs a direction that are decoded at an evaluation.")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="fp16 on CUDA only.")
    read_length: int = Field(
        0, ge=0, description="Source tokens that the published model reads at once; 0: max_length, as in training."
    )
    truncate_sources: bool = Field(
        False, description="Cut sources that are longer than max_length instead of leaving them out."
    )


class Search(Section):
    beam_size: int = Field(4, ge=1, le=64)
    length_penalty: float = Field(1.0, ge=0, le=10)
    max_length: int = Field(0, ge=0, description="Target tokens; 0: as the source's length allows.")
    min_length: int = Field(0, ge=0, description="Target tokens.")
    no_repeat_ngram: int = Field(0, ge=0, description="No n-gram of this size occurs twice; 0: any may.")


class Recipe(Section):
    """`recipes/NAME.toml`."""

    name: Name
    task: Literal["translate", "summarize", "transcribe"] = "translate"
    description: str = ""
    licence: str = Field("", description="Of the weights, as the data allows.")
    limits: str = Field("", description="For the model card: what the model is not good for.")
    seed: int = 1
    data: Data
    cleaning: CleaningOptions = CleaningOptions()
    augmentation: AugmentationOptions = AugmentationOptions()
    tokenizer: TokenizerOptions = TokenizerOptions()
    model: ModelConfig
    optimization: Optimization = Optimization()
    training: Schedule
    search: Search = Search()

    @model_validator(mode="after")
    def _model_fits_the_task(self) -> "Recipe":
        is_speech = isinstance(self.model, SpeechConfig | SpeechRnnConfig)
        if is_speech != (self.task == "transcribe"):
            raise ValueError(f"task {self.task}: architecture {self.model.architecture} is not for it")
        if is_speech and len(self.data.directions) != 1:
            raise ValueError("data.directions: a speech model is trained for one language spoken and one written")
        return self

    @property
    def max_source_length(self) -> int:
        """Source tokens that the published model reads, control tokens included, or frames of speech; the service
        splits what is longer."""
        if isinstance(self.model, SpeechConfig | SpeechRnnConfig):
            return self.model.max_frames
        return min(self.training.read_length or self.training.max_length, self.model.max_length)

    @property
    def languages(self) -> list[str]:
        """All languages of the directions, in order of appearance."""
        return list(dict.fromkeys(language for direction in self.data.directions for language in direction))


def _known_keys(model: Any) -> list[str]:
    """Every key that a recipe may hold anywhere, for suggestions."""
    keys = []
    for definition in model.model_json_schema().get("$defs", {}).values():
        keys += list(definition.get("properties", {}))
    return keys + list(model.model_json_schema()["properties"])


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(item["loc"][-1]), _known_keys(Recipe), n=1)
            lines.append(f"{where}: no such key" + (f"; did you mean `{near[0]}`?" if near else ""))
        else:
            lines.append(
                f"{where}: {item['msg']}" + ("" if item["type"] == "missing" else f" (found {item['input']!r})")
            )
    return "\n  ".join(lines)


def parse_recipe(text: str, where: str) -> Recipe:
    """A recipe from TOML text; `where` names its file in errors. Raises: RecipeError naming every wrong key."""
    try:
        return Recipe.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where}: not valid TOML: {error}") from error
    except ValidationError as error:
        raise RecipeError(f"{where}:\n  {_explain(error)}") from error


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file. Raises: RecipeError."""
    try:
        return parse_recipe(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: can not be read ({error}); see recipes/ for examples") from error
