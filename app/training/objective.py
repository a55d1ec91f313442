"""The training loss: label-smoothed cross-entropy, fused with the vocabulary projection."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from app.errors import CorpusError
from app.models.copying import Copies
from app.models.interface import Decoded, Seq2Seq

# Rows of logits alive at once: small enough to stay in the processor's cache.
CHUNK = 512
# A gold token below this probability gives no gradient.
_SMALLEST = 1e-20


class _FusedCrossEntropy(Function):
    """Logits, loss and all gradients chunk by chunk: the [N, V] matrix of logits is never kept.

    Source: the idea of computing gradients in the forward pass, Hsu et al. 2024 (Liger kernel), arXiv:2410.10989.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, features: Tensor, weight: Tensor, bias: Tensor, gold: Tensor, epsilon: float
    ) -> Tensor:
        smooth = epsilon / weight.shape[0]
        features_gradient = torch.empty_like(features)
        weight_gradient = torch.zeros_like(weight)
        bias_gradient = torch.zeros_like(bias)
        total = torch.zeros((), dtype=torch.float32, device=features.device)
        for start in range(0, len(features), CHUNK):
            part, wanted = features[start : start + CHUNK], gold[start : start + CHUNK, None]
            log_probs = nn.functional.linear(part, weight, bias).float().log_softmax(-1)  # [C, V]
            total -= (1 - epsilon) * log_probs.gather(1, wanted).sum() + smooth * log_probs.sum()
            gradient = log_probs.exp_().sub_(smooth)
            gradient.scatter_add_(1, wanted, torch.full_like(wanted, epsilon - 1, dtype=gradient.dtype))
            gradient = gradient.to(features.dtype)
            features_gradient[start : start + CHUNK] = gradient @ weight.to(gradient.dtype)
            weight_gradient += (gradient.T @ part).to(weight.dtype)
            bias_gradient += gradient.sum(0).to(bias.dtype)
        ctx.save_for_backward(features_gradient, weight_gradient, bias_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = upstream
        return *(gradient * scale.to(gradient.dtype) for gradient in ctx.saved_tensors), None, None


def smoothed_cross_entropy(features: Tensor, output: nn.Linear, gold: Tensor, pad_id: int, epsilon: float) -> Tensor:
    """Sum over target tokens of the label-smoothed loss in nats; padding does not count.

    Shapes: features [B, T, D], gold [B, T] int64 -> scalar float32.
    Raises: CorpusError if the batch holds no target token.
    Source: Szegedy et al. 2016, section 7, arXiv:1512.00567.
    """
    real = gold != pad_id
    if not bool(real.any()):
        raise CorpusError("a batch without a target token reached the loss; clean empty targets out of the corpus")
    loss: Tensor = _FusedCrossEntropy.apply(  # type: ignore[no-untyped-call]  # torch does not type it
        features[real], output.weight, output.bias, gold[real], epsilon
    )
    return loss


def _pointer_cross_entropy(
    features: Tensor, copies: Copies, output: nn.Linear, source: Tensor, gold: Tensor, pad_id: int, epsilon: float
) -> Tensor:
    """The same for a model that may copy. The smoothing is of the generated distribution alone: what the source does
    not hold can not be copied."""
    real = gold != pad_id
    generated = output(features[real]).float().log_softmax(-1)  # [N, V]
    is_there = source[:, None, :] == gold[:, :, None]  # [B, T, S]
    copied = (copies.rest.squeeze(-1) * (copies.weights * is_there).sum(-1))[real]
    gate = copies.gate.squeeze(-1)[real]
    probs = gate * generated.gather(1, gold[real][:, None]).squeeze(1).exp() + copied
    loss: Tensor = -(1 - epsilon) * probs.clamp_min(_SMALLEST).log().sum() - epsilon * generated.mean(-1).sum()
    return loss


def decoded_cross_entropy(
    decoded: Decoded, output: nn.Linear, source: Tensor, gold: Tensor, pad_id: int, epsilon: float
) -> Tensor:
    """The loss of what a model's `decode` gave: sum over target tokens in nats. Shapes: source [B, S], gold [B, T]."""
    if decoded.copies is None:
        return smoothed_cross_entropy(decoded.features, output, gold, pad_id, epsilon)
    return _pointer_cross_entropy(decoded.features, decoded.copies, output, source, gold, pad_id, epsilon)


class Objective(nn.Module):
    """A model with its loss, so that one forward pass gives what is to be minimized (and DDP has one to wrap)."""

    def __init__(self, model: Seq2Seq, pad_id: int, epsilon: float) -> None:
        super().__init__()
        self.model = model
        self.pad_id = pad_id
        self.epsilon = epsilon

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor, gold: Tensor) -> Tensor:
        """source [B, S], lengths [B], target [B, T] from the begin of sentence, gold [B, T] -> summed loss in nats."""
        decoded = self.model.decode(source, lengths, target)
        return decoded_cross_entropy(decoded, self.model.output, source, gold, self.pad_id, self.epsilon)
