"""Optimizers, learning-rate schedules and the moving average of the weights."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from app.errors import RecipeError
from app.training.recipe import Optimization


def freeze(model: nn.Module, beginnings: Sequence[str]) -> None:
    """Weights whose names begin like this are not trained. Raises: RecipeError if a beginning fits none."""
    names = [name for name, _ in model.named_parameters()]
    if unknown := [one for one in beginnings if not any(name.startswith(one) for name in names)]:
        known = ", ".join(sorted({name.partition(".")[0] for name in names}))
        raise RecipeError(f"optimization.freeze: no weights begin with {unknown[0]!r}; there are {known}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(tuple(beginnings)))


def build_optimizer(model: nn.Module, options: Optimization) -> torch.optim.Optimizer:
    """The recipe's optimizer; weight decay leaves vectors (biases, norms) alone."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    rate = options.learning_rate
    if options.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=rate, alpha=options.betas[1])
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=rate, betas=options.betas, eps=1e-9, fused=True)


def learning_rate(step: int, options: Optimization, max_steps: int, width: int) -> float:
    """The rate of step 1, 2, ...: linear warm-up to `learning_rate`, then the schedule.

    `noam` is Vaswani 2017, section 5.3, scaled: learning_rate x width**-0.5 x min(step**-0.5, step x warmup**-1.5).
    `cosine` falls to nothing at `max_steps`.
    """
    peak, warmup = options.learning_rate, options.warmup_steps
    if options.schedule == "noam":
        return float(peak * width**-0.5 * min(step**-0.5, step * max(warmup, 1) ** -1.5))
    if step < warmup:
        return peak * step / warmup
    if options.schedule == "inverse_sqrt":
        return peak * math.sqrt(max(warmup, 1) / step)
    if options.schedule == "cosine":
        progress = (step - warmup) / max(max_steps - warmup, 1)
        return peak * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return peak


class MovingAverage:
    """Exponential moving average of a model's weights; early steps weigh more until the average has settled."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = []
        currents: list[Tensor] = []
        for name, value in model.state_dict().items():
            averages.append(self.weights[name])
            currents.append(value.detach())
        torch._foreach_lerp_(averages, currents, 1 - decay)


def gradient_norm(parameters: Iterable[Tensor], clip_norm: float) -> Tensor:
    """Clip the gradients to `clip_norm` together; gives the norm that they had."""
    return nn.utils.clip_grad_norm_(list(parameters), clip_norm, foreach=True)
