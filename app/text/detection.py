"""Which language a text is in, out of a given few (py3langid: byte n-grams, NumPy only)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# The first of a text tells its language; all of a long one would only take longer.
_MAX_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Detection:
    """A language code and how likely it is, 0 to 1."""

    language: str
    confidence: float


class LanguageDetector:
    """Ranks `languages` (codes) for a text; one thread at a time. Its model (90 MB, a second) is read when needed."""

    def __init__(self, languages: Sequence[str]) -> None:
        self._languages = tuple(languages)
        self._identifier: Any = None

    def rank(self, text: str) -> list[Detection]:
        """All languages, likeliest first; of confidence 0 where the text holds no letters or the model knows no such
        language."""
        shares = dict.fromkeys(self._languages, 0.0)
        if any(character.isalpha() for character in text):
            if self._identifier is None:
                self._identifier = _load_identifier()
                self._identifier.set_languages(sorted(set(self._languages) & set(self._identifier.labels)))
            if self._identifier.labels:
                shares |= {code: float(share) for code, share in self._identifier.rank(text[:_MAX_CHARACTERS])}
        # Stable: a tie (a name, a short word) goes to the language that was given first.
        ranked = sorted(shares.items(), key=lambda item: -round(item[1], 6))
        return [Detection(code, share) for code, share in ranked]


def _load_identifier() -> Any:
    # Only who asks for detection pays for it. The library ships no types.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
