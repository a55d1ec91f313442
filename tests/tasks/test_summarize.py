"""A real summarizer with random weights: every text gets a summary within its limits, or an error of ours."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import AppError, InputError
from app.serving.loading import Placement
from app.store.registry import Registry
from app.tasks.build import LoadedSummarizer, build
from app.tasks.summarize import SummarizeOptions, Summary
from app.text.parts import split_document

PLAIN = SummarizeOptions()


@pytest.fixture(scope="module")
def loaded(tiny_summarizer_store: Path, placement: Placement) -> Iterator[LoadedSummarizer]:
    folder, manifest = Registry(tiny_summarizer_store).resolve("tiny-summary")
    summarizer = build(folder, manifest, placement)
    assert isinstance(summarizer, LoadedSummarizer)
    yield summarizer
    summarizer.close(drain_s=1)


def summarize(loaded: LoadedSummarizer, *texts: str, options: SummarizeOptions = PLAIN) -> list[Summary | AppError]:
    return asyncio.run(loaded.summarizer.summarize(texts, options, time.monotonic() + 60))


@pytest.fixture(scope="module")
def document(sentence_pairs: list[tuple[str, str]]) -> str:
    return " ".join(source for source, _ in sentence_pairs[:4])


def summary_of(loaded: LoadedSummarizer, text: str, options: SummarizeOptions = PLAIN) -> Summary:
    [result] = summarize(loaded, text, options=options)
    assert isinstance(result, Summary), result
    return result


def test_a_document_of_twenty_pages_is_read_in_parts_and_nothing_is_cut(
    loaded: LoadedSummarizer, sentence_pairs: list[tuple[str, str]]
) -> None:
    pages = "\n\n".join(" ".join(source for source, _ in sentence_pairs[:40]) for _ in range(20))
    summary = summary_of(loaded, pages)
    assert summary.num_parts > 20
    assert summary.text
    assert not any(warning.startswith("cut") for warning in summary.warnings)


def test_kinds_differ_and_the_first_is_the_default(loaded: LoadedSummarizer, document: str) -> None:
    text = document[:120]
    default, tldr, title = (summary_of(loaded, text, SummarizeOptions(kind=kind)) for kind in (None, "tldr", "title"))
    assert default == tldr
    assert (tldr.kind, title.kind) == ("tldr", "title")
    with pytest.raises(InputError, match="kind 'poem' is not known; tiny-summary has tldr, title"):
        summarize(loaded, text, options=SummarizeOptions(kind="poem"))


def test_lengths_bound_the_summary(loaded: LoadedSummarizer, document: str) -> None:
    short = summary_of(loaded, document[:150], SummarizeOptions(max_words=2))
    assert len(short.text.split()) <= 2
    tokens = summary_of(loaded, document[:150], SummarizeOptions(min_tokens=10, max_tokens=12, beam_size=3))
    assert tokens.text
    with pytest.raises(InputError, match="at least 9 and at most 3 words"):
        summarize(loaded, document, options=SummarizeOptions(min_words=9, max_words=3))
    with pytest.raises(InputError, match="tiny-summary writes 64 at the most"):
        summarize(loaded, document, options=SummarizeOptions(max_tokens=65))


def test_several_summaries_differ(loaded: LoadedSummarizer, document: str) -> None:
    summary = summary_of(loaded, document[:150], SummarizeOptions(num_summaries=3))
    assert summary.alternatives
    assert len({summary.text, *summary.alternatives}) == 1 + len(summary.alternatives)
    with pytest.raises(InputError, match="3 summaries are asked for of a beam of 2"):
        summarize(loaded, document, options=SummarizeOptions(num_summaries=3, beam_size=2))


def test_a_bad_item_fails_alone(loaded: LoadedSummarizer, document: str) -> None:
    good, blank, surrogate, short = summarize(loaded, document[:150], "  \n", "a \ud800 b", "Only a few words.")
    assert isinstance(good, Summary)
    assert good == summary_of(loaded, document[:150])
    assert isinstance(blank, InputError) and "no letters" in str(blank)
    assert isinstance(surrogate, InputError) and "U+D800" in str(surrogate)
    assert isinstance(short, Summary) and short.text == "Only a few words."


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=400))
def test_any_text_gets_a_summary_or_an_error_of_ours(loaded: LoadedSummarizer, text: str) -> None:
    [result] = summarize(loaded, text)
    assert isinstance(result, AppError) or result.text


@settings(max_examples=100, deadline=None)
@given(
    sentences=st.lists(st.text("ab ,", min_size=1, max_size=60).map(str.strip).filter(bool), min_size=1, max_size=30),
    max_tokens=st.integers(3, 40),
)
def test_parts_fit_and_hold_everything_in_order(sentences: list[str], max_tokens: int) -> None:
    text = ". ".join(sentences)
    parts = split_document(text, lambda part: len(part.split()), max_tokens)
    assert all(len(part.split()) <= max_tokens for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())
