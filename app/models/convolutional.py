"""The convolutional model (Gehring 2017, arXiv:1705.03122): gated convolutions, and attention in every decoder layer.

A convolution is written as one linear map of a window of positions, so that a single step uses the same weights.
"""

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from app.models.attention import length_mask
from app.models.copying import CopyAttention
from app.models.dropout import Dropout
from app.models.interface import Decoded, Seq2Seq, StateSpec

# Halves the variance of a sum of two terms of equal variance (section 3.4).
HALF = math.sqrt(0.5)


class ConvolutionalConfig(BaseModel):
    """Sizes and options of a convolutional model; `kernel_width`, an odd number, is the positions that a layer sees."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Literal["convolutional"] = "convolutional"
    width: int = Field(256, ge=8)
    kernel_width: int = Field(3, ge=3, le=15)
    encoder_layers: int = Field(4, ge=1)
    decoder_layers: int = Field(4, ge=1)
    tied_embeddings: bool = True
    copying: bool = Field(False, description="A copy mechanism: see app/models/copying.py.")
    dropout: float = Field(0.2, ge=0, lt=1)
    max_length: int = Field(512, ge=2, description="Positions that the model has, source or target.")

    @field_validator("kernel_width")
    @classmethod
    def _is_odd(cls, kernel_width: int) -> int:
        if kernel_width % 2 == 0:
            raise ValueError("must be odd, so that a window has a middle")
        return kernel_width


def _normal_linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """Weights of variance gain / inputs, and weight normalization (Salimans 2016)."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=math.sqrt(gain / inputs))
    nn.init.zeros_(layer.bias)
    normalized: nn.Linear = weight_norm(layer)
    return normalized


class GatedConvolution(nn.Module):
    """A linear map of each window of `kernel_width` positions, halved by a gated linear unit (Dauphin 2017)."""

    def __init__(self, config: ConvolutionalConfig) -> None:
        super().__init__()
        self.kernel_width = config.kernel_width
        keep = 1 - config.dropout
        self.linear = _normal_linear(config.kernel_width * config.width, 2 * config.width, 4 * keep)

    def forward(self, x: Tensor, before: int) -> Tensor:
        """x [B, L, D]; `before` positions of a window lie before the one it is for, zeros where there are none."""
        padded = functional.pad(x, (0, 0, before, self.kernel_width - 1 - before))
        windows = padded.unfold(1, self.kernel_width, 1).transpose(2, 3).flatten(2)  # [B, L, kernel D]
        return self.of_windows(windows)

    def of_windows(self, windows: Tensor) -> Tensor:
        """[..., kernel D] -> [..., D]."""
        gated: Tensor = functional.glu(self.linear(windows), dim=-1)
        return gated


class ConvolutionalDecoderLayer(nn.Module):
    def __init__(self, config: ConvolutionalConfig) -> None:
        super().__init__()
        self.convolution = GatedConvolution(config)
        self.query = _normal_linear(config.width, config.width, 1.0)
        self.output = _normal_linear(config.width, config.width, 1.0)
        self.dropout = Dropout(config.dropout)

    def attend(self, gated: Tensor, embedded: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """gated and embedded [B, T, D], keys and values [B, S, D], mask [B, 1, S]; T may be a beam's rows."""
        query = (self.query(gated) + embedded) * HALF
        weights = (query @ keys.transpose(1, 2)).masked_fill(~mask, float("-inf")).softmax(-1)
        mixed: Tensor = (gated + self.output(weights @ values)) * HALF
        return mixed


class Convolutional(Seq2Seq):
    """Encoder and decoder over one joint vocabulary, with learned positions."""

    def __init__(self, config: ConvolutionalConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocabulary_size, config.width)
        self.source_positions = nn.Embedding(config.max_length, config.width)
        self.target_positions = nn.Embedding(config.max_length, config.width)
        self.encoder_layers = nn.ModuleList(GatedConvolution(config) for _ in range(config.encoder_layers))
        self.decoder_layers = nn.ModuleList(ConvolutionalDecoderLayer(config) for _ in range(config.decoder_layers))
        self.output = nn.Linear(config.width, vocabulary_size)
        self.copy = CopyAttention(config.width) if config.copying else None
        self.dropout = Dropout(config.dropout)
        for table in (self.embedding, self.source_positions, self.target_positions):
            nn.init.normal_(table.weight, std=0.1)
        nn.init.zeros_(self.output.bias)
        if config.tied_embeddings:
            self.output.weight = self.embedding.weight

    def state_specs(self) -> list[StateSpec]:
        width, kernel_width = self.config.width, self.config.kernel_width
        specs = [StateSpec(name, "memory", (-1, width), 1) for name in ("keys", "values")]
        layers = range(self.config.decoder_layers)
        specs += [StateSpec(f"window.{layer}", "fixed", (kernel_width - 1, width)) for layer in layers]
        return specs + self._copy_specs(width)

    def encode(self, source: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        keys, values = self._read(source, lengths)
        state = {"memory_lengths": lengths, "keys": keys, "values": values}
        for layer in range(self.config.decoder_layers):
            state[f"window.{layer}"] = keys.new_zeros(len(keys), self.config.kernel_width - 1, self.config.width)
        return state | self._copy_state(keys, source)

    def _read(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """-> keys z and values [B, S, D]; the latter times the square root of the length, as section 3.4 has it."""
        positions = torch.arange(source.shape[1], device=source.device)
        embedded = self.dropout(self.embedding(source) + self.source_positions(positions))
        # Padding is zero before every convolution, so that a source reads the same alone and among longer ones.
        is_real = length_mask(lengths, source.shape[1])[:, :, None]
        x = embedded
        for layer in self.encoder_layers:
            x = (x + layer(self.dropout(x * is_real), self.config.kernel_width // 2)) * HALF
        values = (x + embedded) * HALF * lengths.sqrt()[:, None, None]
        return x, values

    def decode(self, source: Tensor, lengths: Tensor, target: Tensor) -> Decoded:
        keys, values = self._read(source, lengths)
        mask = length_mask(lengths, source.shape[1])[:, None]
        positions = torch.arange(target.shape[1], device=target.device)
        embedded = self.dropout(self.embedding(target) + self.target_positions(positions))
        x = embedded
        for layer in self.decoder_layers:
            assert isinstance(layer, ConvolutionalDecoderLayer)
            gated = layer.convolution(self.dropout(x), self.config.kernel_width - 1)
            x = (x + layer.attend(gated, embedded, keys, values, mask)) * HALF
        return self._decoded(self.dropout(x), keys, lengths)

    def step(self, ids: Tensor, positions: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        state, keys = dict(state), state["keys"]
        mask = length_mask(state["memory_lengths"], keys.shape[1])[:, None]
        embedded = self.embedding(ids) + self.target_positions(positions)
        x = embedded
        for index, layer in enumerate(self.decoder_layers):
            assert isinstance(layer, ConvolutionalDecoderLayer)
            window = torch.cat([state[f"window.{index}"], x[:, None]], dim=1)  # [R, kernel, D]
            state[f"window.{index}"] = window[:, 1:]
            gated = layer.convolution.of_windows(window.flatten(1))
            # The rows of one source stand where positions stand in training.
            grouped = [part.unflatten(0, (len(keys), -1)) for part in (gated, embedded)]
            attended = layer.attend(grouped[0], grouped[1], keys, state["values"], mask)
            x = (x + attended.flatten(0, 1)) * HALF
        return x, state
