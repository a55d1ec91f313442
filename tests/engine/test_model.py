"""`OnnxModel` gives what PyTorch gives, whoever else is in the batch and whenever a row joined."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.decoding.interface import Ids, SearchOptions, State, StepModel
from app.decoding.running import generate
from app.engine import session
from app.engine.model import OnnxModel, load_model
from app.errors import ArtifactError, InputError
from app.models.stepping import TorchModel
from app.store.manifest import Golden, GoldenCase, Manifest
from tests.engine.conftest import ARCHITECTURES, MAX_TARGET_LENGTH, VOCABULARY_SIZE

Artifact = Callable[[str], tuple[Path, Manifest, TorchModel]]
# float32 sums in another order, log-probabilities of about -5: some 1e-6 each, over layers and steps.
TOLERANCE = 1e-4


@pytest.fixture(params=ARCHITECTURES)
def pair(request: pytest.FixtureRequest, artifact: Artifact) -> tuple[OnnxModel, TorchModel]:
    folder, manifest, reference = artifact(request.param)
    return load_model(folder, manifest, "fp32", "cpu", 1), reference


def draw_sources(seed: int, lengths: Sequence[int]) -> list[Ids]:
    random = np.random.default_rng(seed)
    return [random.integers(4, VOCABULARY_SIZE, length) for length in lengths]


def forced(model: StepModel, source: Ids, tokens: Sequence[int]) -> list[np.ndarray]:
    """The log-probabilities of all tokens, step by step, of one source alone: [V] each."""
    state, rows = model.encode([source], 1), []
    for token in tokens:
        candidates, state = model.step(np.array([token]), state, model.vocabulary_size)
        rows.append(by_id(candidates.ids[0], candidates.log_probs[0]))
    return rows


def by_id(ids: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
    values = np.zeros(VOCABULARY_SIZE, np.float32)
    values[ids] = log_probs
    return values


def test_steps_equal_pytorch(pair: tuple[OnnxModel, TorchModel]) -> None:
    model, reference = pair
    random = np.random.default_rng(1)
    sources = draw_sources(0, [5, 17, 9])
    states: list[State] = [m.encode(sources, 4) for m in pair]
    ids = np.full(12, model.bos_id)
    for _ in range(MAX_TARGET_LENGTH):
        results = [m.step(ids, state, 5) for m, state in zip((model, reference), states, strict=True)]
        (mine, _), (theirs, _) = results
        np.testing.assert_allclose(mine.log_probs, theirs.log_probs, atol=TOLERANCE)
        is_clear = np.diff(theirs.log_probs, axis=1) < -2 * TOLERANCE
        assert (mine.ids == theirs.ids)[:, :-1][is_clear & np.roll(is_clear, 1, axis=1)].all()
        rows = random.integers(0, 4, 12) + np.repeat(np.arange(0, 12, 4), 4)
        ids = theirs.ids[rows, random.integers(0, 5, 12)]
        states = [state.take(rows) for _, state in results]


def test_forced_logits_equal_pytorch(pair: tuple[OnnxModel, TorchModel]) -> None:
    import torch

    model, reference = pair
    sources = draw_sources(3, [4, 11])
    targets = np.random.default_rng(4).integers(4, VOCABULARY_SIZE, (2, 19))
    targets[:, 0] = model.bos_id
    source = torch.zeros(2, 11, dtype=torch.int64)
    for row, ids in enumerate(sources):
        source[row, : len(ids)] = torch.from_numpy(ids)
    with torch.inference_mode():
        expected = reference.model(source, torch.tensor([4, 11]), torch.from_numpy(targets))
    found = model.logits(sources, targets)
    assert found.shape == (2, 19, VOCABULARY_SIZE)
    np.testing.assert_allclose(found, expected.numpy(), atol=TOLERANCE)
    # Asking for logits once leaves ordinary steps as they were.
    np.testing.assert_allclose(model.logits(sources, targets), found, atol=TOLERANCE)
    candidates, _ = model.step(targets[:, 0], model.encode(sources, 1), 3)
    assert (candidates.ids[:, 0] == found[:, 0].argmax(-1)).all()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), width=st.sampled_from([1, 3]))
def test_a_row_is_independent_of_neighbors_and_of_when_it_joined(
    pair: tuple[OnnxModel, TorchModel], data: st.DataObject, width: int
) -> None:
    model, _ = pair
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    state, rows = None, []  # a row: its source, the tokens fed to it, the log-probabilities it got
    for _ in range(data.draw(st.integers(2, 8))):
        if state is None or data.draw(st.booleans()):
            lengths = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=4))
            sources = draw_sources(int(random.integers(1000)), lengths)
            joined = model.encode(sources, width)
            state = joined if state is None else state.concat(joined)
            rows += [(source, [], []) for source in sources for _ in range(width)]
        for _ in range(data.draw(st.integers(1, 6))):
            ids = random.integers(4, VOCABULARY_SIZE, len(rows))
            if len(rows) and max(len(tokens) for _, tokens, _ in rows) < MAX_TARGET_LENGTH:
                candidates, state = model.step(ids, state, VOCABULARY_SIZE)
                for row, (_, tokens, found) in enumerate(rows):
                    tokens.append(int(ids[row]))
                    found.append(by_id(candidates.ids[row], candidates.log_probs[row]))
        groups = np.flatnonzero(random.random(len(rows) // width) < 0.7)
        random.shuffle(groups)
        chosen = (groups[:, None] * width + random.integers(0, width, (len(groups), width))).reshape(-1)
        state = state.take(chosen)
        rows = [(rows[row][0], list(rows[row][1]), list(rows[row][2])) for row in chosen]
    for source, tokens, found in rows:
        for alone, together in zip(forced(model, source, tokens), found, strict=True):
            np.testing.assert_allclose(together, alone, atol=TOLERANCE)


def test_one_model_can_step_several_states_in_turn(pair: tuple[OnnxModel, TorchModel]) -> None:
    model, _ = pair
    sources = draw_sources(7, [6, 13])
    tokens = [2, 9, 17, 30]
    expected = [forced(model, source, tokens) for source in sources]
    states = [model.encode([source], 1) for source in sources]
    for position, token in enumerate(tokens):
        for place in (0, 1):
            candidates, states[place] = model.step(np.array([token]), states[place], VOCABULARY_SIZE)
            found = by_id(candidates.ids[0], candidates.log_probs[0])
            np.testing.assert_allclose(found, expected[place][position], atol=TOLERANCE)


def test_candidates_are_the_callers_own(pair: tuple[OnnxModel, TorchModel]) -> None:
    model, _ = pair
    state = model.encode(draw_sources(1, [5]), 1)
    first, state = model.step(np.array([2]), state, 4)
    kept = first.ids.copy()
    model.step(np.array([9]), state, 4)
    assert (first.ids == kept).all()


@pytest.mark.parametrize("length", [0, 51])
def test_a_source_of_no_or_too_many_positions_is_refused(pair: tuple[OnnxModel, TorchModel], length: int) -> None:
    with pytest.raises(InputError, match=rf"source 1 has {length} positions, the model takes 1 to 50"):
        pair[0].encode([np.ones(3, np.int64), np.ones(length, np.int64)], 1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_int8_is_the_default_on_the_cpu_and_stays_near(artifact: Artifact, architecture: str) -> None:
    folder, manifest, reference = artifact(architecture)
    model = load_model(folder, manifest, None, "cpu", 1)
    assert (model.variant, model.provider) == ("int8", "CPUExecutionProvider")
    model.warm_up()
    source = draw_sources(2, [12])[0]
    for mine, theirs in zip(forced(model, source, [2, 8]), forced(reference, source, [2, 8]), strict=True):
        assert np.abs(mine - theirs).max() < 1.0


def test_an_unknown_variant_says_which_there_are(artifact: Artifact) -> None:
    folder, manifest, _ = artifact("lstm")
    with pytest.raises(ArtifactError, match=r"no variant 'fp16'; choose one of \['fp32', 'int8'\]"):
        load_model(folder, manifest, "fp16", "cpu", 1)


def test_graphs_that_do_not_fit_the_manifest_are_refused(artifact: Artifact) -> None:
    folder, manifest, _ = artifact("lstm")
    other = artifact("transformer")[1].variants["fp32"]
    wrong = manifest.model_copy(update={"variants": {"fp32": other}})
    with pytest.raises(ArtifactError, match=r"fp32/encode.onnx: among its outputs, \['cross_key.0'"):
        load_model(folder, wrong, None, "cpu", 1)


def greedy_cases(reference: TorchModel, sources: Sequence[Ids], max_length: int) -> Golden:
    cases = []
    for source in sources:
        state, token, target = reference.encode([source], 1), reference.bos_id, []
        while len(target) < max_length:
            candidates, state = reference.step(np.array([token]), state, 1)
            token = int(candidates.ids[0, 0])
            if token == reference.eos_id:
                break
            target.append(token)
        cases.append(GoldenCase(source=source.tolist(), target=target))
    return Golden(made_with={}, max_length=max_length, cases=cases)


def test_golden_cases_reproduce(pair: tuple[OnnxModel, TorchModel], tmp_path: Path) -> None:
    model, reference = pair
    golden = greedy_cases(reference, draw_sources(11, [5, 20, 9]), 12)
    (tmp_path / "golden.json").write_text(golden.model_dump_json())
    model.check_golden(tmp_path)


def test_a_golden_case_that_differs_is_named(pair: tuple[OnnxModel, TorchModel], tmp_path: Path) -> None:
    model, reference = pair
    golden = greedy_cases(reference, draw_sources(11, [5, 20, 9]), 12)
    case = golden.cases[1]
    wrong = case.model_copy(update={"target": [*case.target[:3], 60 if case.target[3] != 60 else 59]})
    changed = golden.model_copy(update={"cases": [golden.cases[0], wrong, golden.cases[2]]})
    (tmp_path / "golden.json").write_text(changed.model_dump_json())
    with pytest.raises(ArtifactError, match=r"golden.json: case 1, position 3: recorded id \d+, found \d+"):
        model.check_golden(tmp_path)


def test_golden_cases_end_where_pytorch_ended(pair: tuple[OnnxModel, TorchModel]) -> None:
    model, reference = pair
    golden = greedy_cases(reference, draw_sources(11, [5]), 12)
    cut = [GoldenCase(source=golden.cases[0].source, target=golden.cases[0].target[:4])]
    mismatch = model.find_mismatch(golden.model_copy(update={"cases": cut}))
    assert mismatch is not None and "position 4: recorded id 3" in mismatch


def test_missing_or_empty_golden_cases_are_refused(pair: tuple[OnnxModel, TorchModel], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="golden.json: not readable"):
        pair[0].check_golden(tmp_path)
    (tmp_path / "golden.json").write_text('{"made_with": {}, "max_length": 3, "cases": []}')
    with pytest.raises(ArtifactError, match="golden.json: it holds no cases"):
        pair[0].check_golden(tmp_path)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_generation_equals_pytorch_while_rows_join_and_end(pair: tuple[OnnxModel, TorchModel], beam_size: int) -> None:
    sources = draw_sources(21, [3, 30, 8, 15, 1, 22, 9, 12])
    options = [SearchOptions(max_length=4 + 3 * number, beam_size=beam_size) for number in range(len(sources))]
    mine, theirs = (generate(model, sources, options, max_rows=4 * beam_size) for model in pair)
    for one, other in zip(mine, theirs, strict=True):
        assert one[0].log_prob == pytest.approx(other[0].log_prob, abs=TOLERANCE * 30)
        assert one[0].ids == other[0].ids


def test_twins_work_at_the_same_time_and_give_what_one_gives(pair: tuple[OnnxModel, TorchModel]) -> None:
    model, _ = pair
    loads = [draw_sources(seed, [3, 30, 8, 15, 22, 9]) for seed in range(4)]
    options = SearchOptions(max_length=12, beam_size=3)
    expected = [generate(model, sources, options) for sources in loads]
    with ThreadPoolExecutor(len(loads)) as pool:
        found = pool.map(lambda sources: generate(model.twin(), sources, options), loads)
    assert list(found) == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_int8_is_the_same_where_weights_are_made_unsigned(
    artifact: Artifact, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest, _ = artifact(architecture)
    monkeypatch.setattr(session, "adds_in_16_bits", lambda: True)
    found = []
    for overflows in (False, True):
        variant = manifest.variants["int8"].model_copy(update={"overflows": overflows})
        described = manifest.model_copy(update={"variants": {"int8": variant}})
        found.append(forced(load_model(folder, described, "int8", "cpu", 1), draw_sources(3, [9])[0], [2, 7, 9, 4]))
    np.testing.assert_allclose(found[0], found[1], atol=TOLERANCE)


def test_many_sources_are_read_as_few_are(pair: tuple[OnnxModel, TorchModel]) -> None:
    exported, _ = pair
    draw = np.random.default_rng(2)
    sources = [np.append(draw.integers(4, 60, length), exported.eos_id) for length in draw.integers(1, 30, 50)]
    together = exported.encode(sources, 1)  # more positions than are read at once
    ids = np.full(len(sources), exported.bos_id, np.int64)
    candidates, _ = exported.step(ids, together, 3)
    for row, source in enumerate(sources):
        alone, _ = exported.step(ids[:1], exported.encode([source], 1), 3)
        np.testing.assert_array_equal(alone.ids[0], candidates.ids[row])
        np.testing.assert_allclose(alone.log_probs[0], candidates.log_probs[row], atol=1e-5)
