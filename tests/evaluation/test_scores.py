"""Scores: known values, signatures, intervals and refusals."""

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import CorpusError
from app.evaluation.lead import lead_summaries
from app.evaluation.scores import summary_scores, summary_shape, transcript_scores, translation_scores

REFERENCES = [
    "The dog bit the man.",
    "It was not unexpected.",
    "The man bit him first.",
]
HYPOTHESES = [
    "The dog bit the man.",
    "It wasn't surprising.",
    "The man had just bitten him.",
]


def test_scores_agree_with_the_tool_that_defines_them() -> None:
    # `sacrebleu refs.txt -i hyps.txt -m bleu chrf -w 4`, sacrebleu 2.6.0.
    scores = {score.name: score.value for score in translation_scores(HYPOTHESES, REFERENCES, with_intervals=False)}
    assert scores["BLEU"] == pytest.approx(45.0675, abs=5e-5)
    assert scores["chrF2"] == pytest.approx(50.0431, abs=5e-5)


def test_signatures_name_tokenization_case_and_resampling() -> None:
    bleu_score, chrf_score = translation_scores(HYPOTHESES, REFERENCES)
    assert "nrefs:1|bs:1000|seed:12345|case:mixed|eff:no|tok:13a|smooth:exp|version:" in bleu_score.signature
    assert "nrefs:1|bs:1000|seed:12345|case:mixed|eff:yes|nc:6|nw:0|space:no|version:" in chrf_score.signature


def test_an_interval_holds_its_score_and_comes_out_the_same_again() -> None:
    first = translation_scores(HYPOTHESES * 20, REFERENCES * 20)
    assert first == translation_scores(HYPOTHESES * 20, REFERENCES * 20)
    for score in first:
        assert score.low is not None and score.high is not None
        assert score.low < score.value < score.high
        assert f"{score.value:.1f} [{score.low:.1f}, {score.high:.1f}]" in str(score)


def test_without_resampling_there_is_no_interval() -> None:
    for score in translation_scores(HYPOTHESES, REFERENCES, with_intervals=False):
        assert (score.low, score.high) == (None, None)
        assert "bs:" not in score.signature
        assert "[" not in str(score)


def test_case_counts() -> None:
    same, upper = (
        translation_scores(texts, REFERENCES, with_intervals=False)[0].value
        for texts in (REFERENCES, [line.upper() for line in REFERENCES])
    )
    assert upper < same == pytest.approx(100)


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=5))
def test_any_text_gets_a_score_between_0_and_100(pairs: list[tuple[str, str]]) -> None:
    hypotheses, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    for score in translation_scores(hypotheses, references, with_intervals=False):
        assert 0 <= score.value <= 100 + 1e-6


@pytest.mark.parametrize(("hypotheses", "references"), [([], []), ([], ["a"]), (["a"], []), (["a"], ["a", "b"])])
def test_empty_or_unequal_sides_are_refused_with_their_counts(hypotheses: list[str], references: list[str]) -> None:
    with pytest.raises(CorpusError, match="no hypotheses|against"):
        translation_scores(hypotheses, references)


def test_rouge_takes_the_best_reference_and_has_intervals() -> None:
    summaries = ["the cat sat on the mat", "dogs run"]
    references = [["a dog", "the cat sat on a mat"], ["dogs are running"]]
    first, second, longest = summary_scores(summaries, references)
    # By hand: 5 of 6 and 6 unigrams; "run" and "running" have one stem, 2 of 2 and 3.
    assert first.value == pytest.approx(100 * (5 / 6 + 0.8) / 2)
    assert second.value == pytest.approx(100 * (3 / 5 + 0.0) / 2)
    assert longest.value == pytest.approx(first.value)
    assert first.low is not None and first.high is not None and first.low <= first.value <= first.high


def test_shape_of_summaries() -> None:
    shape = summary_shape(["a b c d", "x y x y x"], ["a b c e", "x y"], [["a b"], ["x"]])
    assert shape["words"] == 4.5
    assert shape["words of the reference"] == 1.5
    assert shape["copied"] == pytest.approx((3 / 4 + 1) / 2)
    assert shape["copied trigrams"] == pytest.approx((1 / 2 + 0) / 2)
    assert shape["repeated"] == pytest.approx((0 + 1 / 3) / 2)


def test_lead_is_the_first_sentence_or_as_many_words_as_a_title_has() -> None:
    document = "We do this. Then that, and more of it than fits into any title that is short."
    assert lead_summaries([document], [["A short title"]]) == ["We do this."]
    assert lead_summaries([document] * 2, [["One two"], ["One two three four"]]) == ["We do this."] * 2
    assert lead_summaries([document], [["word " * 20]]) == ["We do this."]


SPOKEN = ["one two three", "nine", "the cat sat on the mat", "zero five"]
HEARD = ["one too three four", "nine", "the cat sat the mat", ""]


def test_error_rates_are_those_of_jiwer_over_the_whole_set() -> None:
    wer, cer = transcript_scores(HEARD, SPOKEN)
    assert (wer.name, cer.name) == ("WER", "CER")
    assert wer.value == pytest.approx(100 * jiwer.wer(SPOKEN, HEARD))
    assert cer.value == pytest.approx(100 * jiwer.cer(SPOKEN, HEARD))
    assert wer.low is not None and wer.high is not None and wer.low < wer.value < wer.high
    assert transcript_scores(HEARD, SPOKEN) == [wer, cer]


def test_case_and_punctuation_are_not_heard() -> None:
    wer, cer = transcript_scores(["Don't stop, Mary!"], ["don\u2019t stop mary"], with_intervals=False)
    assert (wer.value, cer.value, wer.low) == (0.0, 0.0, None)


def test_words_heard_in_silence_count_and_silence_alone_is_refused() -> None:
    (wer, _) = transcript_scores(["thank you", "one"], ["", "one two"])
    assert wer.value == pytest.approx(150)
    with pytest.raises(CorpusError, match="hold no word"):
        transcript_scores([""], [""])


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=12), st.text("ab ", min_size=1, max_size=12)), min_size=1, max_size=4))
def test_a_text_without_errors_has_rate_zero(pairs: list[tuple[str, str]]) -> None:
    references = [reference for _, reference in pairs]
    if any(reference.split() for reference in references):
        assert transcript_scores(references, references)[0].value == 0
        assert transcript_scores([text for text, _ in pairs], references)[0].value >= 0
