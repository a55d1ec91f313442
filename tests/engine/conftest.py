"""Tiny models with random weights, really exported: one with growing tensors, one with fixed ones."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from app.export.artifact import write_graphs
from app.export.graphs import build_graphs
from app.models.interface import Seq2Seq
from app.models.rnn import Rnn, RnnConfig
from app.models.stepping import TorchModel
from app.models.transformer import Transformer, TransformerConfig
from app.store.manifest import Manifest, Tokenizer, VariantName

VOCABULARY_SIZE = 61
MAX_TARGET_LENGTH = 40
ARCHITECTURES = ("transformer", "lstm")


def build(architecture: str) -> Seq2Seq:
    torch.manual_seed(5)
    model: Seq2Seq
    if architecture == "transformer":
        # Two layers of three heads of 8: no two axes of a slot have the same size.
        config = TransformerConfig(
            width=24, num_heads=3, feed_forward_width=40, encoder_layers=1, decoder_layers=2, max_length=64
        )
        model = Transformer(config, VOCABULARY_SIZE)
    else:
        model = Rnn(RnnConfig(cell="lstm", width=24, encoder_layers=1, decoder_layers=2), VOCABULARY_SIZE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)  # small random weights give nearly the same candidates everywhere
    return model.eval()


def save(folder: Path, model: Seq2Seq, variants: tuple[VariantName, ...]) -> Manifest:
    """The graphs in `folder`, and the manifest that describes them."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {name: write_graphs(folder, build_graphs(model, name), name) for name in variants}
    return Manifest(
        name="tiny",
        version="1",
        task="translate",
        architecture="tiny",
        num_parameters=1,
        created_at=datetime(2026, 11, 23, tzinfo=UTC),
        created_by={},
        vocabulary_size=VOCABULARY_SIZE,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        max_source_length=50,
        max_target_length=MAX_TARGET_LENGTH,
        tokenizer=Tokenizer(),
        variants=described,
        files={},
    )


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Manifest, TorchModel]]:
    """`artifact(architecture)`: its folder with fp32 and int8 graphs, its manifest, and the model in PyTorch."""
    made: dict[str, tuple[Path, Manifest, TorchModel]] = {}

    def get(architecture: str) -> tuple[Path, Manifest, TorchModel]:
        if architecture not in made:
            folder, model = tmp_path_factory.mktemp(architecture), build(architecture)
            reference = TorchModel(model, bos_id=2, eos_id=3, pad_id=0, max_target_length=MAX_TARGET_LENGTH)
            made[architecture] = folder, save(folder, model, ("fp32", "int8")), reference
        return made[architecture]

    return get
