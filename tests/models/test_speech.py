"""A speech model reads frames of any length, or windows of one length, and steps as it decodes."""

import numpy as np
import pytest
import torch

from app.models import SpeechConfig, build_model
from app.models.interface import Seq2Seq
from app.models.stepping import TorchModel

VOCABULARY = 37
NUM_MELS, MAX_FRAMES = 10, 30
TARGETS = np.array([[2, 11, 12, 13, 4], [2, 14, 15, 16, 30]])


def speech(**options: object) -> Seq2Seq:
    sizes: dict[str, object] = {
        "width": 32,
        "num_heads": 4,
        "feed_forward_width": 48,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "num_mels": NUM_MELS,
        "max_frames": MAX_FRAMES,
        "max_length": 20,
        "dropout": 0.3,
    }
    torch.manual_seed(1)
    return build_model(SpeechConfig.model_validate(sizes | options), VOCABULARY).eval()


def draw(*lengths: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.standard_normal((length, NUM_MELS)).astype(np.float32) for length in lengths]


def memory(model: Seq2Seq, source: np.ndarray, lengths: list[int]) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        return model.encode(torch.from_numpy(source), torch.tensor(lengths))


@pytest.mark.parametrize(
    ("has_fixed_window", "source_positions", "lengths"),
    [(True, "learned", [30, 30]), (False, "sinusoidal", [23, 8]), (False, "learned", [9, 30])],
)
def test_step_equals_forward(has_fixed_window: bool, source_positions: str, lengths: list[int]) -> None:
    model = speech(has_fixed_window=has_fixed_window, source_positions=source_positions, positions="learned")
    stepper = TorchModel(model, bos_id=2, eos_id=3, pad_id=0, max_target_length=20)
    sources = draw(*lengths)
    with torch.inference_mode():
        expected = [
            model(torch.from_numpy(source)[None], torch.tensor([len(source)]), torch.from_numpy(TARGETS[row : row + 1]))
            for row, source in enumerate(sources)
        ]
    state = stepper.encode(sources[:1], 1).concat(stepper.encode(sources[1:], 1))
    for position in range(TARGETS.shape[1]):
        found, state = stepper.step(TARGETS[:, position], state, VOCABULARY)
        for row in (0, 1):
            wanted = expected[row][0, position].log_softmax(-1).numpy()
            np.testing.assert_allclose(found.log_probs[row], wanted[found.ids[row]], atol=2e-5)


def test_memory_has_a_position_for_every_two_frames() -> None:
    state = memory(speech(), np.zeros((4, 21, NUM_MELS), np.float32), [1, 2, 20, 21])
    assert state["memory_lengths"].tolist() == [1, 1, 10, 11]
    assert state["cross_key.0"].shape == (4, 4, 11, 8)


@pytest.mark.parametrize("length", [1, 2, 7, 12])
def test_what_is_behind_the_end_of_a_source_changes_nothing(length: int) -> None:
    model = speech()
    (source,) = draw(length)
    alone = memory(model, source[None], [length])
    beside = np.random.default_rng(3).standard_normal((2, 25, NUM_MELS)).astype(np.float32)
    beside[1, :length] = source
    together = memory(model, beside, [25, length])
    real = (length + 1) // 2
    for name in ("cross_key.2", "cross_value.0"):
        np.testing.assert_allclose(together[name][1, :, :real], alone[name][0], atol=1e-5)


def test_a_window_of_another_length_is_refused() -> None:
    model = speech(has_fixed_window=True)
    for frames, lengths in ((28, [28]), (30, [29])):
        with pytest.raises(ValueError, match="every one must have 30 frames"):
            memory(model, np.zeros((1, frames, NUM_MELS), np.float32), lengths)


def test_it_learns_to_tell_sounds_apart() -> None:
    # Three tones, each with a word of its own: the loss of a model that could not hear would stay at log 3.
    model = speech(dropout=0.0, encoder_layers=1, decoder_layers=1).train()
    sources = torch.zeros(3, 12, NUM_MELS)
    for tone in range(3):
        sources[tone, :, 3 * tone] = 2.0
    lengths, target, gold = torch.tensor([12, 9, 11]), torch.full((3, 1), 2), torch.tensor([5, 6, 7])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(model(sources, lengths, target)[:, 0], gold)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
