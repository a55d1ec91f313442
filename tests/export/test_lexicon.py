"""The lexicon finds what translates what in pairs whose translation is known."""

import numpy as np
import pytest

from app.decoding.interface import Ids
from app.export import lexicon
from app.export.lexicon import estimate_lexicon, thinned_out

EOS_ID, ARTICLE, NUM_WORDS = 3, 4, 40
FIRST_SOURCE, FIRST_TARGET = 10, 100
VOCABULARY = 150


def pairs(count: int) -> list[tuple[Ids, Ids]]:
    """Sentences of a language in which word n is word n of the other, in another order and behind an article."""
    draw = np.random.default_rng(1)
    made = []
    for _ in range(count):
        words = draw.choice(NUM_WORDS, draw.integers(2, 8), replace=False)
        target = np.repeat(FIRST_TARGET + draw.permutation(words), 2)
        target[::2] = ARTICLE
        made.append((FIRST_SOURCE + words, target))
    return made


def test_the_translation_is_the_first_candidate_but_for_what_stands_everywhere() -> None:
    found = estimate_lexicon(pairs(400), VOCABULARY, always=[EOS_ID], num_candidates=3, num_common=1)
    assert found.candidates.shape == (VOCABULARY, 3)
    assert found.common.tolist() == [EOS_ID, ARTICLE]
    for word in range(NUM_WORDS):
        others = [token for token in found.candidates[FIRST_SOURCE + word].tolist() if token != ARTICLE]
        assert others[0] == FIRST_TARGET + word


def test_a_piece_that_was_never_seen_has_common_pieces_alone() -> None:
    found = estimate_lexicon(pairs(50), VOCABULARY, always=[EOS_ID], num_candidates=3, num_common=1)
    assert set(found.candidates[FIRST_TARGET].tolist()) <= set(found.common.tolist())


def test_too_many_pairs_are_thinned_out_over_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexicon, "MOST_PAIRS", 100)
    first, second = pairs(150), [(source + 40, target) for source, target in pairs(150)]
    thinned = thinned_out(first + second)
    assert len(thinned) <= 100
    found = estimate_lexicon(thinned, VOCABULARY, always=[EOS_ID], num_candidates=3, num_common=1)
    assert FIRST_TARGET in found.candidates[FIRST_SOURCE] and FIRST_TARGET in found.candidates[FIRST_SOURCE + 40]
