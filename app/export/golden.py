"""Golden cases: inputs whose greedy ids every variant on every provider has to reproduce before it is served."""

from collections.abc import Sequence

import numpy as np

from app.decoding.interface import Source
from app.engine.golden import pack, unpack
from app.engine.model import OnnxModel
from app.errors import ExportError
from app.export.parity import batches
from app.models.stepping import TorchModel
from app.store.manifest import Golden, GoldenCase

NUM_CASES = 8
# In nats, between the best and the second candidate of every step: more than int8 or float16 moves them.
MARGIN = 0.5
# A model that was trained for a short time is never that sure; then smaller ones have to do, as parts of the margin.
_PARTS = (1.0, 0.2, 0.04)


def choose_golden(
    reference: TorchModel,
    exported: Sequence[OnnxModel],
    sources: Sequence[Source],
    made_with: dict[str, str],
    *,
    max_length: int = 48,
    num_cases: int = NUM_CASES,
    margin: float = MARGIN,
    prefix: Sequence[int] = (),
) -> Golden:
    """The first sources where no greedy step of PyTorch was a near tie and every exported variant gives the same ids.

    All targets are made to begin with `prefix`. Where no source has the margin at every step, a part of it is enough.
    Raises: ExportError if there are none then.
    """
    length = min(max_length, reference.max_target_length)
    decoded: list[tuple[GoldenCase, float]] = []
    for batch in batches(sources):
        decoded += _decode(reference, [sources[index] for index in batch], length, prefix)
    record = Golden(made_with=made_with, max_length=length, prefix=list(prefix), cases=[])
    for part in _PARTS:
        cases: list[GoldenCase] = []
        for case, smallest in decoded:
            alone = record.model_copy(update={"cases": [case]})
            is_sure = len(case.target) > len(prefix) and smallest > part * margin
            if is_sure and all(model.find_mismatch(alone) is None for model in exported):
                cases.append(case)
            if len(cases) == num_cases:
                break
        if cases:
            return record.model_copy(update={"cases": cases})
    raise ExportError(
        f"none of {len(sources)} sources makes a golden case: in each one, two candidates of a step are within "
        f"{_PARTS[-1] * margin} nats or a variant gives other ids; give more sources or a better model"
    )


def _decode(
    model: TorchModel, sources: Sequence[Source], max_length: int, prefix: Sequence[int]
) -> list[tuple[GoldenCase, float]]:
    """Each source's greedy target, and the smallest margin between the best two candidates of its steps."""
    packed = [pack(np.asarray(source)) for source in sources]
    state = model.encode([unpack(source) for source in packed], width=1)
    ids = np.full(len(sources), model.bos_id, np.int64)
    margins = np.full(len(sources), np.inf)
    is_running = np.ones(len(sources), bool)
    targets: list[list[int]] = [[] for _ in sources]
    for position in range(max_length):
        candidates, state = model.step(ids, state, 2)
        ids = candidates.ids[:, 0].copy()
        if position < len(prefix):
            ids[:] = prefix[position]
            for target in targets:
                target.append(prefix[position])
            continue
        gaps = candidates.log_probs[:, 0] - candidates.log_probs[:, 1]
        margins = np.where(is_running, np.minimum(margins, gaps), margins)
        is_running &= ids != model.eos_id
        if not is_running.any():
            break
        for row in np.flatnonzero(is_running):
            targets[row].append(int(ids[row]))
    return [
        (GoldenCase(source=source, target=target), float(smallest))
        for source, target, smallest in zip(packed, targets, margins, strict=True)
    ]
