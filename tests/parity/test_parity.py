"""The gate passes what agrees and refuses what does not."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from app.decoding.interface import Candidates, Ids, SearchOptions
from app.decoding.running import generate
from app.engine.model import OnnxModel, load_model
from app.errors import ExportError
from app.export.artifact import Description, Gates, export_artifact
from app.export.golden import choose_golden
from app.export.parity import check_parity
from app.models.interface import Seq2Seq
from app.models.stepping import TorchModel, TorchState
from app.store.registry import Registry

MakeModel = Callable[[Seq2Seq], TorchModel]


@pytest.fixture(scope="module")
def exported(tiny_store: Path) -> OnnxModel:
    folder, manifest = Registry(tiny_store).resolve("tiny-en-de")
    return load_model(folder, manifest, "fp32", "cpu", 1)


@pytest.fixture(scope="module")
def exported_rnn(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_rnn: Seq2Seq,
    tiny_sources: list[Ids],
    describe: Callable[..., Description],
) -> OnnxModel:
    registry = Registry(tmp_path_factory.mktemp("rnn_store"))
    gates = Gates(sources=tiny_sources[::12], max_length=16)
    folder = export_artifact(tiny_rnn, describe("tiny-rnn", architecture="rnn"), gates, registry, keep=("fp32",))
    _, manifest = registry.resolve("tiny-rnn", "1")
    return load_model(folder, manifest, "fp32", "cpu", 1)


def perturbed(model: Seq2Seq, parameter: str, amount: float) -> Seq2Seq:
    """A copy with one weight moved."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_parameter(parameter).view(-1)[5] += amount
    return other


def test_transformer_passes_on_real_sentences(
    exported: OnnxModel, tiny_transformer: Seq2Seq, tiny_sources: list[Ids], torch_step_model: MakeModel
) -> None:
    parity = check_parity(torch_step_model(tiny_transformer), exported, tiny_sources[1::6], max_length=40)
    assert parity.num_sources == 62 and parity.largest_logit_difference < 1e-4


def test_rnn_passes_on_real_sentences(
    exported_rnn: OnnxModel, tiny_rnn: Seq2Seq, tiny_sources: list[Ids], torch_step_model: MakeModel
) -> None:
    parity = check_parity(torch_step_model(tiny_rnn), exported_rnn, tiny_sources[1::12], max_length=40)
    assert parity.num_sources == 31 and parity.largest_logit_difference < 1e-4


def test_what_is_decoded_differs_between_sources_and_along_the_target(
    exported: OnnxModel, exported_rnn: OnnxModel, tiny_sources: list[Ids]
) -> None:
    # Or else the tests above would prove nothing about memory, caches and ends.
    for model in (exported, exported_rnn):
        targets = [best[0] for best in generate(model, tiny_sources[::6], SearchOptions(max_length=40))]
        assert len({target.ids for target in targets}) > 30
        assert sum(target.finish_reason == "stop" for target in targets) > 20
        assert float(np.mean([len(set(target.ids)) for target in targets])) > 4


@pytest.mark.parametrize(
    "parameter",
    ["encoder_layers.1.feed_forward.up.weight", "decoder_layers.2.cross_attention.query.weight", "output.bias"],
)
def test_graphs_of_other_weights_are_refused_with_the_difference(
    parameter: str, exported: OnnxModel, tiny_transformer: Seq2Seq, tiny_sources: list[Ids], torch_step_model: MakeModel
) -> None:
    reference = torch_step_model(perturbed(tiny_transformer, parameter, 0.5))
    with pytest.raises(ExportError, match=r"logits .* apart on 20 sources, allowed are 1e-04"):
        check_parity(reference, exported, tiny_sources[:20], max_length=20)


def test_logits_that_are_not_numbers_are_refused(
    exported: OnnxModel, tiny_transformer: Seq2Seq, tiny_sources: list[Ids], torch_step_model: MakeModel
) -> None:
    reference = torch_step_model(perturbed(tiny_transformer, "output.bias", float("nan")))
    with pytest.raises(ExportError, match="nan apart"):
        check_parity(reference, exported, tiny_sources[:4], max_length=8)


def test_other_ids_without_a_near_tie_are_refused(
    exported: OnnxModel, tiny_transformer: Seq2Seq, tiny_sources: list[Ids], torch_step_model: MakeModel
) -> None:
    # Equal logits, but a step that hands out the second best as the best: only the decoded ids can show it.
    class SecondBest(TorchModel):
        def step(
            self, ids: Ids, state: TorchState, num_candidates: int, *, needs_attention: bool = False
        ) -> tuple[Candidates, TorchState]:
            candidates, after = super().step(ids, state, num_candidates + 1, needs_attention=needs_attention)
            return Candidates(candidates.ids[:, 1:], candidates.log_probs[:, 1:]), after

    good = torch_step_model(tiny_transformer)
    bad = SecondBest(tiny_transformer, bos_id=good.bos_id, eos_id=good.eos_id, pad_id=0, max_target_length=64)
    with pytest.raises(ExportError, match="no near tie explains it"):
        check_parity(bad, exported, tiny_sources[:4], max_length=8)


def test_different_ids_at_a_near_tie_pass_and_are_counted(
    exported: OnnxModel, tiny_transformer: Seq2Seq, tiny_sources: list[Ids], torch_step_model: MakeModel
) -> None:
    # The first decoded token and its runner-up are made equal but for less than rounding.
    reference = torch_step_model(copy.deepcopy(tiny_transformer))
    source = tiny_sources[0]
    state = reference.encode([source], 1)
    candidates, _ = reference.step(np.array([reference.bos_id]), state, 2)
    first, second = candidates.ids[0]
    gap = float(candidates.log_probs[0, 0] - candidates.log_probs[0, 1])
    assert first != second and gap > 1e-3
    with torch.no_grad():
        reference.model.output.bias[second] += gap + 2e-5
    # The exported graphs do not know of the change: with a tolerance above the gap they differ by a near tie only.
    parity = check_parity(reference, exported, [source], max_length=1, tolerance=gap + 1e-3, beam_size=1)
    assert parity.greedy_ties == 1


def test_no_sources_are_no_gate(exported: OnnxModel, tiny_transformer: Seq2Seq, torch_step_model: MakeModel) -> None:
    with pytest.raises(ExportError, match="got no sources"):
        check_parity(torch_step_model(tiny_transformer), exported, [], max_length=8)


def test_golden_cases_have_wide_margins_and_are_refused_where_there_are_none(
    exported: OnnxModel, tiny_transformer: Seq2Seq, tiny_sources: list[Ids], torch_step_model: MakeModel
) -> None:
    reference = torch_step_model(tiny_transformer)
    golden = choose_golden(reference, [exported], tiny_sources, {}, margin=0.8, num_cases=3)
    assert len(golden.cases) == 3
    for case in golden.cases:
        state, token = reference.encode([np.array(case.source)], 1), reference.bos_id
        for expected in [*case.target, reference.eos_id][: golden.max_length]:
            candidates, state = reference.step(np.array([token]), state, 2)
            assert candidates.ids[0, 0] == expected
            assert candidates.log_probs[0, 0] - candidates.log_probs[0, 1] > 0.8
            token = expected
    with pytest.raises(ExportError, match="none of 9 sources makes a golden case"):
        choose_golden(reference, [exported], tiny_sources[:9], {}, margin=1000.0)


def test_a_model_that_is_never_sure_gets_golden_cases_of_smaller_margins(
    exported: OnnxModel, tiny_transformer: Seq2Seq, tiny_sources: list[Ids], torch_step_model: MakeModel
) -> None:
    reference = torch_step_model(tiny_transformer)
    unsure = choose_golden(reference, [exported], tiny_sources, {}, margin=20.0, num_cases=3)
    assert unsure == choose_golden(reference, [exported], tiny_sources, {}, margin=0.8, num_cases=3)
