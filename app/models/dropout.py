"""Dropout that draws one random byte an element: on a processor the generator is what `nn.Dropout` waits for."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Dropout(nn.Module):
    """Zeroes elements with probability `rate`, in steps of 1/256 on the CPU, and scales the others up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.threshold = round(rate * 256)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.threshold:
            return x
        if x.device.type != "cpu":
            return functional.dropout(x, self.rate)
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        random_bytes = words.view(torch.uint8)[: x.numel()].view(x.shape)
        keep = (random_bytes >= self.threshold).to(x.dtype).mul_(256 / (256 - self.threshold))
        return x * keep
