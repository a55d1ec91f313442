"""A small real corpus and recipe, so that a run takes seconds."""

from pathlib import Path

import pytest

SENTENCES = Path(__file__).parent.parent / "data" / "sentences.tsv"

RECIPE = """
name = "small"
seed = 7

[data]
directions = [["en", "de"], ["de", "en"]]

[[data.train]]
files = ["train.tsv"]
languages = ["en", "de"]

[[data.dev]]
files = ["dev.tsv"]
languages = ["en", "de"]

[data.test.dev]
files = ["dev.tsv"]
languages = ["en", "de"]

[tokenizer]
kind = "bpe"
vocabulary_size = 300
sampling_alpha = 0.1

[model]
architecture = "transformer"
width = 32
num_heads = 4
feed_forward_width = 48
encoder_layers = 1
decoder_layers = 1
dropout = 0.1
max_length = 100

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
dev_sentences = 8
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    lines = SENTENCES.read_text("utf-8").splitlines()
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.tsv").write_text("\n".join(lines[:-16]) + "\n", "utf-8")
    (folder / "dev.tsv").write_text("\n".join(lines[-16:]) + "\n", "utf-8")
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(RECIPE, "utf-8")
    return path
