"""Speech to text with recurrent layers: listen, attend and spell (Chan 2016, arXiv:1508.01211).

Where the paper halves the frames between its LSTM layers, two convolutions quarter them before the first one.
"""

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from app.models.rnn import Rnn, RnnOptions
from app.models.speech import KERNEL_SIZE, convolve


class SpeechRnnConfig(RnnOptions):
    """A recurrent model over features [F, M]; `max_length` is the target's."""

    architecture: Literal["speech-rnn"] = "speech-rnn"
    num_mels: int = Field(80, ge=1)
    max_frames: int = Field(3000, ge=2, description="Frames that a source may have.")

    @model_validator(mode="after")
    def _has_no_tokens_to_copy(self) -> Self:
        if self.copying:
            raise ValueError("copying needs a source of tokens; a speech model reads sound")
        return self


class SpeechRnn(Rnn):
    """The recurrent model over frames: memory has one position for every four of them."""

    config: SpeechRnnConfig

    def __init__(self, config: SpeechRnnConfig, vocabulary_size: int) -> None:
        super().__init__(config, vocabulary_size)
        self.convolution_1 = nn.Conv1d(config.num_mels, config.width, KERNEL_SIZE, stride=2, padding=1)
        self.convolution_2 = nn.Conv1d(config.width, config.width, KERNEL_SIZE, stride=2, padding=1)

    def _embed_source(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """source [B, F, M] -> [B, ceil(F / 4), D]."""
        x, lengths = convolve((self.convolution_1, self.convolution_2), source, lengths)
        return self.dropout(x), lengths
