"""`step` equals `forward`, for every architecture and option, for beams and for rows of different age."""

import numpy as np
import pytest
import torch

from app.models import RnnConfig, TransformerConfig, build_model
from app.models.convolutional import ConvolutionalConfig
from app.models.interface import Seq2Seq
from app.models.stepping import TorchModel

Config = TransformerConfig | RnnConfig | ConvolutionalConfig

VOCABULARY = 37
SOURCES = [np.array([5, 6, 7, 3]), np.array([9, 8, 3])]
TARGETS = np.array([[2, 11, 12, 13, 4], [2, 14, 15, 16, 30]])

TRANSFORMERS = [
    TransformerConfig(
        width=32, num_heads=4, feed_forward_width=48, encoder_layers=2, decoder_layers=3,
        norm=norm, activation=activation, positions=positions, tied_embeddings=tied, dropout=0.3, max_length=60,
    )
    for norm, activation, positions, tied in [
        ("pre", "relu", "sinusoidal", True), ("post", "gelu", "learned", False), ("pre", "swish", "learned", True),
    ]
]  # fmt: skip
RNNS = [
    RnnConfig(width=24, cell=cell, attention=attention, bidirectional=bidirectional, decoder_layers=2, encoder_layers=2)
    for cell in ("lstm", "gru", "rnn")
    for attention in ("none", "additive", "dot", "general")
    for bidirectional in (True, False)
]


OTHERS: list[Config] = [
    TransformerConfig(width=32, num_heads=4, feed_forward_width=48, encoder_layers=1, decoder_layers=2, copying=True),
    RnnConfig(width=24, attention="general", copying=True),
    ConvolutionalConfig(width=24, encoder_layers=2, decoder_layers=3, kernel_width=3, copying=True),
    ConvolutionalConfig(width=24, encoder_layers=2, decoder_layers=2, kernel_width=5, tied_embeddings=False),
]


def name(config: Config) -> str:
    copying = "-copying" if config.copying else ""
    if isinstance(config, TransformerConfig):
        return f"transformer-{config.norm}-{config.positions}{copying}"
    if isinstance(config, ConvolutionalConfig):
        return f"convolutional-{config.kernel_width}{copying}"
    return f"{config.cell}-{config.attention}-{'both' if config.bidirectional else 'forward'}{copying}"


def log_probs(model: Seq2Seq, row: int) -> torch.Tensor:
    """The oracle: one source alone, all target positions at once [T, V]."""
    source = torch.from_numpy(SOURCES[row])[None]
    lengths = torch.tensor([len(SOURCES[row])])
    with torch.no_grad():
        return model(source, lengths, torch.from_numpy(TARGETS[row : row + 1]))[0].log_softmax(-1)


def in_vocabulary_order(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    ordered = np.empty_like(values)
    np.put_along_axis(ordered, ids, values, axis=1)
    return ordered


@pytest.mark.parametrize("config", TRANSFORMERS + RNNS + OTHERS, ids=name)
def test_step_equals_forward(config: Config) -> None:
    torch.manual_seed(1)
    model = build_model(config, VOCABULARY).eval()
    stepper = TorchModel(model, bos_id=2, eos_id=3, pad_id=0, max_target_length=60)
    expected = [log_probs(model, row).numpy() for row in (0, 1)]

    # The first source starts alone, the second joins two steps later, both with two rows.
    state = stepper.encode(SOURCES[:1], 2)
    for position in range(2):
        found, state = stepper.step(np.repeat(TARGETS[:1, position], 2), state, VOCABULARY)
    state = state.concat(stepper.encode(SOURCES[1:], 2))
    for position in range(3):
        ids = np.repeat([TARGETS[0, position + 2], TARGETS[1, position]], 2)
        found, state = stepper.step(ids, state, VOCABULARY)
        got = in_vocabulary_order(found.ids, found.log_probs)
        for row, wanted in enumerate([expected[0][position + 2]] * 2 + [expected[1][position]] * 2):
            np.testing.assert_allclose(got[row], wanted, atol=2e-5)
    state = state.take(np.array([3, 2]))
    found, state = stepper.step(np.repeat(TARGETS[1:, 3], 2), state, VOCABULARY)
    np.testing.assert_allclose(in_vocabulary_order(found.ids, found.log_probs)[1], expected[1][3], atol=2e-5)


def test_slots_grow_as_rows_do() -> None:
    torch.manual_seed(2)
    model = build_model(TRANSFORMERS[0], VOCABULARY).eval()
    stepper = TorchModel(model, bos_id=2, eos_id=3, pad_id=0, max_target_length=60)
    ids = np.random.default_rng(0).integers(4, VOCABULARY, 50)
    with torch.no_grad():
        wanted = model(torch.from_numpy(SOURCES[0])[None], torch.tensor([4]), torch.from_numpy(ids)[None])[0]
    state = stepper.encode(SOURCES[:1], 1)
    for token in ids:
        found, state = stepper.step(np.array([token]), state, 3)
    np.testing.assert_allclose(found.log_probs[0], wanted[-1].log_softmax(-1).topk(3).values, atol=2e-5)
