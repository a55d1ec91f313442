"""Detection: right on plain sentences, quiet on what has no language, never outside the given languages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.text.detection import LanguageDetector

pytest.importorskip("py3langid")

DETECTOR = LanguageDetector(["en", "de", "fr"])


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Where did you put my blue umbrella?", "en"),
        ("Wo hast du meinen blauen Regenschirm hingestellt?", "de"),
        ("Où as-tu mis mon parapluie bleu ?", "fr"),
    ],
)
def test_the_language_of_a_sentence_comes_first(text: str, language: str) -> None:
    assert DETECTOR.rank(text)[0].language == language


@pytest.mark.parametrize("text", ["", "   ", "123", "😀 …", "\0"])
def test_text_without_letters_has_confidence_zero(text: str) -> None:
    found = DETECTOR.rank(text)
    assert [one.language for one in found] == ["en", "de", "fr"]
    assert all(one.confidence == 0 for one in found)


@given(st.text(max_size=200))
def test_any_text_gets_each_language_once_and_shares_of_one(text: str) -> None:
    found = DETECTOR.rank(text)
    assert sorted(one.language for one in found) == ["de", "en", "fr"]
    assert all(0 <= one.confidence <= 1 for one in found)
    assert found == sorted(found, key=lambda one: -one.confidence)


def test_languages_unknown_to_the_detector_come_last_with_confidence_zero() -> None:
    assert [one.language for one in LanguageDetector(["tlh", "en"]).rank("This is English.")] == ["en", "tlh"]
    assert LanguageDetector(["tlh"]).rank("This is English.")[0].confidence == 0
