"""A model with a shortlist gives the best of what a source allows, whoever runs beside it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.decoding.interface import Ids, SearchOptions
from app.decoding.running import generate
from app.engine.model import OnnxModel, load_model
from app.errors import ExportError
from app.export.artifact import write_graphs
from app.export.graphs import build_graphs
from app.export.lexicon import Lexicon
from app.models.interface import Seq2Seq
from app.models.transformer import Transformer, TransformerConfig
from tests.engine.conftest import ARCHITECTURES, VOCABULARY_SIZE, build, save

EOS_ID = 3
EVERYTHING = Lexicon(np.full((VOCABULARY_SIZE, 1), EOS_ID), np.arange(VOCABULARY_SIZE))


def few() -> Lexicon:
    """Four candidates a piece."""
    draw = np.random.default_rng(2)
    return Lexicon(draw.integers(4, VOCABULARY_SIZE, (VOCABULARY_SIZE, 4)), np.array([EOS_ID, 5, 6]))


def allowed(lexicon: Lexicon, source: Ids) -> set[int]:
    return set(lexicon.candidates[source].reshape(-1).tolist()) | set(lexicon.common.tolist())


@pytest.fixture(scope="module", params=ARCHITECTURES)
def seq2seq(request: pytest.FixtureRequest) -> Seq2Seq:
    return build(request.param)


@pytest.fixture
def opened(tmp_path: Path, seq2seq: Seq2Seq) -> Callable[[Lexicon], tuple[OnnxModel, OnnxModel]]:
    """The model in int8, and with a shortlist."""

    def get(lexicon: Lexicon) -> tuple[OnnxModel, OnnxModel]:
        manifest = save(tmp_path, seq2seq, ("int8",))
        short = write_graphs(tmp_path, build_graphs(seq2seq, "int8-fast", lexicon=lexicon), "int8-fast")
        manifest = manifest.model_copy(update={"variants": {**manifest.variants, "int8-fast": short}})
        whole, cut = (load_model(tmp_path, manifest, variant, "cpu", 1) for variant in ("int8", "int8-fast"))
        return whole, cut

    return get


def draw_sources(count: int) -> list[Ids]:
    draw = np.random.default_rng(3)
    return [draw.integers(4, VOCABULARY_SIZE, draw.integers(1, 9)) for _ in range(count)]


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_shortlist_of_everything_changes_nothing(
    opened: Callable[[Lexicon], tuple[OnnxModel, OnnxModel]], beam_size: int
) -> None:
    options = SearchOptions(max_length=12, beam_size=beam_size, num_hypotheses=beam_size)
    whole, cut = (generate(model, draw_sources(12), options, max_rows=9) for model in opened(EVERYTHING))
    for expected, found in zip(whole, cut, strict=True):
        assert [one.ids for one in found] == [one.ids for one in expected]
        np.testing.assert_allclose([one.log_prob for one in found], [one.log_prob for one in expected], atol=1e-4)


def test_steps_tell_the_best_of_what_a_source_allows(
    opened: Callable[[Lexicon], tuple[OnnxModel, OnnxModel]],
) -> None:
    lexicon, sources = few(), draw_sources(5)
    models = opened(lexicon)
    whole, cut = (
        model.step(np.full(5, model.bos_id), model.encode(sources, 1), VOCABULARY_SIZE)[0] for model in models
    )
    for row, source in enumerate(sources):
        mine = allowed(lexicon, source)
        is_mine = np.isin(whole.ids[row], list(mine))
        assert cut.ids[row, : len(mine)].tolist() == whole.ids[row][is_mine].tolist()
        expected = whole.log_probs[row][is_mine] - np.log(np.exp(whole.log_probs[row][is_mine]).sum())
        np.testing.assert_allclose(cut.log_probs[row, : len(mine)], expected, atol=1e-5)
        assert (cut.log_probs[row, len(mine) :] < -1e29).all()


@pytest.mark.parametrize("beam_size", [1, 3])
def test_an_answer_does_not_depend_on_who_comes_and_goes_beside_it(
    opened: Callable[[Lexicon], tuple[OnnxModel, OnnxModel]], beam_size: int
) -> None:
    lexicon, sources, options = few(), draw_sources(30), SearchOptions(max_length=12, beam_size=beam_size)
    _, model = opened(lexicon)
    together = generate(model, sources, options, max_rows=8 * beam_size)
    for source, (found, *_) in zip(sources, together, strict=True):
        assert found.ids == generate(model, [source], options)[0][0].ids
        assert set(found.ids) <= allowed(lexicon, source)


def test_what_stands_behind_a_source_allows_nothing(opened: Callable[[Lexicon], tuple[OnnxModel, OnnxModel]]) -> None:
    lexicon = few()
    _, model = opened(lexicon)
    session = model._encode
    source = np.array([[7, 8, 9, 10], [11, 12, 13, 14]])
    names = [output.name for output in session.get_outputs()]
    values = session.run(None, {"source": source, "source_lengths": np.array([4, 2])})
    found = dict(zip(names, values, strict=True))["allowed"]
    assert set(np.flatnonzero(found[1]).tolist()) == allowed(lexicon, source[1, :2])


def test_only_what_can_have_a_shortlist_gets_one() -> None:
    with pytest.raises(ExportError, match="int8 has no form with a shortlist"):
        build_graphs(build("transformer"), "int8", lexicon=EVERYTHING)
    config = TransformerConfig(width=24, num_heads=3, encoder_layers=1, decoder_layers=1, copying=True)
    with pytest.raises(ExportError, match="Transformer in int8-fast has no form with a shortlist"):
        build_graphs(Transformer(config, VOCABULARY_SIZE), "int8-fast", lexicon=EVERYTHING)
