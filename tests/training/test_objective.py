"""The fused loss is the plain one: same value, same gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from app.errors import CorpusError
from app.models import TransformerConfig, build_model
from app.training import objective
from app.training.objective import Objective, smoothed_cross_entropy


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_fused_loss_and_gradients_equal_the_plain_ones(epsilon: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "CHUNK", 5)  # several chunks, the last one not full
    torch.manual_seed(0)
    output = nn.Linear(7, 23).double()
    features = torch.randn(3, 4, 7, dtype=torch.float64, requires_grad=True)
    gold = torch.randint(1, 23, (3, 4))
    gold[1, 2:] = 0

    loss = smoothed_cross_entropy(features, output, gold, 0, epsilon)
    (loss / 3).backward()
    fused = [features.grad, output.weight.grad, output.bias.grad]
    features.grad, output.weight.grad, output.bias.grad = None, None, None
    plain = functional.cross_entropy(
        output(features).flatten(0, 1), gold.flatten(), ignore_index=0, label_smoothing=epsilon, reduction="sum"
    )
    (plain / 3).backward()

    # The fused loss adds up in float32, whatever the features are.
    torch.testing.assert_close(loss.double(), plain, rtol=1e-6, atol=1e-6)
    for mine, theirs in zip(fused, [features.grad, output.weight.grad, output.bias.grad], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_batch_without_targets_is_refused() -> None:
    with pytest.raises(CorpusError, match="without a target token"):
        smoothed_cross_entropy(torch.zeros(1, 2, 3), nn.Linear(3, 4), torch.zeros(1, 2, dtype=torch.int64), 0, 0.1)


def test_loss_of_a_model_that_copies_is_that_of_its_log_probabilities() -> None:
    torch.manual_seed(2)
    config = TransformerConfig(
        width=16, num_heads=2, feed_forward_width=16, encoder_layers=1, decoder_layers=1, copying=True, dropout=0.0
    )
    model = build_model(config, 40)
    source, lengths = torch.tensor([[5, 6, 7, 5, 3], [8, 9, 3, 0, 0]]), torch.tensor([5, 3])
    gold = torch.tensor([[5, 12, 3], [9, 3, 0]])
    target = torch.tensor([[2, 5, 12], [2, 9, 3]])
    loss = Objective(model, 0, 0.0)(source, lengths, target, gold)
    log_probs = model(source, lengths, target)
    expected = -log_probs.gather(2, gold[:, :, None])[gold != 0].sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 3))
