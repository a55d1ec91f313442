"""Which examples share a batch: similar lengths under a token budget, shuffled, the same after a resume."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from app.decoding.interface import Source
from app.errors import CorpusError
from app.text.tokenizer import PAD_ID, SentencePieceTokenizer
from app.training.corpus import Example, Ids, language_ids, source_ids
from app.training.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Batch:
    """source [B, S] or [B, F, M], lengths [B], target [B, T] from the begin of sentence, gold [B, T] to the end of
    sentence, `pad_id` where nothing is to be learned."""

    source: Tensor
    lengths: Tensor
    target: Tensor
    gold: Tensor
    pad_id: int = PAD_ID

    @property
    def num_target_tokens(self) -> int:
        return int((self.gold != self.pad_id).sum())

    @property
    def num_tokens(self) -> int:
        """Real tokens or frames, source and target."""
        return int(self.lengths.sum()) + self.num_target_tokens

    def to(self, device: torch.device) -> "Batch":
        names = ("source", "lengths", "target", "gold")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


def pad(rows: Sequence[Ids], pad_id: int = PAD_ID) -> Tensor:
    """Rows of different length as one tensor [B, L], `pad_id` behind."""
    padded = np.full((len(rows), max(map(len, rows))), pad_id, np.int64)
    for row, ids in enumerate(rows):
        padded[row, : len(ids)] = ids
    return torch.from_numpy(padded)


def make_batch(source: Tensor, lengths: Sequence[int], targets: Sequence[Ids], vocabulary: Vocabulary) -> Batch:
    """Padded sources, and targets without begin and end of sentence."""
    bos, eos, pad_id, prefix = vocabulary.bos_id, vocabulary.eos_id, vocabulary.pad_id, vocabulary.prefix
    return Batch(
        source=source,
        lengths=torch.tensor(lengths),
        target=pad([np.concatenate([[bos, *prefix], ids]) for ids in targets], pad_id),
        gold=pad([np.concatenate([[pad_id] * len(prefix), ids, [eos]]) for ids in targets], pad_id),
        pad_id=pad_id,
    )


class HeldOut(Protocol):
    """What validation asks of an example."""

    @property
    def direction(self) -> tuple[str, str]:
        """(source, target) language codes."""

    @property
    def target(self) -> str:
        """The text that should come out."""


class Batches(ABC):
    """The batches of every epoch: a function of seed, epoch and position alone, so that a resumed run goes on alike."""

    num_too_long: int

    def __init__(self, vocabulary: Vocabulary, *, batch_tokens: int, max_length: int, seed: int) -> None:
        self.vocabulary = vocabulary
        self.batch_tokens = batch_tokens
        self.max_length = max_length
        self.seed = seed

    @property
    @abstractmethod
    def examples(self) -> Sequence[HeldOut]:
        """What the first epoch sees."""

    @property
    @abstractmethod
    def sources(self) -> Sequence[Source]:
        """The examples as the encoder reads them."""

    @abstractmethod
    def plan(self, epoch: int) -> list[Ids]:
        """The example numbers of every batch of an epoch, in order."""

    @abstractmethod
    def build(self, numbers: Ids, epoch: int, index: int) -> Batch:
        """The tensors of one batch of a plan."""

    def __len__(self) -> int:
        return len(self.examples)

    def epoch(self, epoch: int, start: int = 0, rank: int = 0, world_size: int = 1) -> Iterator[tuple[int, Batch]]:
        """(position after it, batch) from position `start` on; of `world_size` neighbours this rank's.

        Batches that do not fill a round of all ranks are left out.
        """
        plan = self.plan(epoch)
        for index in range(start, len(plan) - world_size + 1, world_size):
            yield index + world_size, self.build(plan[index + rank], epoch, index + rank)

    def bucket(self, chosen: Ids, source_lengths: Ids, target_lengths: Ids, random: np.random.Generator) -> list[Ids]:
        """Examples `chosen` [N] of these lengths [N] as batches of similar length under the budget, shuffled."""
        # Sorted by length, with noise among neighbours so that batches differ between epochs.
        noise = random.random(len(chosen))
        order = np.lexsort((noise, source_lengths, target_lengths))
        batches, start, longest_source, longest_target = [], 0, 0, 0
        for end, place in enumerate(order):
            longest_source = max(longest_source, int(source_lengths[place]))
            longest_target = max(longest_target, int(target_lengths[place]))
            if (longest_source + longest_target) * (end - start + 1) > self.batch_tokens and end > start:
                batches.append(chosen[order[start:end]])
                start = end
                longest_source, longest_target = int(source_lengths[place]), int(target_lengths[place])
        batches.append(chosen[order[start:]])
        return [batches[i] for i in random.permutation(len(batches))]


class TextBatches(Batches):
    """Batches of sentence pairs; an epoch sees every pair as often as its weight says."""

    def __init__(
        self,
        examples: list[Example],
        tokenizer: SentencePieceTokenizer,
        languages: list[str],
        *,
        batch_tokens: int,
        max_length: int,
        seed: int,
        sampling_alpha: float = 0.0,
        truncate_sources: bool = False,
    ) -> None:
        super().__init__(Vocabulary(tokenizer), batch_tokens=batch_tokens, max_length=max_length, seed=seed)
        self.tokenizer = tokenizer
        self.sampling_alpha = sampling_alpha
        self.language_ids = language_ids(tokenizer, languages)
        sources = tokenizer.encode_batch([example.source for example in examples])
        if truncate_sources:
            sources = [ids[: max_length - 2] for ids in sources]
        targets = tokenizer.encode_batch([example.target for example in examples])
        fits = [
            i
            for i in range(len(examples))
            if len(sources[i]) + 2 <= max_length and 0 < len(targets[i]) + 1 <= max_length
        ]
        if not fits:
            raise CorpusError(f"no example fits into training.max_length = {max_length} tokens")
        self.num_too_long = len(examples) - len(fits)
        self._examples = [examples[i] for i in fits]
        self._sources = [source_ids(sources[i], self.language_ids[examples[i].direction[1]]) for i in fits]
        self.targets = [targets[i] for i in fits]
        self.weights = np.array([example.weight for example in self._examples])
        self.source_lengths = np.array([len(ids) for ids in self._sources])
        self.target_lengths = np.array([len(ids) + 1 for ids in self.targets])

    @property
    def examples(self) -> list[Example]:
        return self._examples

    @property
    def sources(self) -> list[Ids]:
        return self._sources

    def plan(self, epoch: int) -> list[Ids]:
        random = np.random.default_rng((self.seed, epoch))
        # A weight of 2.3 is seen twice, and once more with a chance of 0.3.
        times = np.floor(self.weights + random.random(len(self.weights))).astype(np.int64)
        chosen = np.repeat(np.arange(len(self.examples)), times)
        return self.bucket(chosen, self.source_lengths[chosen], self.target_lengths[chosen], random)

    def _segment(self, example: Example) -> tuple[Ids, Ids]:
        source = self.tokenizer.sample(example.source, self.sampling_alpha)[: self.max_length - 2]
        target = self.tokenizer.sample(example.target, self.sampling_alpha)[: self.max_length - 1]
        return source_ids(source, self.language_ids[example.direction[1]]), target

    def build(self, numbers: Ids, epoch: int, index: int) -> Batch:
        if not self.sampling_alpha:
            pairs = [(self.sources[i], self.targets[i]) for i in numbers]
        else:
            seed = int(np.random.default_rng((self.seed, epoch, index)).integers(2**31))
            self.tokenizer.seed_sampling(seed)
            pairs = [self._segment(self.examples[i]) for i in numbers]
        sources = [source for source, _ in pairs]
        return make_batch(pad(sources), list(map(len, sources)), [target for _, target in pairs], self.vocabulary)
