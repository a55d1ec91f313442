"""The architectures in PyTorch, each as encode and step."""

from typing import Annotated

from pydantic import Field

from app.models.convolutional import Convolutional, ConvolutionalConfig
from app.models.interface import Seq2Seq
from app.models.rnn import Rnn, RnnConfig
from app.models.speech import Speech, SpeechConfig
from app.models.speech_rnn import SpeechRnn, SpeechRnnConfig
from app.models.transformer import Transformer, TransformerConfig

ModelConfig = Annotated[
    TransformerConfig | RnnConfig | ConvolutionalConfig | SpeechConfig | SpeechRnnConfig,
    Field(discriminator="architecture"),
]


def build_model(
    config: TransformerConfig | RnnConfig | ConvolutionalConfig | SpeechConfig | SpeechRnnConfig, vocabulary_size: int
) -> Seq2Seq:
    """An untrained model of the configured architecture, on the CPU, in float32."""
    if isinstance(config, SpeechConfig):
        return Speech(config, vocabulary_size)
    if isinstance(config, TransformerConfig):
        return Transformer(config, vocabulary_size)
    if isinstance(config, ConvolutionalConfig):
        return Convolutional(config, vocabulary_size)
    if isinstance(config, SpeechRnnConfig):
        return SpeechRnn(config, vocabulary_size)
    return Rnn(config, vocabulary_size)
