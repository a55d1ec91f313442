"""A language of three words, each a tone of its own, as files: what a tiny speech model learns in seconds."""

import json
import wave
from pathlib import Path

import numpy as np

WORDS = {"low": 300, "middle": 900, "high": 2400}

RECIPE = """
name = "tones"
task = "transcribe"
seed = 7

[data]
directions = [["en", "en"]]

[[data.train]]
files = ["tones/train.jsonl"]
languages = ["en", "en"]

[[data.train]]
files = ["tones/train.jsonl"]
languages = ["en", "en"]
join = { count = [2, 4], gap_s = [0.0, 0.1] }

[[data.dev]]
files = ["tones/train.jsonl"]
languages = ["en", "en"]
join = { count = [2, 3] }

[data.test.tones]
files = ["tones/train.jsonl"]
languages = ["en", "en"]

[augmentation]
speed = [0.95, 1.05]
gain_db = [-3.0, 3.0]
noise_probability = 0.5
noise_snr_db = [20.0, 40.0]
tilt_db = 1.0
frequency_masks = 1
frequency_mask_mels = 2
time_masks = 1
time_mask_frames = 3

[tokenizer]
kind = "bpe"
vocabulary_size = 24

[model]
architecture = "speech"
num_mels = 12
max_frames = 400
width = 32
num_heads = 4
feed_forward_width = 48
encoder_layers = 1
decoder_layers = 1
dropout = 0.1
max_length = 40

[optimization]
learning_rate = 5e-3
warmup_steps = 10
ema_decay = 0.9

[training]
max_steps = 12
batch_tokens = 600
evaluate_every = 6
checkpoint_every = 4
log_every = 3
metric = "wer"
dev_sentences = 8
"""


def write(folder: Path, *, count: int = 8) -> None:
    """`count` recordings of every word by each of two speakers, of different loudness, pitch and length."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    lines = []
    for speaker in ("ann", "bob"):
        for word, frequency in WORDS.items():
            for number in range(count):
                name = f"{speaker}-{word}-{number}.wav"
                time_s = np.arange(random.integers(2400, 4800)) / 16_000
                pitch = frequency * random.uniform(0.97, 1.03) * (1.05 if speaker == "bob" else 1.0)
                sound = random.uniform(0.1, 0.5) * np.sin(2 * np.pi * pitch * time_s)
                sound += 0.002 * random.standard_normal(len(sound))
                with wave.open(str(folder / name), "wb") as file:
                    file.setparams((1, 2, 16_000, 0, "NONE", ""))
                    file.writeframes((sound * 32_767).astype("<i2").tobytes())
                lines.append({"audio": name, "text": word, "speaker": speaker, "source": f"{speaker}'s room"})
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
