"""Speech training: what is heard is drawn again exactly, and is what the service would hear; it learns and resumes."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from app.audio.features import log_mel
from app.audio.waveform import read_waveform
from app.errors import CorpusError, RecipeError
from app.training import checkpoint
from app.training.augmentation import AugmentationOptions, changed_speed, mask, spoil
from app.training.corpus import prepare_tokenizer
from app.training.progress import read_metrics
from app.training.recipe import Recipe, parse_recipe
from app.training.recordings import SpeechBatches, SpeechCorpus, draw_utterances
from app.training.run import train
from app.training.vocabulary import Vocabulary
from tests.training import tones
from tests.training.resuming import assert_resume_equals_no_stop


@pytest.fixture
def data(tmp_path: Path) -> Path:
    tones.write(tmp_path / "data" / "tones")
    return tmp_path / "data"


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "tones.toml"
    path.write_text(tones.RECIPE, "utf-8")
    return path


def recipe(*changes: tuple[str, str]) -> Recipe:
    text = tones.RECIPE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_recipe(text, "tones.toml")


def batches(data: Path, read: Recipe, *, is_varied: bool = True) -> SpeechBatches:
    corpus = SpeechCorpus(read, data)
    vocabulary = Vocabulary(prepare_tokenizer(read, corpus, data / "tokenizer.model"))
    return SpeechBatches(corpus.train, vocabulary, read, max_length=40, seed=3, is_varied=is_varied)


def test_an_epoch_hears_every_recording_once_a_set_within_the_budget(data: Path) -> None:
    made = batches(data, recipe())
    plan = made.plan(2)
    numbers = np.concatenate(plan)
    heard = Counter(id(part) for utterance in made._draw(2) for part in utterance.parts)
    assert sorted(numbers) == list(range(len(made._draw(2))))
    # 48 recordings alone, and 48 in strings, of which the last of a speaker may be filled up.
    assert len(heard) == 96 and sum(heard.values()) <= 96 + 2
    for index, chosen in enumerate(plan):
        batch = made.build(chosen, 2, index)
        assert len(chosen) == 1 or batch.source.shape[1] * len(chosen) + batch.target.numel() <= 600


def test_strings_are_of_one_speaker_and_as_long_as_asked_for(data: Path) -> None:
    utterances = [utterance for utterance in batches(data, recipe()).examples if len(utterance.parts) > 1]
    assert {len(utterance.parts) for utterance in utterances} == {2, 3, 4}
    for utterance in utterances:
        assert len({part.speaker for part in utterance.parts}) == 1
        assert utterance.target == " ".join(part.text for part in utterance.parts)
        assert len(utterance.waveform()) == utterance.num_samples


def test_what_is_drawn_can_be_drawn_again_and_epochs_differ(data: Path) -> None:
    whole = list(batches(data, recipe()).epoch(3))
    resumed = list(batches(data, recipe()).epoch(3, start=2))
    for (place, batch), (other_place, other) in zip(whole[2:], resumed, strict=True):
        assert place == other_place
        assert torch.equal(batch.source, other.source) and torch.equal(batch.gold, other.gold)
    other_epoch = list(batches(data, recipe()).epoch(4, start=2))
    assert not all(torch.equal(a.source, b.source) for (_, a), (_, b) in zip(resumed, other_epoch, strict=False))


def test_a_model_hears_in_training_what_the_service_computes(data: Path) -> None:
    made = batches(data, recipe(), is_varied=False)
    record = json.loads((data / "tones" / "train.jsonl").read_text().splitlines()[5])
    assert made.examples[5].target == record["text"]
    file = io.BytesIO((data / "tones" / record["audio"]).read_bytes())
    served = log_mel(read_waveform(file, 30.0), 12)
    np.testing.assert_array_equal(made.sources[5], served)
    batch = made.build(np.array([5, 6]), 0, 0)
    np.testing.assert_array_equal(batch.source[0, : len(served)].numpy(), served)
    assert batch.lengths.tolist() == [len(made.sources[5]), len(made.sources[6])]


def test_held_out_recordings_are_joined_the_same_way_every_time(data: Path) -> None:
    corpus = SpeechCorpus(recipe(), data)
    first, second = draw_utterances(corpus.dev), draw_utterances(corpus.dev)
    assert [one.target for one in first] == [one.target for one in second]
    assert all((one.waveform() == two.waveform()).all() for one, two in zip(first, second, strict=True))


def test_every_augmentation_changes_something_and_is_seeded() -> None:
    waveform = np.sin(np.arange(8000, dtype=np.float32) / 9)
    features = log_mel(waveform, 20)
    changes = [{"gain_db": (-9.0, -3.0)}, {"noise_probability": 1.0}, {"tilt_db": 9.0}]
    for change in changes:
        options = AugmentationOptions.model_validate(change)
        first, again, other = (spoil(waveform, options, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert len(first) == len(waveform) and (first == again).all()
        assert not np.allclose(first, waveform, atol=1e-3) and not np.allclose(first, other, atol=1e-6)
    masks = AugmentationOptions(frequency_masks=2, time_masks=2)
    first, again, other = (mask(features, masks, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first == again).all() and (first != features).any() and (first != other).any()
    untouched = AugmentationOptions()
    assert (spoil(waveform, untouched, np.random.default_rng(1)) == waveform).all()
    assert (mask(features, untouched, np.random.default_rng(1)) == features).all()


def test_noise_has_the_loudness_asked_for() -> None:
    waveform = np.sin(np.arange(16_000, dtype=np.float32) / 9)
    options = AugmentationOptions(noise_probability=1.0, noise_snr_db=(12.0, 12.0))
    noise = spoil(waveform, options, np.random.default_rng(5)) - waveform
    assert 10 * np.log10(np.mean(waveform**2) / np.mean(noise**2)) == pytest.approx(12.0, abs=0.01)


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_speed_changes_length_and_pitch(speed: float) -> None:
    waveform = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32)
    changed = changed_speed(waveform, speed)
    assert len(changed) == round(16_000 / speed)
    assert np.abs(np.fft.rfft(changed)).argmax() * 16_000 / len(changed) == pytest.approx(440 * speed, abs=2)


def test_a_speech_run_learns_words(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    longer = tones.RECIPE.replace("max_steps = 12", "max_steps = 200").replace(
        "evaluate_every = 6", "evaluate_every = 50"
    )
    recipe_file.write_text(longer)
    run, reason = train(recipe_file, data, tmp_path / "run", device="cpu")
    metrics = read_metrics(run.folder)
    rates = [rate for _, rate in metrics["dev/wer"]]
    assert reason == "finished" and min(rates) < 60 < rates[0]
    # Lower is better: the best weights are those of the lowest rate.
    _, progress = checkpoint.load(run.folder / "checkpoints" / "best.pt")
    assert progress.best_metric == -min(rates)


def test_speech_resume_equals_no_stop_to_the_bit(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    assert_resume_equals_no_stop(recipe_file, data, tmp_path)


def test_frozen_weights_stay_and_the_others_do_not(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    recipe_file.write_text(tones.RECIPE.replace("ema_decay = 0.9", 'freeze = ["encoder_layers", "convolution_"]'))
    train(recipe_file, data, tmp_path / "run", device="cpu")
    short = recipe_file.with_name("short.toml")
    short.write_text(recipe_file.read_text().replace("max_steps = 12", "max_steps = 1"))
    train(short, data, tmp_path / "short", device="cpu")
    one, two = (checkpoint.load(tmp_path / name / "checkpoints" / "last.pt")[0]["model"] for name in ("short", "run"))
    changed = {name.partition(".")[0] for name in one if not torch.equal(one[name], two[name])}
    assert "decoder_layers" in changed and not changed & {"encoder_layers", "convolution_1", "convolution_2"}


def test_a_beginning_that_freezes_nothing_is_named(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    recipe_file.write_text(tones.RECIPE.replace("ema_decay = 0.9", 'freeze = ["encoder.layers"]'))
    with pytest.raises(RecipeError, match=r"optimization\.freeze: no weights begin with 'encoder\.layers'; there are"):
        train(recipe_file, data, tmp_path / "run", device="cpu")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "low"}', r'train\.jsonl:49: expected JSON with "audio" and "text"'),
        ("{", r"train\.jsonl:49: expected JSON"),
        ('{"audio": "nothing.wav", "text": "low"}', r"train\.jsonl:49: .*nothing\.wav"),
        ('{"audio": "train.jsonl", "text": "low"}', r"train\.jsonl:49: .*no audio"),
    ],
)
def test_a_wrong_manifest_is_named_with_its_line(data: Path, line: str, message: str) -> None:
    with (data / "tones" / "train.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(CorpusError, match=message):
        SpeechCorpus(recipe(), data)


def test_only_names_a_collection(data: Path) -> None:
    read = recipe(('files = ["tones/train.jsonl"]', 'files = ["tones/train.jsonl"]\nonly = "bob"'))
    assert {one.speaker for one in SpeechCorpus(read, data).train[0].recordings} == {"bob"}
    with pytest.raises(CorpusError, match="no recording in it of 'eve'"):
        SpeechCorpus(recipe(('files = ["tones/train.jsonl"]', 'files = ["tones/train.jsonl"]\nonly = "eve"')), data)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('task = "transcribe"', 'task = "translate"', "architecture speech is not for it"),
        ("speed = [0.95, 1.05]", "speed = [1.05, 0.95]", "speed .* must be a range"),
        ("count = [2, 4]", "count = [4, 2]", "must be ranges"),
        ('directions = [["en", "en"]]', 'directions = [["en", "en"], ["de", "de"]]', "one language spoken"),
    ],
)
def test_a_wrong_speech_recipe_is_named(old: str, new: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe((old, new))
