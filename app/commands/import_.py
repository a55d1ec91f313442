"""`seq2serve import`: a public checkpoint becomes a published version, by the same export and gates as our own."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from app.commands.store import tell_published
from app.decoding.interface import Floats, Source
from app.errors import CheckpointError
from app.export.artifact import Description, Gates, export_artifact
from app.pretrained.reading import read_pretrained
from app.pretrained.whisper import Imported
from app.store.manifest import VariantName
from app.store.registry import Registry

NUM_SOURCES = 8
MAX_LENGTH = 64
# Logits of Whisper are larger than those of our own models, and sums over 1,500 positions round further apart.
LOGIT_TOLERANCE = 2e-3
_SEED = 0


@dataclass(frozen=True, slots=True)
class CardTexts:
    """What whoever imports knows of the model: the licence of its weights, and notes for its card."""

    licence: str | None = None
    notes: str | None = None

    @classmethod
    def read(cls, licence_file: Path | None, notes_file: Path | None) -> "CardTexts":
        """Raises: CheckpointError for a file that can not be read."""
        texts = []
        for path in (licence_file, notes_file):
            try:
                texts.append(None if path is None else path.read_text("utf-8"))
            except (OSError, ValueError) as error:
                raise CheckpointError(f"{path}: not readable as text ({error})") from error
        return cls(*texts)


def import_model(
    reference: str,
    store: Path,
    name: str | None,
    version: str | None,
    keep: Sequence[VariantName],
    texts: "CardTexts",
    with_weights: bool,
    console: Console,
) -> Path:
    """Read, export, gate, publish -> the version's folder. Promotion is for the user."""
    imported = read_pretrained(reference)
    origin = Path(reference).name if Path(reference).is_dir() else reference
    config, speech = imported.model.config, imported.speech
    name = name or re.sub(r"[^a-z0-9._-]+", "-", origin.rpartition("/")[2].lower()).lstrip("._-")[:64]
    description = Description(
        name=name,
        version=version or datetime.now(UTC).strftime("%Y%m%d-%H%M%S"),
        task="transcribe",
        architecture=config.architecture,
        directions=(),
        tokenizer_file=imported.tokenizer_file,
        tokenizer_kind="bpe",
        language_ids={},
        lower_case=False,
        pad_id=imported.eos_id,
        unk_id=imported.eos_id,
        bos_id=imported.bos_id,
        eos_id=imported.eos_id,
        max_source_length=config.max_frames,
        max_target_length=config.max_length,
        recipe_text=_recipe(name, origin, imported),
        card=lambda evaluation: _card(name, origin, imported, evaluation, texts),
        licence_text=texts.licence,
        speech=speech,
        default_search={"beam_size": 1, "length_penalty": 1.0},
    )
    gates = Gates(
        synthetic_features(NUM_SOURCES, config.max_frames, config.num_mels),
        max_length=MAX_LENGTH,
        prefix=speech.prefix(_gate_language(imported), "transcribe", has_timestamps=False),
        # Even measured on real speech, ranges lose against a scale for every row: Whisper's activations have outliers.
        is_calibrated=False,
        logit_tolerance=LOGIT_TOLERANCE,
    )
    published = export_artifact(
        imported.model,
        description,
        gates,
        Registry(store),
        keep=keep,
        with_weights=with_weights,
        report=lambda line: console.print(line),
    )
    tell_published(name, description.version, console)
    return published


def synthetic_features(count: int, num_frames: int, num_mels: int) -> list[Source]:
    """Something of the texture of speech, then silence: log-mel as Whisper scales it, [F, M] each."""
    random = np.random.default_rng(_SEED)
    return [_utterance(random, num_frames, num_mels) for _ in range(count)]


def _utterance(random: np.random.Generator, num_frames: int, num_mels: int) -> Floats:
    texture = _smoothed(_smoothed(random.standard_normal((num_frames, num_mels)), 9, axis=0), 5, axis=1)
    syllables = _smoothed(random.standard_normal((num_frames, 1)), 15, axis=0)
    # Log-mel spans 8 decades below its peak and is divided by 4: silence lies 2 below.
    loudness = 0.5 + 0.5 * texture / texture.std() + 0.3 * syllables / syllables.std()
    loudness[random.integers(num_frames // 8, num_frames) :] = -np.inf
    peak = float(loudness.max())
    features: Floats = np.maximum(loudness, peak - 2.0).astype(np.float32)
    return features


def _smoothed(values: np.ndarray[Any, np.dtype[np.float64]], size: int, axis: int) -> Any:
    kernel = np.hanning(size + 2)[1:-1]
    return np.apply_along_axis(np.convolve, axis, values, kernel, mode="same")


def _gate_language(imported: Imported) -> str | None:
    """English where the model knows it."""
    languages = imported.speech.languages
    return "en" if "en" in languages else next(iter(languages), None)


def _recipe(name: str, origin: str, imported: Imported) -> str:
    """How it was made, as TOML."""
    sizes = imported.model.config.model_dump()
    model = "\n".join(f"{key} = {json.dumps(value)}" for key, value in sizes.items())
    return f'name = {json.dumps(name)}\ntask = "transcribe"\nimported_from = {json.dumps(origin)}\n\n[model]\n{model}\n'


def _card(name: str, origin: str, imported: Imported, evaluation: Mapping[str, Any], texts: CardTexts) -> str:
    config, parity = imported.model.config, evaluation["export"]["parity"]
    licence = "`LICENSE`, beside this file" if texts.licence else "that of their origin"
    notes = f"\n{texts.notes.strip()}\n" if texts.notes else "\nWord error rates are not measured at import.\n"
    return f"""# {name}

Whisper (Radford 2022, arXiv:2212.04356), imported from `{origin}`.

- Task: transcribe; languages: {", ".join(imported.speech.languages)}
- Sizes: {config.encoder_layers} + {config.decoder_layers} layers, width {config.width}, {config.num_mels} mels
- Licence of the weights: {licence}

## Measured
ONNX Runtime against PyTorch, fp32, {parity["num_sources"]} windows: logits at most
{parity["largest_logit_difference"]:.1e} apart, attention {parity["largest_attention_difference"]:.1e}.
{notes}"""
