"""Translation with a real artifact: what goes in comes out translated, whole, in order, and on its own."""

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.decoding.interface import SearchOptions
from app.decoding.running import generate
from app.engine.model import load_model
from app.errors import AppError, DeadlineError, InputError
from app.store.registry import Registry
from app.tasks.build import LoadedTranslator
from app.tasks.translate import TranslateItem, TranslateOptions, Translation
from app.text.segmentation import Part, split_to_fit
from app.text.tokenizer import SentencePieceTokenizer

GREEDY = TranslateOptions(beam_size=1)


def _translate(
    loaded: LoadedTranslator, *items: TranslateItem, options: TranslateOptions = GREEDY, timeout_s: float = 60
) -> list[Translation | AppError]:
    return asyncio.run(loaded.translator.translate(items, options, time.monotonic() + timeout_s))


def _text(result: Translation | AppError) -> str:
    assert isinstance(result, Translation), result
    return result.text


def test_a_sentence_is_what_the_search_gives_for_it(
    loaded: LoadedTranslator, tiny_store: Path, tiny_tokenizer: SentencePieceTokenizer
) -> None:
    folder, manifest = Registry(tiny_store).resolve("tiny-en-de")
    model = load_model(folder, manifest, "fp32", "cpu", 1)
    sentence = "The cat sleeps on the warm stove."
    pieces = tiny_tokenizer.encode(sentence)
    for target, source in (("de", "en"), ("en", "de")):
        ids = np.concatenate([[manifest.tokenizer.language_ids[target]], pieces, [manifest.eos_id]])
        search = SearchOptions(max_length=min(2 * len(ids) + 20, manifest.max_target_length), beam_size=4)
        [[best, *_]] = generate(model, [ids], search)
        options = TranslateOptions(beam_size=4)
        [result] = _translate(loaded, TranslateItem(sentence, source, target), options=options)
        assert _text(result) == tiny_tokenizer.decode(best.ids)


def test_sentences_are_translated_apart_and_joined_with_their_gaps(
    loaded: LoadedTranslator, sentence_pairs: list[tuple[str, str]]
) -> None:
    sentences = [english for english, _ in sentence_pairs[:3]]
    alone = [_text(result) for result in _translate(loaded, *(TranslateItem(s, "en", "de") for s in sentences))]
    whole = f"  {sentences[0]}\n\n{sentences[1]}  {sentences[2]}\t"
    [result] = _translate(loaded, TranslateItem(whole, "en", "de"))
    assert _text(result) == f"  {alone[0]}\n\n{alone[1]}  {alone[2]}\t"


@pytest.mark.parametrize("text", ["", "   \n", "😀🎉", "— … !?", "12 345,67", "\0\0"])
def test_text_without_letters_comes_back_unchanged(loaded: LoadedTranslator, text: str) -> None:
    [result] = _translate(loaded, TranslateItem(text, "en", "de"))
    assert result == Translation(text)


def test_the_same_language_comes_back_unchanged(loaded: LoadedTranslator) -> None:
    [result] = _translate(loaded, TranslateItem("Good morning.  Bye.", "en", "en"))
    assert result == Translation("Good morning.  Bye.")


def test_a_bad_item_fails_alone(loaded: LoadedTranslator) -> None:
    good, alone = (
        TranslateItem("Good morning.", "en", "de"),
        _translate(loaded, TranslateItem("Good morning.", "en", "de")),
    )
    results = _translate(
        loaded, good, TranslateItem("broken \ud800", "en", "de"), TranslateItem("Bonjour", "fr", "de"), good
    )
    assert [results[0], results[3]] == alone * 2
    assert isinstance(results[1], InputError) and "U+D800, at character 7" in str(results[1])
    assert isinstance(results[2], InputError) and "fr is not supported; available: de, en" in str(results[2])


def test_a_sentence_longer_than_the_model_reads_is_split_not_cut(
    loaded: LoadedTranslator, tiny_tokenizer: SentencePieceTokenizer, sentence_pairs: list[tuple[str, str]]
) -> None:
    words = " ".join(english.rstrip(".?!") for english, _ in sentence_pairs[:40])
    # Beside its pieces the model reads the target language and the end of sentence.
    pieces = split_to_fit(
        Part(words, ""), lambda text: len(tiny_tokenizer.encode(text)) + 2, loaded.manifest.max_source_length
    )
    assert len(pieces) > 4
    [whole, *alone] = _translate(
        loaded, *(TranslateItem(text, "en", "de") for text in (words, *(p.text for p in pieces)))
    )
    assert _text(whole) == "".join(_text(result) + p.gap for result, p in zip(alone, pieces, strict=True))


def test_a_met_limit_is_told(loaded: LoadedTranslator) -> None:
    item = TranslateItem("Please close the window before you leave.", "en", "de")
    [free, cut] = [_translate(loaded, item, options=TranslateOptions(1, limit))[0] for limit in (None, 1)]
    assert isinstance(free, Translation) and isinstance(cut, Translation)
    assert (cut.finish_reason, cut.is_truncated) == ("length", True)
    assert len(cut.text) < len(free.text)


def test_alternatives_are_unlike_each_other_and_the_text(
    loaded: LoadedTranslator, sentence_pairs: list[tuple[str, str]]
) -> None:
    options = TranslateOptions(num_alternatives=3)
    item = TranslateItem(" ".join(english for english, _ in sentence_pairs[:2]), "en", "de")
    [result] = _translate(loaded, item, options=options)
    assert isinstance(result, Translation)
    assert 1 <= len(result.alternatives) <= 3
    assert len({result.text, *result.alternatives}) == 1 + len(result.alternatives)
    [plain] = _translate(loaded, item, options=TranslateOptions(beam_size=4))
    assert _text(plain) == result.text


def test_no_time_left_is_a_deadline_error(loaded: LoadedTranslator) -> None:
    async def run() -> None:
        with pytest.raises(DeadlineError):
            await loaded.translator.translate([TranslateItem("Hello.", "en", "de")], GREEDY, time.monotonic() - 1)

    asyncio.run(run())


def test_a_cancelled_call_cancels_its_generations(
    loaded: LoadedTranslator, sentence_pairs: list[tuple[str, str]]
) -> None:
    text = "\n".join(english for english, _ in sentence_pairs) * 2

    async def run() -> None:
        call = asyncio.create_task(
            loaded.translator.translate([TranslateItem(text, "en", "de")], GREEDY, time.monotonic() + 60)
        )
        while not loaded.worker.num_running:
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        while loaded.worker.num_running or loaded.worker.num_waiting:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(run(), timeout=30))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_any_text_gets_a_translation_or_an_error_of_ours(loaded: LoadedTranslator, texts: list[str]) -> None:
    results = _translate(loaded, *(TranslateItem(text, "de", "en") for text in texts))
    assert len(results) == len(texts)
    for text, result in zip(texts, results, strict=True):
        assert isinstance(result, Translation)
        if not any(character.isalpha() for character in text):
            assert result.text == text
