"""The gate that every export passes: PyTorch against ONNX Runtime on real sources, logits and decoded ids."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from app.decoding.interface import Candidates, Floats, Hypothesis, Ids, SearchOptions, Source, StepModel
from app.decoding.running import generate
from app.engine.model import OnnxModel
from app.errors import ExportError
from app.models.stepping import TorchModel, TorchState

# What float32 sums in another order may differ by, in nats, at logits of a trained model's size (about 20).
LOGIT_TOLERANCE = 1e-4
BATCH_SIZE = 16
# Positions of sources, padded, that are read together: of speech, a few at a time.
BATCH_POSITIONS = 12_000
NUM_NOISE_SEEDS = 32


@dataclass(frozen=True, slots=True)
class Parity:
    """How far apart the two were: `*_ties` are sources decoded differently because of a near tie.

    Probes are in nats; attention, that sums to 1 over a source, is 0 apart where a model tells none.
    """

    num_sources: int
    largest_logit_difference: float
    largest_probe_difference: float
    largest_attention_difference: float
    greedy_ties: int
    beam_ties: int

    def as_record(self) -> dict[str, float]:
        return asdict(self)


class NoisyModel:
    """A PyTorch model whose log probabilities are off by noise of the size of rounding; implements `StepModel`."""

    def __init__(self, model: TorchModel, amplitude: float, seed: int) -> None:
        self._model = model
        self._amplitude = amplitude
        self._random = np.random.default_rng(seed)
        self.bos_id, self.eos_id = model.bos_id, model.eos_id
        self.vocabulary_size, self.max_target_length = model.vocabulary_size, model.max_target_length
        self.probes, self.num_alignment_heads = model.probes, model.num_alignment_heads

    def encode(self, sources: Sequence[Source], width: int) -> TorchState:
        return self._model.encode(sources, width)

    def step(
        self, ids: Ids, state: TorchState, num_candidates: int, *, needs_attention: bool = False
    ) -> tuple[Candidates, TorchState]:
        # One more than asked for: the last one that is wanted may tie with the first one that is not.
        count = min(num_candidates + 1, self.vocabulary_size)
        candidates, after = self._model.step(ids, state, count, needs_attention=needs_attention)
        noise = self._random.uniform(-self._amplitude, self._amplitude, candidates.log_probs.shape)
        log_probs = (candidates.log_probs + noise).astype(np.float32)
        order = np.argsort(-log_probs, axis=1, kind="stable")[:, :num_candidates]
        ids_after = np.take_along_axis(candidates.ids, order, axis=1)
        log_probs = np.take_along_axis(log_probs, order, axis=1)
        return Candidates(ids_after, log_probs, candidates.probes, candidates.attention), after


def check_parity(
    reference: TorchModel,
    exported: OnnxModel,
    sources: Sequence[Source],
    *,
    max_length: int,
    beam_size: int = 4,
    tolerance: float = LOGIT_TOLERANCE,
    prefix: tuple[int, ...] = (),
) -> Parity:
    """Logits along the ids that PyTorch decodes within `tolerance`; the same ids from greedy and beam search, but
    for near ties: sources where noise of the size of the tolerance makes PyTorch itself give the other ids.

    Raises: ExportError with the numbers.
    """
    if not sources:
        raise ExportError("the parity gate got no sources; give it some of the dev set")
    greedy = SearchOptions(max_length=min(max_length, reference.max_target_length), prefix=prefix)
    beam = replace(greedy, beam_size=min(beam_size, reference.vocabulary_size))
    targets = _best(generate(reference, sources, greedy))
    difference = _largest_logit_difference(reference, exported, sources, targets)
    if not difference <= tolerance:  # NaN is no parity
        raise ExportError(
            f"logits of ONNX Runtime ({exported.variant}) and PyTorch are {difference:.2e} apart on {len(sources)} "
            f"sources, allowed are {tolerance:.0e}; the graph of this architecture in app/export is wrong"
        )
    probe_difference, attention_difference = _largest_told_differences(reference, exported, sources, targets)
    if not max(probe_difference, attention_difference) <= tolerance:
        raise ExportError(
            f"probes of ONNX Runtime ({exported.variant}) and PyTorch are {probe_difference:.2e} nats apart, attention "
            f"{attention_difference:.2e}, allowed are {tolerance:.0e}; the graph of this architecture in app/export is "
            "wrong"
        )
    greedy_ties = _compare_searches(reference, exported, sources, greedy, targets, tolerance)
    expected = _best(generate(reference, sources, beam))
    beam_ties = _compare_searches(reference, exported, sources, beam, expected, tolerance)
    return Parity(len(sources), difference, probe_difference, attention_difference, greedy_ties, beam_ties)


def _best(results: list[list[Hypothesis]]) -> list[tuple[int, ...]]:
    return [hypotheses[0].ids for hypotheses in results]


def batches(sources: Sequence[Source]) -> Iterator[range]:
    """Which sources are read together."""
    longest, count = max((len(source) for source in sources), default=1), len(sources)
    size = min(BATCH_SIZE, max(1, BATCH_POSITIONS // longest))
    return (range(start, min(start + size, count)) for start in range(0, count, size))


@torch.inference_mode()
def _largest_logit_difference(
    reference: TorchModel, exported: OnnxModel, sources: Sequence[Source], targets: Sequence[tuple[int, ...]]
) -> float:
    """Over all real positions; PyTorch reads whole targets (`forward`), ONNX Runtime one token after the other."""
    largest = 0.0
    for batch in batches(sources):
        chosen = [sources[index] for index in batch]
        # Every position that feeds a token: the begin of sentence and what follows it.
        lengths = np.array([len(targets[index]) + 1 for index in batch])
        forced = np.full((len(batch), min(lengths.max(), reference.max_target_length)), reference.pad_id, np.int64)
        for row, index in enumerate(batch):
            forced[row, : lengths[row]] = [reference.bos_id, *targets[index]][: forced.shape[1]]
        is_real = np.arange(forced.shape[1]) < lengths[:, None]
        difference = np.abs(_torch_logits(reference, chosen, forced) - exported.logits(chosen, forced))
        # Not `max`: it would lose a NaN.
        largest = float(np.maximum(largest, difference[is_real].max()))
    return largest


def _largest_told_differences(
    reference: TorchModel, exported: OnnxModel, sources: Sequence[Source], targets: Sequence[tuple[int, ...]]
) -> tuple[float, float]:
    """Of what the steps along `targets` tell beside candidates: probes and attention."""
    models: tuple[StepModel, StepModel] = (reference, exported)
    needs_attention, largest = reference.num_alignment_heads > 0, [0.0, 0.0]
    if not needs_attention and not reference.probes.ids:
        return 0.0, 0.0
    for batch in batches(sources):
        states: list[Any] = [model.encode([sources[index] for index in batch], 1) for model in models]
        for position in range(min(len(targets[index]) for index in batch) + 1):
            ids = np.array([[reference.bos_id, *targets[index]][position] for index in batch])
            told = []
            for place, model in enumerate(models):
                candidates, states[place] = model.step(ids, states[place], 1, needs_attention=needs_attention)
                told.append((candidates.probes, candidates.attention))
            for what, (mine, theirs) in enumerate(zip(*told, strict=True)):
                if mine is not None and theirs is not None:
                    largest[what] = float(np.maximum(largest[what], np.abs(mine - theirs).max()))
    return largest[0], largest[1]


def _torch_logits(reference: TorchModel, sources: Sequence[Source], forced: Ids) -> Floats:
    reference.model.eval()
    forced_ids = torch.from_numpy(forced).to(reference.device)
    logits: Floats = reference.model(*reference.padded(sources), forced_ids).cpu().numpy()
    return logits


def _compare_searches(
    reference: TorchModel,
    exported: OnnxModel,
    sources: Sequence[Source],
    options: SearchOptions,
    expected: Sequence[tuple[int, ...]],
    tolerance: float,
) -> int:
    """How many sources were near ties. Raises: ExportError for a source that differs for another reason."""
    found = _best(generate(exported, sources, options))
    different = [index for index, ids in enumerate(expected) if ids != found[index]]
    for index in different:
        if not _is_near_tie(reference, sources[index], options, found[index], tolerance):
            raise ExportError(
                f"source {index} ({len(sources[index])} tokens, beam_size {options.beam_size}): ONNX Runtime "
                f"({exported.variant}) gives ids {list(found[index])}, PyTorch {list(expected[index])}, and no near "
                f"tie explains it; {len(different)} of {len(sources)} sources differ"
            )
    return len(different)


def _is_near_tie(
    reference: TorchModel, source: Source, options: SearchOptions, found: tuple[int, ...], tolerance: float
) -> bool:
    """Whether noise of the size of rounding makes PyTorch give `found` too."""
    noisy = (NoisyModel(reference, tolerance, seed) for seed in range(NUM_NOISE_SEEDS))
    return any(_best(generate(model, [source], options))[0] == found for model in noisy)
