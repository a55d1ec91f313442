"""Segmentation: lossless on any text, right on the cases that matter, and never longer than asked."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.text.segmentation import Part, split_sentences, split_to_fit

# Letters, marks and spaces that the rules look at: random text would hardly ever hold two of them in a row.
TELLING = st.text(
    alphabet="ab IA1.!?…\"'“”„()«»\n\r\t\u2028\u0085\x0b\x1c\u00a0\u3000。？！、,;:-éß\u0301\U0001f600\0\ud800",
    max_size=80,
)
TEXTS = st.one_of(st.text(max_size=500), TELLING)
LANGUAGES = st.sampled_from(["en", "de", "zh", "xx"])


def _joined(parts: list[Part]) -> str:
    return "".join(part.text + part.gap for part in parts)


@given(TEXTS, LANGUAGES)
def test_segments_and_gaps_rebuild_the_text(text: str, language: str) -> None:
    assert _joined(split_sentences(text, language)) == text


@given(TEXTS, LANGUAGES)
def test_white_space_stands_in_gaps_only(text: str, language: str) -> None:
    parts = split_sentences(text, language)
    assert all(part.text == part.text.strip() and not part.gap.strip() for part in parts)
    assert all(part.text for part in parts[1:])


@given(TEXTS, st.integers(1, 40))
def test_pieces_that_fit_rebuild_the_sentence(text: str, max_tokens: int) -> None:
    sentences = split_sentences(text)
    pieces = [piece for sentence in sentences for piece in split_to_fit(sentence, len, max_tokens)]
    assert _joined(pieces) == text
    assert all(len(piece.text) <= max_tokens for piece in pieces)


@settings(max_examples=20, deadline=None)
@given(st.text(alphabet=".!?\"') a1\n“", min_size=1, max_size=4))
def test_repetition_costs_no_more_than_its_length(unit: str) -> None:
    # Rules that scan again from every mark would take minutes here.
    text = unit * (20_000 // len(unit))
    parts = split_sentences(text)
    assert _joined(parts) == text
    assert _joined([piece for part in parts for piece in split_to_fit(part, len, 200)]) == text


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("en", ["Hello.", "How are you?", "Fine!"]),
        ("en", ["Dr. Smith met Mr. J. Brown of the U.S. Army at approx. noon.", "They left."]),
        ("en", ["It costs 3.14 dollars, e.g. today.", "See example.com for more."]),
        ("en", ['"Go away!" he said.', "She went."]),
        ("en", ["Wait... What?!", "No."]),
        ("en", ["1. Open the door.", "2. Close it."]),
        ("en", ["Is it No. 5?", "He said no.", "Then he left."]),
        ("en", ["He arrived in 1999.", "Nobody knew.", "So did I.", "Really."]),
        ("en", ["so it is... and so it was."]),
        ("de", ["Am 3. Oktober kam Dr. Müller z. B. nach Berlin.", "Es kostet 3,50 Euro."]),
        ("de", ["„Geh weg!“, sagte er.", "Er ging usw. und so fort.", "Im Jahr 1999.", "Ja."]),
        ("de", ["Die 2. Mannschaft verlor bzw. gewann.", "Wie hieß sie?", "Max."]),
    ],
)
def test_sentences_end_where_a_reader_would_say(language: str, sentences: list[str]) -> None:
    parts = split_sentences(" ".join(sentences), language)
    expected = [piece for sentence in sentences for piece in sentence.replace("... W", "...|W").split("|")]
    assert [part.text for part in parts] == expected


def test_wide_marks_need_no_space() -> None:
    parts = split_sentences("これはペンです。本当？「はい。」そう", "ja")
    assert [part.text for part in parts] == ["これはペンです。", "本当？", "「はい。」", "そう"]
    assert all(not part.gap for part in parts)


def test_line_breaks_always_end_a_sentence() -> None:
    parts = split_sentences("  A heading\n\nsome text\r\nmore ")
    assert parts == [Part("", "  "), Part("A heading", "\n\n"), Part("some text", "\r\n"), Part("more", " ")]


def test_nothing_gives_no_parts() -> None:
    assert split_sentences("") == []


def test_long_sentences_are_cut_at_a_clause_before_a_space_before_a_letter() -> None:
    clause = split_to_fit(Part("one two three four, five six seven", "!"), len, 20)
    assert clause == [Part("one two three four,", " "), Part("five six seven", "!")]
    space = split_to_fit(Part("one two three four five six seven", ""), len, 20)
    assert [part.text for part in space] == ["one two three", "four five six seven"]
    letters = split_to_fit(Part("a" * 50, " "), len, 20)
    assert all(part.gap == "" for part in letters[:-1]) and letters[-1].gap == " "


def test_combining_marks_stay_with_their_letter() -> None:
    pieces = split_to_fit(Part("e\u0301" * 30, ""), len, 20)
    assert not any(piece.text.startswith("\u0301") for piece in pieces)
