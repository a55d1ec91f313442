"""Batches: nothing lost, nothing over the budget, the same again after a resume."""

from pathlib import Path

import numpy as np
import pytest
import torch

from app.text.tokenizer import BOS_ID, EOS_ID, SentencePieceTokenizer
from app.training.batching import TextBatches
from app.training.corpus import Corpus, Example, prepare_tokenizer
from app.training.recipe import read_recipe


@pytest.fixture
def examples(recipe: Path, data: Path) -> tuple[list[Example], SentencePieceTokenizer]:
    read = read_recipe(recipe)
    corpus = Corpus(read, data)
    return corpus.train, prepare_tokenizer(read, corpus, data / "tokenizer.model")


def make(
    examples: tuple[list[Example], SentencePieceTokenizer], batch_tokens: int = 300, sampling_alpha: float = 0.0
) -> TextBatches:
    return TextBatches(
        *examples, ["en", "de"], batch_tokens=batch_tokens, max_length=100, seed=3, sampling_alpha=sampling_alpha
    )


def test_an_epoch_sees_every_example_once_within_the_budget(
    examples: tuple[list[Example], SentencePieceTokenizer],
) -> None:
    batches = make(examples)
    plan = batches.plan(0)
    assert sorted(np.concatenate(plan)) == list(range(len(batches)))
    for index, numbers in enumerate(plan):
        batch = batches.build(numbers, 0, index)
        assert len(numbers) == 1 or batch.source.numel() + batch.target.numel() <= 300


def test_weights_say_how_often_an_epoch_sees_an_example(
    examples: tuple[list[Example], SentencePieceTokenizer],
) -> None:
    found, tokenizer = examples
    doubled = [Example(e.source, e.target, e.direction, 2.0 if i % 2 else 0.25) for i, e in enumerate(found)]
    counts = np.bincount(np.concatenate(make((doubled, tokenizer)).plan(1)), minlength=len(doubled))
    assert (counts[1::2] == 2).all()
    assert 0 < counts[::2].mean() < 0.5


def test_epochs_differ_and_repeat_exactly(examples: tuple[list[Example], SentencePieceTokenizer]) -> None:
    first, again, other = make(examples).plan(4), make(examples).plan(4), make(examples).plan(5)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert not all(len(a) == len(b) and (a == b).all() for a, b in zip(first, other, strict=False))


def test_sampled_segmentations_go_on_alike_after_a_resume(
    examples: tuple[list[Example], SentencePieceTokenizer],
) -> None:
    whole = list(make(examples, sampling_alpha=0.3).epoch(2))
    resumed = list(make(examples, sampling_alpha=0.3).epoch(2, start=2))
    for (place, batch), (other_place, other) in zip(whole[2:], resumed, strict=True):
        assert place == other_place
        assert torch.equal(batch.source, other.source) and torch.equal(batch.gold, other.gold)


def test_ranks_share_out_an_epoch(examples: tuple[list[Example], SentencePieceTokenizer]) -> None:
    batches = make(examples)
    plan = batches.plan(0)
    seen = [batch.source for rank in (0, 1) for _, batch in batches.epoch(0, rank=rank, world_size=2)]
    assert len(seen) == len(plan) // 2 * 2


def test_source_asks_for_the_language_and_target_is_shifted(
    examples: tuple[list[Example], SentencePieceTokenizer],
) -> None:
    batches = make(examples)
    batch = batches.build(np.array([0]), 0, 0)
    language = batches.examples[0].direction[1]
    assert batch.source[0, 0] == batches.language_ids[language] and batch.source[0, -1] == EOS_ID
    assert batch.target[0, 0] == BOS_ID and batch.gold[0, -1] == EOS_ID
    assert torch.equal(batch.target[0, 1:], batch.gold[0, :-1])
