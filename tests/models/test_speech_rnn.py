"""Listen, attend and spell: reads frames of any length, and steps as it decodes."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from app.models import build_model
from app.models.interface import Seq2Seq
from app.models.speech_rnn import SpeechRnnConfig
from app.models.stepping import TorchModel

VOCABULARY, NUM_MELS = 37, 10
TARGETS = np.array([[2, 11, 12, 13, 4], [2, 14, 15, 16, 30]])


def model_with(**options: object) -> Seq2Seq:
    torch.manual_seed(1)
    sizes = {"width": 24, "num_mels": NUM_MELS, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.3}
    return build_model(SpeechRnnConfig.model_validate(sizes | options), VOCABULARY).eval()


def draw(*lengths: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.standard_normal((length, NUM_MELS)).astype(np.float32) for length in lengths]


@pytest.mark.parametrize("attention", ["additive", "general", "none"])
def test_step_equals_forward(attention: str) -> None:
    model = model_with(attention=attention)
    stepper = TorchModel(model, bos_id=2, eos_id=3, pad_id=0, max_target_length=20)
    sources = draw(23, 9)
    with torch.inference_mode():
        expected = [
            model(torch.from_numpy(source)[None], torch.tensor([len(source)]), torch.from_numpy(TARGETS[row : row + 1]))
            for row, source in enumerate(sources)
        ]
    state = stepper.encode(sources, 1)
    for position in range(TARGETS.shape[1]):
        found, state = stepper.step(TARGETS[:, position], state, VOCABULARY)
        for row in (0, 1):
            wanted = expected[row][0, position].log_softmax(-1).numpy()
            np.testing.assert_allclose(found.log_probs[row], wanted[found.ids[row]], atol=2e-5)


@pytest.mark.parametrize("length", [1, 4, 7, 12])
def test_memory_has_a_position_for_every_four_frames_and_none_hears_what_is_behind_the_end(length: int) -> None:
    model = model_with()
    (source,) = draw(length)
    beside = np.random.default_rng(3).standard_normal((2, 25, NUM_MELS)).astype(np.float32)
    beside[1, :length] = source
    with torch.inference_mode():
        alone = model.encode(torch.from_numpy(source)[None], torch.tensor([length]))
        together = model.encode(torch.from_numpy(beside), torch.tensor([25, length]))
    assert together["memory_lengths"].tolist() == [7, -(-length // 4)]
    real = -(-length // 4)
    np.testing.assert_allclose(together["memory"][1, :real], alone["memory"][0, :real], atol=1e-5)
    np.testing.assert_allclose(together["hidden.1"][1], alone["hidden.1"][0], atol=1e-5)


def test_sound_can_not_be_copied() -> None:
    with pytest.raises(ValidationError, match="reads sound"):
        SpeechRnnConfig(copying=True)
