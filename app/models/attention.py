"""Multi-head attention (Vaswani 2017) over whole sequences, and one position at a time over a cache."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """True at the real positions: lengths [B] -> [B, size]."""
    mask: Tensor = torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]
    return mask


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[B, L, D] -> [B, H, L, K]."""
    heads: Tensor = x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    return heads


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, L, K] -> [B, L, D]."""
    return x.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Attention of a sequence to itself; queries, keys and values come from one product."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, is_causal: bool = False) -> Tensor:
        """x [B, L, D]; `mask` [B, 1, 1, L] is True at the positions that may be seen."""
        query, key, value = (split_heads(part, self.num_heads) for part in self.query_key_value(x).chunk(3, dim=-1))
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=is_causal)
        mixed: Tensor = self.output(merge_heads(attended))
        return mixed

    def step(self, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """One position a row: x [R, D] at `positions` [R]; the slots `keys`, `values` [R, H, C, K] get it in place."""
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)) for part in self.query_key_value(x).chunk(3, -1))
        rows = torch.arange(len(x), device=x.device)
        keys[rows, :, positions] = key  # [R, H, K]
        values[rows, :, positions] = value
        mask = length_mask(positions + 1, keys.shape[2])[:, None, None, :]  # [R, 1, 1, C]
        attended = functional.scaled_dot_product_attention(query[:, :, None], keys, values, attn_mask=mask)
        mixed: Tensor = self.output(attended.flatten(1))
        return mixed


class CrossAttention(nn.Module):
    """Attention of target positions to the encoder's memory, whose keys and values are computed once."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def project_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """memory [B, S, D] -> keys and values [B, H, S, K]."""
        key, value = (split_heads(part, self.num_heads) for part in self.key_value(memory).chunk(2, dim=-1))
        return key, value

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """x [B, T, D], keys and values [B, H, S, K], mask [B, 1, 1, S]; T may be a beam's rows as well as positions."""
        query = split_heads(self.query(x), self.num_heads)
        attended = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        mixed: Tensor = self.output(merge_heads(attended))
        return mixed

    def weights(self, x: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """How much each position attends to each of the memory, what `forward` mixes by: [B, H, T, S]."""
        query = split_heads(self.query(x), self.num_heads)
        scores = query @ keys.transpose(2, 3) / math.sqrt(query.shape[-1])
        weights: Tensor = scores.masked_fill(~mask, float("-inf")).softmax(-1)
        return weights
