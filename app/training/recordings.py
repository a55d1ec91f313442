"""From recordings to batches: read, join, change as the recipe says, features, pad."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from app.audio.features import SAMPLE_RATE_HZ, SAMPLES_A_FRAME, Floats, log_mel
from app.audio.waveform import Waveform, read_waveform
from app.errors import AppError, CorpusError
from app.models.speech import SpeechConfig
from app.models.speech_rnn import SpeechRnnConfig
from app.store.manifest import Speech
from app.text.cleaning import CleaningReport, normalize
from app.training.augmentation import AugmentationOptions, changed_speed, mask, num_samples, spoil
from app.training.batching import Batch, Batches, make_batch
from app.training.corpus import Ids, read_lines
from app.training.recipe import Joining, ParallelText, Recipe
from app.training.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

MAX_DURATION_S = 600.0
_NO_CHANGE = AugmentationOptions()
# Recordings that are held out are joined the same way every time.
HELD_OUT_SEED = 0


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """What one file holds. `origin` is the collection that it comes from."""

    waveform: Waveform
    text: str
    speaker: str
    origin: str


@dataclass(frozen=True, slots=True, eq=False)
class Utterance:
    """What a model hears at once: recordings of one speaker, `gaps` samples of silence before each, at one speed."""

    parts: tuple[Recording, ...]
    gaps: tuple[int, ...]
    direction: tuple[str, str]
    speed: float = 1.0

    @property
    def target(self) -> str:
        return " ".join(part.text for part in self.parts)

    @property
    def origin(self) -> str:
        return self.parts[0].origin

    @property
    def num_samples(self) -> int:
        return sum(gap + num_samples(len(part.waveform), self.speed) for part, gap in self._pieces())

    def waveform(self) -> Waveform:
        pieces: list[Waveform] = []
        for part, gap in self._pieces():
            pieces += [np.zeros(gap, np.float32), changed_speed(part.waveform, self.speed)]
        return np.concatenate(pieces)

    def _pieces(self) -> Iterator[tuple[Recording, int]]:
        return zip(self.parts, self.gaps, strict=True)


@dataclass(frozen=True, slots=True)
class RecordingSet:
    """The recordings of one entry of a recipe's data."""

    recordings: list[Recording]
    options: ParallelText

    def draw(self, speed: tuple[float, float], random: np.random.Generator) -> Iterator[Utterance]:
        """What one epoch hears of it."""
        for parts, gaps in self._joined(random):
            yield Utterance(parts, gaps, self.options.languages, _uniform(speed, random))

    def _joined(self, random: np.random.Generator) -> Iterator[tuple[tuple[Recording, ...], tuple[int, ...]]]:
        whole, rest = divmod(self.options.weight, 1.0)
        # A weight of 2.3 is heard twice, and once more with a chance of 0.3.
        rounds = [self.recordings] * int(whole)
        rounds.append([recording for recording in self.recordings if rest and random.random() < rest])
        for recordings in rounds:
            if self.options.join is None:
                yield from (((recording,), (0,)) for recording in recordings)
            else:
                yield from _strings(recordings, self.options.join, random)


def _strings(
    recordings: Sequence[Recording], join: Joining, random: np.random.Generator
) -> Iterator[tuple[tuple[Recording, ...], tuple[int, ...]]]:
    """Every recording once, in strings of one speaker; the last string is filled up with others of that speaker."""
    by_speaker: dict[str, list[Recording]] = {}
    for recording in recordings:
        by_speaker.setdefault(recording.speaker, []).append(recording)
    for own in by_speaker.values():
        order = random.permutation(len(own))
        start = 0
        while start < len(own):
            size = int(random.integers(join.count[0], join.count[1] + 1))
            chosen = list(order[start : start + size])
            missing = join.count[0] - len(chosen)
            if missing > 0:
                chosen += list(random.integers(0, len(own), missing))
            gaps = (_uniform(join.gap_s, random) for _ in chosen)
            yield tuple(own[i] for i in chosen), tuple(round(gap * SAMPLE_RATE_HZ) for gap in gaps)
            start += size


def _uniform(limits: tuple[float, float], random: np.random.Generator) -> float:
    low, high = limits
    return low if low == high else float(random.uniform(low, high))


def read_recordings(text: ParallelText, root: Path) -> Iterator[Recording]:
    """The recordings of manifests, texts as published. Raises: CorpusError naming file and line."""
    for file in text.files:
        path = root / file
        for number, line in enumerate(read_lines(path), start=1):
            where = f"{path}:{number}"
            try:
                record = json.loads(line)
                audio, transcript = path.parent / record["audio"], str(record["text"])
                speaker, origin = str(record.get("speaker", "")), str(record.get("source", ""))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CorpusError(f'{where}: expected JSON with "audio" and "text" ({error!r})') from error
            if text.only not in origin:
                continue
            try:
                waveform = read_waveform(audio, MAX_DURATION_S)
            except (AppError, OSError) as error:
                raise CorpusError(f"{where}: {audio}: {error}") from error
            yield Recording(waveform, transcript, speaker, origin)


class SpeechCorpus:
    """The recordings of a recipe, all in memory (230 MB an hour); of texts only the form is cleaned."""

    def __init__(self, recipe: Recipe, root: Path) -> None:
        self.recipe = recipe
        self.root = root
        self.reports: dict[str, CleaningReport] = {}
        self.train = [self.read(text) for text in recipe.data.train]
        self.dev = [self.read(text) for text in recipe.data.dev]

    def read(self, text: ParallelText) -> RecordingSet:
        """One entry of the recipe's data, texts as the model is to write them. Raises: CorpusError."""
        if text.languages != self.recipe.data.directions[0]:
            raise CorpusError(f"{', '.join(text.files)}: languages {text.languages} are not the recipe's direction")
        found = [
            Recording(one.waveform, normalize(one.text, self.recipe.cleaning), one.speaker, one.origin)
            for one in read_recordings(text, self.root)
        ]
        if not found:
            raise CorpusError(f"{', '.join(text.files)}: no recording in it" + (f" of {text.only!r}" * bool(text.only)))
        return RecordingSet(found, text)

    def sentences(self) -> Iterator[str]:
        """Every training text once, for learning a tokenizer."""
        yield from dict.fromkeys(recording.text for one in self.train for recording in one.recordings)


def draw_utterances(
    sets: Sequence[RecordingSet], *, seed: int = HELD_OUT_SEED, epoch: int = 0, speed: tuple[float, float] = (1.0, 1.0)
) -> list[Utterance]:
    """What an epoch hears; by default what is held out: joined the same way every time, and not changed."""
    random = np.random.default_rng((seed, epoch))
    return [utterance for each in sets for utterance in each.draw(speed, random)]


def speech_of(recipe: Recipe, vocabulary: Vocabulary) -> Speech:
    """How the recipe's model is asked: as the imported one that it started from, or without any control tokens."""
    if vocabulary.speech is not None:
        return vocabulary.speech
    model = recipe.model
    assert isinstance(model, SpeechConfig | SpeechRnnConfig)
    has_window = isinstance(model, SpeechConfig) and model.has_fixed_window
    window_frames = model.max_frames if has_window else None
    return Speech(num_mels=model.num_mels, window_frames=window_frames, languages=[recipe.data.directions[0][1]])


class SpeechBatches(Batches):
    """Batches of utterances, drawn and augmented anew for every epoch; with `is_varied` False as they are."""

    def __init__(
        self,
        sets: Sequence[RecordingSet],
        vocabulary: Vocabulary,
        recipe: Recipe,
        *,
        max_length: int,
        seed: int,
        is_varied: bool,
    ) -> None:
        super().__init__(vocabulary, batch_tokens=recipe.training.batch_tokens, max_length=max_length, seed=seed)
        self.sets = sets
        self.recipe = recipe
        self.speech = speech_of(recipe, vocabulary)
        self.augmentation = recipe.augmentation if is_varied else _NO_CHANGE
        self._drawn: tuple[int, list[Utterance]] = (-1, [])
        self.num_too_long = 0
        self._draw(0)

    @property
    def examples(self) -> list[Utterance]:
        return self._draw(0)

    @cached_property
    def sources(self) -> list[Floats]:
        return [self._as_heard(utterance.waveform()) for utterance in self.examples]

    def _draw(self, epoch: int) -> list[Utterance]:
        """What an epoch hears."""
        if self._drawn[0] != epoch:
            drawn = draw_utterances(self.sets, seed=self.seed, epoch=epoch, speed=self.augmentation.speed)
            fitting = [utterance for utterance in drawn if self._fits(utterance)]
            if not fitting:
                raise CorpusError(
                    f"no recording fits into training.max_length = {self.max_length} tokens and model.max_frames = "
                    f"{self.recipe.max_source_length}"
                )
            self.num_too_long = len(drawn) - len(fitting)
            self._drawn = (epoch, fitting)
        return self._drawn[1]

    def _fits(self, utterance: Utterance) -> bool:
        target = self._target(utterance)
        num_tokens = len(target) + len(self.vocabulary.prefix) + 1
        num_frames = utterance.num_samples // SAMPLES_A_FRAME
        return (
            1 <= num_frames <= self.recipe.max_source_length
            and num_tokens <= self.max_length
            and self.vocabulary.never.isdisjoint(target.tolist())
        )

    def _target(self, utterance: Utterance) -> Ids:
        return self.vocabulary.encode(utterance.target)

    def plan(self, epoch: int) -> list[Ids]:
        utterances = self._draw(epoch)
        window = self.speech.window_frames
        source_lengths = np.array([window or one.num_samples // SAMPLES_A_FRAME for one in utterances])
        target_lengths = np.array([len(self._target(one)) + 1 for one in utterances])
        random = np.random.default_rng((self.seed, epoch, len(utterances)))
        return self.bucket(np.arange(len(utterances)), source_lengths, target_lengths, random)

    def build(self, numbers: Ids, epoch: int, index: int) -> Batch:
        utterances = self._draw(epoch)
        features = [self._features(utterances[i], np.random.default_rng((self.seed, epoch, int(i)))) for i in numbers]
        targets = [self._target(utterances[i]) for i in numbers]
        return make_batch(padded(features), list(map(len, features)), targets, self.vocabulary)

    def _features(self, utterance: Utterance, random: np.random.Generator) -> Floats:
        waveform = spoil(utterance.waveform(), self.augmentation, random)
        return mask(self._as_heard(waveform), self.augmentation, random)

    def _as_heard(self, waveform: Waveform) -> Floats:
        """What the model reads [F, M], the same in training and in serving."""
        return log_mel(waveform, self.speech.num_mels, self.speech.window_frames)


def padded(features: Sequence[Floats]) -> Tensor:
    """Features of different length as one tensor [B, F, M], zeros behind."""
    batch = torch.zeros(len(features), max(map(len, features)), features[0].shape[1])
    for row, one in enumerate(features):
        batch[row, : len(one)] = torch.from_numpy(one)
    return batch
