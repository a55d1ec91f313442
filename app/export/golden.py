"""Golden cases: inputs whose greedy ids every variant on every provider has to reproduce before it is served."""

from collections.abc import Sequence

import numpy as np

from app.decoding.interface import Source
from app.engine.model import OnnxModel
from app.errors import ExportError
from app.models.stepping import TorchModel
from app.store.manifest import Golden, GoldenCase

NUM_CASES = 8
# In nats, between the best and the second candidate of every step: more than int8 or float16 moves them.
MARGIN = 0.5
BATCH_SIZE = 32


def choose_golden(
    reference: TorchModel,
    exported: Sequence[OnnxModel],
    sources: Sequence[Source],
    made_with: dict[str, str],
    *,
    max_length: int = 48,
    num_cases: int = NUM_CASES,
    margin: float = MARGIN,
) -> Golden:
    """The first sources where no greedy step of PyTorch was a near tie and every exported variant gives the same ids.

    Raises: ExportError if there are none.
    """
    length = min(max_length, reference.max_target_length)
    cases: list[GoldenCase] = []
    for start in range(0, len(sources), BATCH_SIZE):
        for case, smallest in _decode(reference, sources[start : start + BATCH_SIZE], length):
            alone = Golden(made_with=made_with, max_length=length, cases=[case])
            if case.target and smallest > margin and all(model.find_mismatch(alone) is None for model in exported):
                cases.append(case)
            if len(cases) == num_cases:
                return Golden(made_with=made_with, max_length=length, cases=cases)
    if not cases:
        raise ExportError(
            f"none of {len(sources)} sources makes a golden case: in each one, two candidates of a step are within "
            f"{margin} nats or a variant gives other ids; give more sources, a smaller margin or a better model"
        )
    return Golden(made_with=made_with, max_length=length, cases=cases)


def _decode(model: TorchModel, sources: Sequence[Source], max_length: int) -> list[tuple[GoldenCase, float]]:
    """Each source's greedy target, and the smallest margin between the best two candidates of its steps."""
    state = model.encode(sources, width=1)
    ids = np.full(len(sources), model.bos_id, np.int64)
    margins = np.full(len(sources), np.inf)
    is_running = np.ones(len(sources), bool)
    targets: list[list[int]] = [[] for _ in sources]
    for _ in range(max_length):
        candidates, state = model.step(ids, state, 2)
        ids = candidates.ids[:, 0].copy()
        gaps = candidates.log_probs[:, 0] - candidates.log_probs[:, 1]
        margins = np.where(is_running, np.minimum(margins, gaps), margins)
        is_running &= ids != model.eos_id
        if not is_running.any():
            break
        for row in np.flatnonzero(is_running):
            targets[row].append(int(ids[row]))
    return [
        (GoldenCase(source=[int(i) for i in source], target=target), float(smallest))
        for source, target, smallest in zip(sources, targets, margins, strict=True)
    ]
