"""Cleaning: what a text becomes, which pairs stay, and what the report says of the others."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console

from app.text.cleaning import CleaningOptions, Dropped, clean_pairs, normalize, normalize_pair

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=60)
ANY_OPTIONS = st.builds(
    CleaningOptions,
    unicode=st.sampled_from(["NFC", "NFKC", "none"]),
    lower_case=st.booleans(),
    remove_punctuation=st.booleans(),
    collapse_white_space=st.booleans(),
)


@settings(deadline=None)
@given(ANY_TEXT, ANY_OPTIONS)
def test_normalizing_any_string_gives_text_that_can_be_written_and_stays_as_it_is(
    text: str, options: CleaningOptions
) -> None:
    once = normalize(text, options)
    once.encode("utf-8")
    assert normalize(once, options) == once


@settings(deadline=None)
@given(ANY_TEXT, ANY_OPTIONS)
def test_the_result_is_in_the_form_that_was_asked_for(text: str, options: CleaningOptions) -> None:
    result = normalize(text, options)
    if options.unicode != "none":
        assert unicodedata.is_normalized(options.unicode, result)
    if options.collapse_white_space:
        assert result.split(" ") == (result.split() or [""])
    if options.remove_punctuation and not options.lower_case:
        assert not any(unicodedata.category(char).startswith("P") for char in result)


@pytest.mark.parametrize(
    ("changes", "text", "expected"),
    [
        ({}, " Gru\u0308\u00dfe,\t\u00a0Welt!\n", "Gr\u00fc\u00dfe, Welt!"),
        ({}, "\ufb01ne", "\ufb01ne"),
        ({"unicode": "NFKC"}, "\ufb01ne \u2460", "fine 1"),
        ({"unicode": "none"}, "u\u0308", "u\u0308"),
        ({"lower_case": True}, "STRASSE Stra\u00dfe \u00c4", "strasse stra\u00dfe \u00e4"),
        ({"remove_punctuation": True}, "\u00bbDon\u2019t!\u00ab (well-known, 3.5 $)", "Dont well known 3 5 $"),
        ({"remove_punctuation": True}, "?!", ""),
        ({"collapse_white_space": False}, " a  b ", " a  b "),
        ({}, "a\ud800b\x00", "a\ufffdb\x00"),
        ({}, "", ""),
    ],
)
def test_normalizing_does_what_the_options_say(changes: dict[str, object], text: str, expected: str) -> None:
    assert normalize(text, CleaningOptions.model_validate(changes)) == expected


def test_a_letter_under_very_many_marks_is_not_sorted_as_one_run() -> None:
    result = normalize("a" + "\u0301\u0323" * 1000, CleaningOptions())
    assert max(len(run) for run in result.split("\N{COMBINING GRAPHEME JOINER}")) <= 31
    assert normalize("e" + "\u0301" * 30, CleaningOptions()) == "\u00e9" + "\u0301" * 29


@pytest.mark.parametrize(
    ("changes", "source", "target", "reason"),
    [
        ({}, "a", " ", "too few words"),
        ({"min_words": 2}, "a b", "c", "too few words"),
        ({"max_words": 2}, "a b", "c d e", "too many words"),
        ({"max_characters": 4}, "abcde", "c", "too many characters"),
        ({"max_length_ratio": 3.0}, "a b c d e f g", "h i", "length ratio"),
        ({"max_length_ratio": 3.0}, "h i", "a b c d e f g", "length ratio"),
        ({}, "Berlin ", "Berlin", "untranslated"),
        ({}, " a  b", "c d", "duplicate"),
    ],
)
def test_a_pair_is_dropped_for_its_reason_and_its_line_is_named(
    changes: dict[str, object], source: str, target: str, reason: str
) -> None:
    pairs = [("a b", "c d"), (source, target), (source, target)]
    kept, report = clean_pairs(pairs, CleaningOptions.model_validate(changes))
    assert kept == [("a b", "c d")]
    assert report.dropped == {reason: Dropped(count=2, first_line=2)}
    assert (report.kept, report.total) == (1, 3)


def test_short_sentences_may_have_any_ratio_and_filters_can_be_off() -> None:
    pairs = [("yes", "das stimmt so ganz genau auch"), ("ja", "ja"), ("ja", "ja")]
    kept, _ = clean_pairs(pairs, CleaningOptions(drop_duplicates=False, drop_untranslated=False))
    assert kept == pairs


def test_duplicates_are_found_after_normalizing() -> None:
    kept, report = clean_pairs([("A b", "C"), ("a  B", "c")], CleaningOptions(lower_case=True))
    assert kept == [("a b", "c")]
    assert report.dropped["duplicate"].count == 1


@settings(deadline=None)
@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT), max_size=12))
def test_every_pair_is_kept_or_counted_and_cleaning_again_keeps_all(pairs: list[tuple[str, str]]) -> None:
    kept, report = clean_pairs(pairs, CleaningOptions())
    assert report.total == len(pairs)
    assert clean_pairs(kept, CleaningOptions()) == (kept, type(report)(len(kept), {}))


@pytest.mark.parametrize("wrong", [{"lowercase": True}, {"min_words": 0}, {"unicode": "NFD"}, {"min_words": 300}])
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CleaningOptions.model_validate(wrong)


def test_the_report_prints_counts_and_lines_but_no_text() -> None:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(clean_pairs([("geheim", "geheim"), ("one", "eins")], CleaningOptions())[1])
        console.print(clean_pairs([], CleaningOptions())[1])
    printed = capture.get()
    assert "dropped: untranslated" in printed
    assert "50.0%" in printed
    assert "geheim" not in printed


def test_match_case_lets_a_title_be_copied() -> None:
    options = CleaningOptions(match_case=True)
    source = "We study sparse regression with LASSO. Sparse models help; the LASSO of Tibshirani is sparse."
    title = "On The LASSO: Sparse Regression After Tibshirani and BERT"
    expected = "on the LASSO: sparse regression after Tibshirani and BERT"
    assert normalize_pair((source, title), options) == (source, expected)
