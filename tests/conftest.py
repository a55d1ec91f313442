"""Small models made by the real pipeline: a learned tokenizer, random but sharpened weights, published artifacts.

Session-scoped fixtures are shared: copy a folder before changing it.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from app.audio.waveform import read_waveform
from app.cli import app
from app.decoding.interface import Ids
from app.export.artifact import Description, Gates, export_artifact
from app.models import build_model
from app.models.interface import Seq2Seq
from app.models.rnn import RnnConfig
from app.models.stepping import TorchModel
from app.models.transformer import TransformerConfig
from app.store.manifest import VariantName
from app.store.registry import Registry
from app.text.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID, SentencePieceTokenizer, TokenizerOptions, learn_tokenizer
from app.training.corpus import language_ids, source_ids
from tests.audio.recordings import wav
from tests.pretrained import checkpoint

SENTENCES = Path(__file__).parent / "data" / "sentences.tsv"
LANGUAGES = ["en", "de"]
TINY_MODEL = "tiny-en-de"
MAX_LENGTH = 64

RECIPE = """
name = "tiny-en-de"

[data]
directions = [["en", "de"], ["de", "en"]]
train = [{ files = ["sentences.tsv"], languages = ["en", "de"] }]
dev = [{ files = ["sentences.tsv"], languages = ["en", "de"] }]
test = { sentences = { files = ["sentences.tsv"], languages = ["en", "de"] } }

[model]
architecture = "transformer"

[training]
max_steps = 1
"""


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data (translation/, summarization/, speech/)."""
    folder = os.environ.get("SEQ2SERVE_DATA")
    if not folder:
        pytest.skip("needs real data: set SEQ2SERVE_DATA to the folder that holds translation/")
    return Path(folder)


@pytest.fixture(scope="session")
def sentence_pairs() -> list[tuple[str, str]]:
    """English and German."""
    lines = SENTENCES.read_text("utf-8").splitlines()
    return [(line.split("\t")[0], line.split("\t")[1]) for line in lines]


@pytest.fixture(scope="session")
def tiny_tokenizer_file(tmp_path_factory: pytest.TempPathFactory, sentence_pairs: list[tuple[str, str]]) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    sentences = [sentence for pair in sentence_pairs for sentence in pair]
    learn_tokenizer(sentences, TokenizerOptions(vocabulary_size=241), LANGUAGES, path)
    return path


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_tokenizer_file: Path) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(tiny_tokenizer_file)


@pytest.fixture(scope="session")
def tiny_sources(tiny_tokenizer: SentencePieceTokenizer, sentence_pairs: list[tuple[str, str]]) -> list[Ids]:
    """What an encoder reads for every sentence, first English to German, then German to English."""
    tokens = language_ids(tiny_tokenizer, LANGUAGES)
    pieces = tiny_tokenizer.encode_batch
    german = [source_ids(ids, tokens["de"]) for ids in pieces([english for english, _ in sentence_pairs])]
    return german + [source_ids(ids, tokens["en"]) for ids in pieces([german for _, german in sentence_pairs])]


def sharpen(model: Seq2Seq, *, gain: float, embedding_gain: float, eos_bias: float) -> Seq2Seq:
    """Random weights of such a size that what is decoded depends on the source, varies along the target, and ends.

    A model with small random weights repeats one token whatever it reads: it would prove nothing about a cache. Here
    the output weights are the embeddings in another order, so each token asks for another one after it.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "position_table":
                parameter.normal_(0, 0.3)
            elif name == "embedding.weight":
                parameter.mul_(embedding_gain)
            elif parameter.dim() > 1 and "_hh" not in name:  # larger recurrent weights would let rounding grow
                parameter.mul_(gain)
        embedding = model.get_parameter("embedding.weight")
        model.output.weight.copy_(4.0 * embedding[torch.randperm(len(embedding))])
        model.output.bias[[PAD_ID, UNK_ID, BOS_ID]] = -30.0
        model.output.bias[EOS_ID] = eos_bias
    return model.eval()


@pytest.fixture(scope="session")
def tiny_transformer(tiny_tokenizer: SentencePieceTokenizer) -> Seq2Seq:
    """Every axis has another size: D 48, H 3, K 16, feed-forward 80, 2 and 3 layers."""
    config = TransformerConfig(
        width=48,
        num_heads=3,
        feed_forward_width=80,
        encoder_layers=2,
        decoder_layers=3,
        positions="learned",
        tied_embeddings=False,
        max_length=MAX_LENGTH,
    )
    torch.manual_seed(0)
    model = build_model(config, tiny_tokenizer.vocabulary_size)
    return sharpen(model, gain=1.2, embedding_gain=1.0, eos_bias=8.0)


@pytest.fixture(scope="session")
def tiny_rnn(tiny_tokenizer: SentencePieceTokenizer) -> Seq2Seq:
    """D 36, 2 encoder and 3 decoder layers, LSTM with general attention."""
    config = RnnConfig(
        cell="lstm",
        width=36,
        encoder_layers=2,
        decoder_layers=3,
        attention="general",
        tied_embeddings=False,
        max_length=MAX_LENGTH,
    )
    torch.manual_seed(0)
    model = build_model(config, tiny_tokenizer.vocabulary_size)
    return sharpen(model, gain=4.0, embedding_gain=4.0, eos_bias=8.0)


@pytest.fixture(scope="session")
def tiny_summarizer_store(tmp_path_factory: pytest.TempPathFactory, sentence_pairs: list[tuple[str, str]]) -> Path:
    """A model store with `tiny-summary`, version 1, current: English to a tldr or a title, with a copy mechanism."""
    folder = tmp_path_factory.mktemp("summarizer")
    kinds = ["tldr", "title"]
    english = [source for source, _ in sentence_pairs]
    learn_tokenizer(english, TokenizerOptions(vocabulary_size=220), kinds, folder / "tokenizer.model")
    tokenizer = SentencePieceTokenizer(folder / "tokenizer.model")
    tokens = language_ids(tokenizer, kinds)
    config = TransformerConfig(
        width=48,
        num_heads=3,
        feed_forward_width=80,
        encoder_layers=2,
        decoder_layers=2,
        positions="learned",
        tied_embeddings=False,
        copying=True,
        max_length=MAX_LENGTH,
    )
    torch.manual_seed(0)
    model = sharpen(build_model(config, tokenizer.vocabulary_size), gain=1.2, embedding_gain=1.0, eos_bias=8.0)
    description = Description(
        name="tiny-summary",
        version="1",
        task="summarize",
        architecture="transformer",
        directions=[("en", kind) for kind in kinds],
        tokenizer_file=tokenizer.path,
        language_ids=tokens,
        lower_case=False,
        pad_id=PAD_ID,
        unk_id=UNK_ID,
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        max_source_length=MAX_LENGTH,
        max_target_length=MAX_LENGTH,
        recipe_text=RECIPE,
        card=lambda evaluation: f"# tiny-summary\n\nRandom weights, for tests. Measured: {sorted(evaluation)}\n",
        default_search={"beam_size": 2, "length_penalty": 1.0, "max_length": 24, "no_repeat_ngram": 3},
    )
    sources = [source_ids(ids, tokens[kinds[i % 2]]) for i, ids in enumerate(tokenizer.encode_batch(english))]
    registry = Registry(folder / "store")
    export_artifact(
        model, description, Gates(sources[::6], max_length=24), registry, keep=("int8", "fp32"), num_threads=1
    )
    registry.promote("tiny-summary", "1")
    return folder / "store"


@pytest.fixture(scope="session")
def torch_step_model() -> Callable[[Seq2Seq], TorchModel]:
    """Makes a `StepModel` of a PyTorch model."""

    def make(model: Seq2Seq) -> TorchModel:
        return TorchModel(model, bos_id=BOS_ID, eos_id=EOS_ID, pad_id=PAD_ID, max_target_length=MAX_LENGTH)

    return make


@pytest.fixture(scope="session")
def describe(tiny_tokenizer: SentencePieceTokenizer) -> Callable[..., Description]:
    """`describe(name, version, architecture)` of a tiny translator."""

    def make(name: str, version: str = "1", architecture: str = "transformer") -> Description:
        return Description(
            name=name,
            version=version,
            task="translate",
            architecture=architecture,
            directions=[("en", "de"), ("de", "en")],
            tokenizer_file=tiny_tokenizer.path,
            language_ids=language_ids(tiny_tokenizer, LANGUAGES),
            lower_case=False,
            pad_id=PAD_ID,
            unk_id=UNK_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            max_source_length=MAX_LENGTH,
            max_target_length=MAX_LENGTH,
            recipe_text=RECIPE,
            card=lambda evaluation: f"# {name}\n\nRandom weights, for tests. Measured: {sorted(evaluation)}\n",
            default_search={"beam_size": 4, "length_penalty": 1.0},
        )

    return make


@pytest.fixture(scope="session")
def tiny_store(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_transformer: Seq2Seq,
    tiny_sources: list[Ids],
    describe: Callable[..., Description],
) -> Path:
    """A model store with `tiny-en-de`, version 1, current: en-de and de-en, all three variants."""
    root = tmp_path_factory.mktemp("model_store")
    registry = Registry(root)
    gates = Gates(sources=tiny_sources[::6], max_length=24)
    variants: tuple[VariantName, ...] = ("int8", "fp16", "fp32")
    export_artifact(tiny_transformer, describe(TINY_MODEL), gates, registry, keep=variants, num_threads=1)
    registry.promote(TINY_MODEL, "1")
    return root


@pytest.fixture(scope="session")
def tiny_whisper_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with `tiny-whisper`, current: English and Hawaiian, windows of 0.36 s, random weights."""
    folder, store = tmp_path_factory.mktemp("whisper"), tmp_path_factory.mktemp("whisper_store")
    checkpoint.write_huggingface(folder)
    options = ["--store", str(store), "--name", "tiny-whisper", "--version", "1", "--keep-fp32"]
    assert CliRunner().invoke(app, ["import", str(folder), *options], catch_exceptions=False).exit_code == 0
    Registry(store).promote("tiny-whisper", "1")
    return store


@pytest.fixture(scope="session")
def whisper_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with the published Whisper tiny.en alone."""
    store = Path(os.environ.get("SEQ2SERVE_MODEL_STORE", Path(__file__).parents[1] / "model_store"))
    if not (store / "whisper-tiny.en" / "aliases.json").exists():
        pytest.skip("needs whisper-tiny.en in model_store/, or in the store that SEQ2SERVE_MODEL_STORE names")
    alone = tmp_path_factory.mktemp("whisper_store")
    shutil.copytree(store / "whisper-tiny.en", alone / "whisper-tiny.en")
    return alone


@pytest.fixture(scope="session")
def jfk(data_folder: Path) -> Path:
    """Eleven seconds of J. F. Kennedy, FLAC."""
    return data_folder / "speech" / "read_en" / "audio" / "smoke" / "jfk.flac"


@pytest.fixture(scope="session")
def talk(jfk: Path) -> bytes:
    """The first 1.5 seconds that he speaks, as a wav file."""
    return wav(read_waveform(jfk, 60)[4_800:28_800])
