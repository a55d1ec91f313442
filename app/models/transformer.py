"""The Transformer (Vaswani 2017), with the norm before or after each block (Xiong 2020)."""

import math
from collections.abc import Callable
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from app.models.attention import CrossAttention, SelfAttention, length_mask
from app.models.copying import CopyAttention
from app.models.dropout import Dropout
from app.models.interface import Decoded, Seq2Seq, StateSpec

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "swish": functional.silu,
}


class TransformerOptions(BaseModel):
    """Sizes and options of a Transformer, whatever it reads; `width` must be a multiple of `num_heads`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(256, ge=8)
    num_heads: int = Field(4, ge=1)
    feed_forward_width: int = Field(1024, ge=8)
    encoder_layers: int = Field(4, ge=1)
    decoder_layers: int = Field(4, ge=1)
    activation: Literal["relu", "gelu", "swish"] = "relu"
    norm: Literal["pre", "post"] = "pre"
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    tied_embeddings: bool = True
    scaled_embeddings: bool = Field(True, description="Multiply embeddings by the square root of the width.")
    copying: bool = Field(False, description="A copy mechanism: see app/models/copying.py.")
    dropout: float = Field(0.1, ge=0, lt=1)
    max_length: int = Field(512, ge=2, description="Positions that the model has, source or target.")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        return self


class TransformerConfig(TransformerOptions):
    """A Transformer over tokens."""

    architecture: Literal["transformer"] = "transformer"


def sinusoidal_positions(length: int, width: int) -> Tensor:
    """Sines in the first half of the width, cosines in the second: [length, D]. Source: Vaswani 2017, section 3.5."""
    frequencies = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(length)[:, None] * frequencies[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


class FeedForward(nn.Module):
    def __init__(self, config: TransformerOptions) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.feed_forward_width)
        self.down = nn.Linear(config.feed_forward_width, config.width)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        transformed: Tensor = self.down(self.dropout(self.activation(self.up(x))))
        return transformed


class Residual(nn.Module):
    """x + block(x) with its norm before (`pre`) or after (`post`) the sum."""

    def __init__(self, config: TransformerOptions) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.is_pre = config.norm == "pre"
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, block: Callable[[Tensor], Tensor]) -> Tensor:
        x = x + self.dropout(block(self.norm(x))) if self.is_pre else self.norm(x + self.dropout(block(x)))
        return x


class EncoderLayer(nn.Module):
    def __init__(self, config: TransformerOptions) -> None:
        super().__init__()
        self.self_attention = SelfAttention(config.width, config.num_heads)
        self.self_attention_residual = Residual(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_residual = Residual(config)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.self_attention_residual(x, lambda y: self.self_attention(y, mask))
        x = self.feed_forward_residual(x, self.feed_forward)
        return x


class DecoderLayer(nn.Module):
    def __init__(self, config: TransformerOptions) -> None:
        super().__init__()
        self.self_attention = SelfAttention(config.width, config.num_heads)
        self.self_attention_residual = Residual(config)
        self.cross_attention = CrossAttention(config.width, config.num_heads)
        self.cross_attention_residual = Residual(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_residual = Residual(config)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        keys, values = self.cross_attention.project_memory(memory)
        x = self.self_attention_residual(x, lambda y: self.self_attention(y, is_causal=True))
        x = self.cross_attention_residual(x, lambda y: self.cross_attention(y, keys, values, mask))
        x = self.feed_forward_residual(x, self.feed_forward)
        return x

    def step(
        self, x: Tensor, positions: Tensor, self_cache: tuple[Tensor, Tensor], cross: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """x [R, D]; `self_cache` slots [R, H, C, K]; `cross` keys, values [B, H, S, K] and mask [B, 1, 1, S]."""
        keys, values, mask = cross
        sources = len(keys)

        def attend_memory(y: Tensor) -> Tensor:
            # The rows of one source stand where positions stand in training: its memory is never repeated.
            attended: Tensor = self.cross_attention(y.unflatten(0, (sources, -1)), keys, values, mask)
            return attended.flatten(0, 1)

        x = self.self_attention_residual(x, lambda y: self.self_attention.step(y, positions, *self_cache))
        x = self.cross_attention_residual(x, attend_memory)
        x = self.feed_forward_residual(x, self.feed_forward)
        return x


class Transformer(Seq2Seq):
    """Encoder and decoder over one joint vocabulary."""

    position_table: Tensor

    def __init__(self, config: TransformerOptions, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        self.embedding_scale = math.sqrt(config.width) if config.scaled_embeddings else 1.0
        self.embedding = nn.Embedding(vocabulary_size, config.width)
        table = sinusoidal_positions(config.max_length, config.width)
        if config.positions == "learned":
            self.position_table = nn.Parameter(torch.randn_like(table) * config.width**-0.5)
        else:
            self.register_buffer("position_table", table, persistent=False)
        self.encoder_layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.decoder_layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        # After the last block a pre-norm stack has not been normalized yet.
        self.encoder_norm = nn.LayerNorm(config.width) if config.norm == "pre" else nn.Identity()
        self.decoder_norm = nn.LayerNorm(config.width) if config.norm == "pre" else nn.Identity()
        self.output = nn.Linear(config.width, vocabulary_size)
        self.copy = CopyAttention(config.width) if config.copying else None
        self.dropout = Dropout(config.dropout)
        self._reset_parameters()
        if config.tied_embeddings:
            self.output.weight = self.embedding.weight

    def _reset_parameters(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and "embedding" not in name and "position" not in name:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        nn.init.normal_(self.embedding.weight, std=self.config.width**-0.5)

    def state_specs(self) -> list[StateSpec]:
        heads = self.config.num_heads
        shape = (heads, -1, self.config.width // heads)
        specs = []
        for layer in range(self.config.decoder_layers):
            specs += [StateSpec(f"cross_{part}.{layer}", "memory", shape, 2) for part in ("key", "value")]
            specs += [StateSpec(f"self_{part}.{layer}", "growing", shape, 2) for part in ("key", "value")]
        return specs + self._copy_specs(self.config.width)

    def _embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        embedded = self.embedding(ids) * self.embedding_scale + self.position_table[positions]
        dropped: Tensor = self.dropout(embedded)
        return dropped

    def _embed_source(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder's layers read [B, S, D], and its real lengths [B]."""
        return self._embed(source, torch.arange(source.shape[1], device=source.device)), lengths

    def _read(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """-> memory [B, S, D] and its real lengths [B]."""
        x, lengths = self._embed_source(source, lengths)
        mask = length_mask(lengths, x.shape[1])[:, None, None, :]
        for layer in self.encoder_layers:
            x = layer(x, mask)
        return self.encoder_norm(x), lengths

    def encode(self, source: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        memory, lengths = self._read(source, lengths)
        state = {"memory_lengths": lengths} | self._copy_state(memory, source)
        for index, layer in enumerate(self.decoder_layers):
            assert isinstance(layer, DecoderLayer)
            state[f"cross_key.{index}"], state[f"cross_value.{index}"] = layer.cross_attention.project_memory(memory)
        return state

    def decode(self, source: Tensor, lengths: Tensor, target: Tensor) -> Decoded:
        memory, lengths = self._read(source, lengths)
        mask = length_mask(lengths, memory.shape[1])[:, None, None, :]
        x = self._embed(target, torch.arange(target.shape[1], device=target.device))
        for layer in self.decoder_layers:
            x = layer(x, memory, mask)
        return self._decoded(self.decoder_norm(x), memory, lengths)

    def step(self, ids: Tensor, positions: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        lengths, size = state["memory_lengths"], state["cross_key.0"].shape[2]
        mask = length_mask(lengths, size)[:, None, None, :]
        x = self._embed(ids, positions)
        for index, layer in enumerate(self.decoder_layers):
            assert isinstance(layer, DecoderLayer)
            self_cache = (state[f"self_key.{index}"], state[f"self_value.{index}"])
            x = layer.step(x, positions, self_cache, (state[f"cross_key.{index}"], state[f"cross_value.{index}"], mask))
        return self.decoder_norm(x), state
