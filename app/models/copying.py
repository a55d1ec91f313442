"""The copy mechanism (pointer-generator, See 2017): the next token is generated, or copied from the source.

P(token) = gate x P_generated(token) + (1 - gate) x the attention on the positions where the source has the token.
Source and target share one vocabulary of subwords, so nothing in a source is out of vocabulary.
Source: arXiv:1704.04368, section 2.2; here the attention is one head of its own over the encoder's memory.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

# Keeps the logarithm of a probability that has underflowed finite.
SMALLEST_PROBABILITY = 1e-37


class Copies(NamedTuple):
    """weights [B, T, S] sum to 1 over the source; gate [B, T, 1] is the probability of generating, `rest` = 1 - gate
    that of copying, computed without cancellation."""

    weights: Tensor
    gate: Tensor
    rest: Tensor


class CopyAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.gate = nn.Linear(2 * width, 1)
        self.scale = 1 / math.sqrt(width)

    def forward(self, features: Tensor, keys: Tensor, mask: Tensor) -> Copies:
        """features [B, T, D], keys [B, S, D] made by `key` from the memory, mask [B, 1, S]; T may be a beam's rows."""
        scores = (self.query(features) * self.scale) @ keys.transpose(1, 2)
        weights = scores.float().masked_fill(~mask, float("-inf")).softmax(-1)
        context = weights.to(keys.dtype) @ keys
        logit = self.gate(torch.cat([features, context], dim=-1)).float()
        return Copies(weights, torch.sigmoid(logit), torch.sigmoid(-logit))


def mixed_log_probs(logits: Tensor, copies: Copies, source: Tensor) -> Tensor:
    """logits [B, T, V] and the copies from `source` [B, S] -> log-probabilities [B, T, V] in float32."""
    probs = copies.gate * logits.float().softmax(-1)
    copied = copies.rest * copies.weights
    places = source[:, None, :].expand_as(copied)
    return probs.scatter_add(2, places, copied).clamp_min(SMALLEST_PROBABILITY).log()
