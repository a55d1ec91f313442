"""The models that engines are compared on: a trained run, and random weights of the sizes of a Marian model."""

import os
import random
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from app.commands.evaluate import TestSet, recipe_test_sets
from app.commands.loading import OpenModel, open_run
from app.commands.publish import NUM_PARITY, DevSet
from app.decoding.interface import SearchOptions, Source
from app.engine.model import OnnxModel, load_model
from app.engine.session import Device
from app.export.calibration import measure_inputs
from app.export.graphs import build_graphs
from app.export.quantize import LayerInputs
from app.models.stepping import TorchModel
from app.models.transformer import Transformer, TransformerConfig
from app.store.manifest import Manifest, Tokenizer, Variant, VariantName
from app.text.cleaning import normalize
from app.text.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from app.training.run import Run

MARIAN = TransformerConfig(
    width=512, num_heads=8, feed_forward_width=2048, encoder_layers=6, decoder_layers=6, norm="post", activation="swish"
)
MARIAN_VOCABULARY = 32_000
# Target tokens of a source on which inputs of layers are measured.
LONGEST_CALIBRATED = 128
MARIAN_SOURCE, MARIAN_TARGET = 24, 32


@dataclass(frozen=True)
class Subject:
    """A model, sources for it, and the target tokens that are decoded: (at least, at most); None: until the end."""

    name: str
    model: Transformer
    vocabulary_size: int
    sources: list[Source]
    calibration: list[Source]
    target_length: tuple[int, int] | None

    def options(self, source: Source, beam_size: int) -> SearchOptions:
        shortest, longest = self.target_length or (0, 2 * len(source) + 20)
        return SearchOptions(max_length=longest, min_length=shortest, beam_size=beam_size)


def marian() -> Subject:
    torch.manual_seed(1)
    model = Transformer(MARIAN, MARIAN_VOCABULARY).eval()
    draw = np.random.default_rng(1)
    body = [draw.integers(4, MARIAN_VOCABULARY, MARIAN_SOURCE - 1) for _ in range(64)]
    sources: list[Source] = [np.concatenate([ids, [EOS_ID]]) for ids in body]
    return Subject("marian", model, MARIAN_VOCABULARY, sources, sources[:16], (MARIAN_TARGET, MARIAN_TARGET))


def trained(folder: Path) -> Subject:
    """The run's best weights and 64 sentences of its recipe's first test set."""
    opened = open_run(folder, "cpu")
    _, sources = test_set(opened, None, opened.recipe.data.directions[0][0], sys.maxsize)
    drawn = random.Random(1).sample(sources, 64)
    return of_run(folder, opened, drawn)


def of_run(folder: Path, opened: OpenModel, sources: list[Source]) -> Subject:
    """The run's best weights on `sources`, its layers' inputs measured on its dev set as exports do."""
    calibration = DevSet(opened, data_folder()).sources[: 2 * NUM_PARITY]
    return Subject(folder.name, run_model(folder), opened.tokenizer.vocabulary_size, sources, calibration, None)


def exported(subject: Subject, variant: VariantName, folder: Path, device: Device = "cpu") -> OnnxModel:
    """The subject's graphs, written into `folder` and opened on one thread."""
    (folder / variant).mkdir(parents=True)
    inputs_of = _measured(subject) if variant in ("int8", "int8-fast") else None
    graphs = build_graphs(subject.model, variant, inputs_of)
    files = {name: f"{variant}/{name}.onnx" for name in ("encode", "step")}
    onnx.save(graphs.encode, folder / files["encode"])
    onnx.save(graphs.step, folder / files["step"])
    longest = subject.model.config.max_length
    manifest = Manifest(
        name=subject.name, version="1", task="translate", architecture="transformer", num_parameters=1,
        created_at=datetime.now(UTC), created_by={}, vocabulary_size=subject.vocabulary_size,
        pad_id=PAD_ID, unk_id=UNK_ID, bos_id=BOS_ID, eos_id=EOS_ID,
        max_source_length=longest, max_target_length=longest, tokenizer=Tokenizer(),
        variants={variant: Variant(encode=files["encode"], step=files["step"], overflows=False, state=graphs.state)},
        files={},
    )  # fmt: skip
    return load_model(folder, manifest, variant, device, 1)


def _measured(subject: Subject) -> dict[nn.Module, LayerInputs]:
    longest = subject.model.config.max_length
    reference = TorchModel(subject.model, bos_id=BOS_ID, eos_id=EOS_ID, pad_id=PAD_ID, max_target_length=longest)
    return measure_inputs(reference, subject.calibration, LONGEST_CALIBRATED)


def data_folder() -> Path:
    """Where the files of recipes lie."""
    data = os.environ.get("SEQ2SERVE_DATA")
    if not data:
        raise SystemExit("SEQ2SERVE_DATA: not set; name the data folder that the recipe's files lie in")
    return Path(data)


def run_model(folder: Path) -> Transformer:
    """The best weights of a run's folder."""
    model = Run(folder).load_model()
    assert isinstance(model, Transformer), "only a Transformer can be converted to CTranslate2"
    return model


def test_set(opened: OpenModel, name: str | None, source: str, lines: int) -> tuple[TestSet, list[Source]]:
    """The first `lines` pairs of a test set of the run's recipe (its first where `name` is None), and their ids."""
    found = recipe_test_sets(opened, data_folder(), [name] if name else [])
    test = next(each for each in found if each.direction[0] == source)
    short = TestSet(test.name, test.direction, test.sources[:lines], test.references[:lines])
    texts = [normalize(text, opened.recipe.cleaning) for text in short.sources]
    return short, list(opened.sources(texts, short.direction[1]))
