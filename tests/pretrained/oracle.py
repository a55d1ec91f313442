"""Whisper written down once more, as plainly as it goes, over the tensors' public names: what ours is held against.

Source: Radford 2022; openai/whisper `whisper/model.py`.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv1d, gelu, layer_norm

from tests.pretrained.checkpoint import DECODER_LAYERS, ENCODER_LAYERS, HEADS, WIDTH, Array


class Oracle:
    def __init__(self, tensors: dict[str, Array]) -> None:
        self.tensors = {name.removeprefix("model."): torch.from_numpy(value) for name, value in tensors.items()}

    def linear(self, name: str, x: Tensor) -> Tensor:
        y = x @ self.tensors[f"{name}.weight"].T
        return y if name.endswith("k_proj") else y + self.tensors[f"{name}.bias"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        return layer_norm(x, (WIDTH,), self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def attention(self, name: str, x: Tensor, memory: Tensor, *, is_causal: bool) -> Tensor:
        query, key, value = (
            self.linear(f"{name}.{part}_proj", y).view(len(y), HEADS, -1).transpose(0, 1)
            for part, y in (("q", x), ("k", memory), ("v", memory))
        )
        scores = query @ key.transpose(1, 2) / math.sqrt(WIDTH // HEADS)
        if is_causal:
            scores = scores + torch.full(scores.shape[1:], -np.inf).triu(1)
        mixed = (scores.softmax(-1) @ value).transpose(0, 1).reshape(len(x), WIDTH)
        return self.linear(f"{name}.out_proj", mixed)

    def layer(self, name: str, x: Tensor, memory: Tensor | None) -> Tensor:
        y = self.norm(f"{name}.self_attn_layer_norm", x)
        x = x + self.attention(f"{name}.self_attn", y, y, is_causal=memory is not None)
        if memory is not None:
            y = self.norm(f"{name}.encoder_attn_layer_norm", x)
            x = x + self.attention(f"{name}.encoder_attn", y, memory, is_causal=False)
        y = self.norm(f"{name}.final_layer_norm", x)
        return x + self.linear(f"{name}.fc2", gelu(self.linear(f"{name}.fc1", y)))

    def logits(self, features: Array, ids: Array) -> Array:
        """features [F, M], ids [T] -> [T, V]."""
        tensors = self.tensors
        x = torch.from_numpy(features).T[None]
        for layer, stride in ((1, 1), (2, 2)):
            name = f"encoder.conv{layer}"
            x = gelu(conv1d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], stride=stride, padding=1))
        memory = x[0].T + tensors["encoder.embed_positions.weight"]
        for layer in range(ENCODER_LAYERS):
            memory = self.layer(f"encoder.layers.{layer}", memory, None)
        memory = self.norm("encoder.layer_norm", memory)
        embedding = tensors["decoder.embed_tokens.weight"]
        x = embedding[torch.from_numpy(ids)] + tensors["decoder.embed_positions.weight"][: len(ids)]
        for layer in range(DECODER_LAYERS):
            x = self.layer(f"decoder.layers.{layer}", x, memory)
        result: Array = (self.norm("decoder.layer_norm", x) @ embedding.T).numpy()
        return result
