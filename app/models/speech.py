"""Speech to text: a Transformer whose encoder reads log-mel frames through two convolutions (Radford 2022, Whisper)."""

from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from app.models.attention import length_mask
from app.models.transformer import Transformer, TransformerOptions, sinusoidal_positions

# Frames that one position of the memory stands for.
SUBSAMPLING = 2
KERNEL_SIZE = 3


class SpeechConfig(TransformerOptions):
    """A Transformer over features [F, M]; `max_length` and `positions` are the decoder's.

    `has_fixed_window`: every source is padded to `max_frames` before it is read, and all of it is real, as Whisper was
    trained; otherwise sources are as long as they are, and what is behind one's end is masked. `scaled_embeddings` is
    also for what the convolutions make of frames: without it the positions drown it at first.
    """

    architecture: Literal["speech"] = "speech"
    num_mels: int = Field(80, ge=1)
    max_frames: int = Field(3000, ge=2, multiple_of=SUBSAMPLING, description="Frames that a source may have.")
    has_fixed_window: bool = False
    source_positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    activation: Literal["relu", "gelu", "swish"] = "gelu"

    @model_validator(mode="after")
    def _has_no_tokens_to_copy(self) -> Self:
        if self.copying:
            raise ValueError("copying needs a source of tokens; a speech model reads sound")
        return self


def convolve(
    convolutions: Sequence[nn.Conv1d], source: Tensor, lengths: Tensor, *, is_masked: bool = True
) -> tuple[Tensor, Tensor]:
    """Convolutions with GELU over frames: source [B, F, M] -> [B, S, D], and the real lengths [B] of that."""
    x = source.transpose(1, 2)  # [B, M, F]
    for convolution in convolutions:
        if is_masked:
            # It looks over a source's end: it must find there what it finds behind the longest one.
            x = x * length_mask(lengths, x.shape[2])[:, None, :]
        x = functional.gelu(convolution(x))
        lengths = (lengths + convolution.stride[0] - 1) // convolution.stride[0]
    return x.transpose(1, 2), lengths


class Speech(Transformer):
    """The Transformer over frames: memory has one position for every two of them."""

    config: SpeechConfig
    source_position_table: Tensor

    def __init__(self, config: SpeechConfig, vocabulary_size: int) -> None:
        super().__init__(config, vocabulary_size)
        self.convolution_1 = nn.Conv1d(config.num_mels, config.width, KERNEL_SIZE, padding=1)
        self.convolution_2 = nn.Conv1d(config.width, config.width, KERNEL_SIZE, stride=SUBSAMPLING, padding=1)
        table = sinusoidal_positions(config.max_frames // SUBSAMPLING, config.width)
        if config.source_positions == "learned":
            self.source_position_table = nn.Parameter(torch.randn_like(table) * config.width**-0.5)
        else:
            self.register_buffer("source_position_table", table, persistent=False)

    def _embed_source(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """source [B, F, M] -> [B, ceil(F / 2), D]."""
        if self.config.has_fixed_window and (
            source.shape[1] != self.config.max_frames or bool((lengths != self.config.max_frames).any())
        ):
            raise ValueError(f"source {list(source.shape)}: every one must have {self.config.max_frames} frames")
        convolutions = (self.convolution_1, self.convolution_2)
        x, lengths = convolve(convolutions, source, lengths, is_masked=not self.config.has_fixed_window)
        return self.dropout(x * self.embedding_scale + self.source_position_table[: x.shape[1]]), lengths
