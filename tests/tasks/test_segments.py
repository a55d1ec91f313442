"""Words in segments: all of them, in order, of the size of a subtitle."""

from hypothesis import given
from hypothesis import strategies as st

from app.tasks.segments import cut_segments
from app.tasks.transcript import Word


def spoken(text: str, word_s: float = 0.3, pause_s: float = 0.0) -> list[Word]:
    step_s = word_s + pause_s
    return [Word(f" {word}", place * step_s, place * step_s + word_s, 0.9) for place, word in enumerate(text.split())]


def texts(words: list[Word]) -> list[str]:
    return ["".join(word.text for word in segment) for segment in cut_segments(words)]


def test_a_sentence_ends_a_segment_and_a_short_one_does_not() -> None:
    words = spoken("Yes. No. This is a sentence of some words. And here is one more.")
    assert texts(words) == [" Yes. No. This is a sentence of some words.", " And here is one more."]


def test_a_pause_ends_a_segment() -> None:
    assert texts(spoken("one two three", pause_s=0.7)) == [" one", " two", " three"]


def test_a_slow_sentence_keeps_its_last_words() -> None:
    words = spoken("Ask not what your country can do for you. And then he said some more.", word_s=0.85)
    assert texts(words)[0] == " Ask not what your country can do for you."


def test_a_long_sentence_is_cut_at_its_last_clause() -> None:
    head = "When the ships had come into the harbour in the grey morning after the storm,"
    assert texts(spoken(f"{head} nobody was there to see them.", word_s=0.2))[0] == f" {head}"


@given(
    words=st.lists(st.tuples(st.text("ab.,", min_size=1, max_size=30), st.floats(0, 2), st.floats(0, 2)), max_size=60)
)
def test_segments_hold_all_words_in_order_and_are_short(words: list[tuple[str, float, float]]) -> None:
    spoken_words, time_s = [], 0.0
    for text, pause_s, word_s in words:
        spoken_words.append(Word(f" {text}", time_s + pause_s, time_s + pause_s + word_s, 0.5))
        time_s += pause_s + word_s
    segments = cut_segments(spoken_words)
    assert [word for segment in segments for word in segment] == spoken_words
    for segment in segments:
        assert segment
        assert len(segment) == 1 or sum(len(word.text) for word in segment) <= 84
        assert len(segment) == 1 or segment[-1].end_s - segment[0].start_s <= 9.0
