"""Which examples share a batch: similar lengths under a token budget, shuffled, the same after a resume."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from app.errors import CorpusError
from app.text.tokenizer import BOS_ID, EOS_ID, PAD_ID, SentencePieceTokenizer
from app.training.corpus import Example, Ids, language_ids, source_ids


@dataclass(frozen=True, slots=True)
class Batch:
    """source [B, S], lengths [B], target [B, T] from the begin of sentence, gold [B, T] to the end of sentence."""

    source: Tensor
    lengths: Tensor
    target: Tensor
    gold: Tensor

    @property
    def num_target_tokens(self) -> int:
        return int((self.gold != PAD_ID).sum())

    @property
    def num_tokens(self) -> int:
        """Real tokens, source and target."""
        return int(self.lengths.sum()) + self.num_target_tokens

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__slots__))


def pad(rows: list[Ids]) -> Tensor:
    """Rows of different length as one tensor [B, L], `PAD_ID` behind."""
    padded = np.full((len(rows), max(map(len, rows))), PAD_ID, np.int64)
    for row, ids in enumerate(rows):
        padded[row, : len(ids)] = ids
    return torch.from_numpy(padded)


def make_batch(sources: list[Ids], targets: list[Ids]) -> Batch:
    """Sources with their language token and end of sentence, targets without either."""
    return Batch(
        source=pad(sources),
        lengths=torch.tensor([len(ids) for ids in sources]),
        target=pad([np.concatenate([[BOS_ID], ids]) for ids in targets]),
        gold=pad([np.concatenate([ids, [EOS_ID]]) for ids in targets]),
    )


class Batches:
    """The batches of every epoch: a function of seed, epoch and position alone, so that a resumed run goes on alike."""

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
        self.tokenizer = tokenizer
        self.batch_tokens = batch_tokens
        self.max_length = max_length
        self.seed = seed
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
        self.examples = [examples[i] for i in fits]
        self.sources = [source_ids(sources[i], self.language_ids[examples[i].direction[1]]) for i in fits]
        self.targets = [targets[i] for i in fits]
        self.weights = np.array([example.weight for example in self.examples])
        self.source_lengths = np.array([len(ids) for ids in self.sources])
        self.target_lengths = np.array([len(ids) + 1 for ids in self.targets])

    def __len__(self) -> int:
        return len(self.examples)

    def plan(self, epoch: int) -> list[Ids]:
        """The example numbers of every batch of an epoch, in order."""
        random = np.random.default_rng((self.seed, epoch))
        # A weight of 2.3 is seen twice, and once more with a chance of 0.3.
        times = np.floor(self.weights + random.random(len(self.weights))).astype(np.int64)
        chosen = np.repeat(np.arange(len(self.examples)), times)
        # Sorted by length, with noise among neighbours so that batches differ between epochs.
        noise = random.random(len(chosen))
        order = chosen[np.lexsort((noise, self.source_lengths[chosen], self.target_lengths[chosen]))]
        plan, start, longest_source, longest_target = [], 0, 0, 0
        for end, example in enumerate(order):
            longest_source = max(longest_source, int(self.source_lengths[example]))
            longest_target = max(longest_target, int(self.target_lengths[example]))
            if (longest_source + longest_target) * (end - start + 1) > self.batch_tokens and end > start:
                plan.append(order[start:end])
                start = end
                longest_source, longest_target = int(self.source_lengths[example]), int(self.target_lengths[example])
        plan.append(order[start:])
        return [plan[i] for i in random.permutation(len(plan))]

    def _segment(self, example: Example) -> tuple[Ids, Ids]:
        source = self.tokenizer.sample(example.source, self.sampling_alpha)[: self.max_length - 2]
        target = self.tokenizer.sample(example.target, self.sampling_alpha)[: self.max_length - 1]
        return source_ids(source, self.language_ids[example.direction[1]]), target

    def build(self, numbers: Ids, epoch: int, index: int) -> Batch:
        """The tensors of one batch of a plan."""
        if not self.sampling_alpha:
            return make_batch([self.sources[i] for i in numbers], [self.targets[i] for i in numbers])
        seed = int(np.random.default_rng((self.seed, epoch, index)).integers(2**31))
        self.tokenizer.seed_sampling(seed)
        pairs = [self._segment(self.examples[i]) for i in numbers]
        return make_batch([source for source, _ in pairs], [target for _, target in pairs])

    def epoch(self, epoch: int, start: int = 0, rank: int = 0, world_size: int = 1) -> Iterator[tuple[int, Batch]]:
        """(position after it, batch) from position `start` on; of `world_size` neighbours this rank's.

        Batches that do not fill a round of all ranks are left out.
        """
        plan = self.plan(epoch)
        for index in range(start, len(plan) - world_size + 1, world_size):
            yield index + world_size, self.build(plan[index + rank], epoch, index + rank)
