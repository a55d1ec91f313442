"""The laws again, with real PyTorch models: caches that grow, memory that is padded."""

import random
from collections.abc import Hashable, Iterator

import numpy as np
import pytest

from app.decoding.interface import Hypothesis, Sampling, SearchOptions
from app.decoding.running import Job, RunningBatch, generate

torch = pytest.importorskip("torch", reason="needs the train extra")

from app.models.rnn import Rnn, RnnConfig  # noqa: E402
from app.models.stepping import TorchModel  # noqa: E402
from app.models.transformer import Transformer, TransformerConfig  # noqa: E402

VOCABULARY_SIZE = 23


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    """The best two candidates then never come so close that rounding decides."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def random_model(architecture: str) -> TorchModel:
    torch.manual_seed(1)
    if architecture == "rnn":
        model = Rnn(RnnConfig(width=12), VOCABULARY_SIZE)
    else:
        config = TransformerConfig(width=12, num_heads=2, feed_forward_width=20, encoder_layers=2, decoder_layers=2)
        model = Transformer(config, VOCABULARY_SIZE)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.6)
    return TorchModel(model, bos_id=2, eos_id=3, pad_id=0, max_target_length=60)


@pytest.mark.parametrize("architecture", ["rnn", "transformer"])
def test_joining_at_any_time_gives_what_a_job_gives_alone(architecture: str) -> None:
    model, rng = random_model(architecture), random.Random(5)
    searches = [
        SearchOptions(40),
        SearchOptions(18, beam_size=4, num_hypotheses=2),
        SearchOptions(30, min_length=4, prefix=(7, 8)),
        SearchOptions(25, num_hypotheses=2, sampling=Sampling(top_k=9, seed=3)),
    ]
    jobs = [
        Job(index, np.array([rng.randrange(4, VOCABULARY_SIZE) for _ in range(rng.randint(1, 30))] + [3]), options)
        for index, options in enumerate(searches * 6)
    ]
    batch, waiting, results = RunningBatch(model), list(jobs), dict[Hashable, list[Hypothesis]]()
    while waiting or batch.num_jobs:
        for _ in range(min(len(waiting), rng.randint(0, 4))):
            batch.admit([waiting.pop()])
        results.update((finished.key, finished.hypotheses) for finished in batch.step())
    together = generate(model, [job.source for job in jobs], [job.options for job in jobs])
    for job in jobs:
        ((*alone,),) = generate(model, [job.source], job.options)
        assert [(h.ids, h.finish_reason) for h in results[job.key]] == [(h.ids, h.finish_reason) for h in alone]
        assert [(h.ids, h.finish_reason) for h in together[job.key]] == [(h.ids, h.finish_reason) for h in alone]
        assert [h.score for h in results[job.key]] == pytest.approx([h.score for h in alone], abs=1e-4)
