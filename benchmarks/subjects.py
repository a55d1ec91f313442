"""The models that engines are compared on: a trained run, and random weights of the sizes of a Marian model."""

import os
import random
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import nn

from app.commands.evaluate import TestSet, recipe_test_sets
from app.commands.loading import OpenModel, open_run
from app.commands.publish import NUM_PARITY, DevSet
from app.decoding.interface import SearchOptions, Source
from app.decoding.running import generate
from app.engine.model import OnnxModel, load_model
from app.engine.session import Device
from app.export.artifact import write_graphs
from app.export.calibration import measure_inputs
from app.export.graphs import build_graphs
from app.export.lexicon import NUM_CANDIDATES, NUM_COMMON, Lexicon
from app.export.quantize import LayerInputs
from app.models.stepping import TorchModel
from app.models.transformer import Transformer, TransformerConfig
from app.store.manifest import Manifest, Tokenizer, VariantName
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
    """A model, sources for it, and the target tokens that are decoded: (at least, at most); None: until the end.

    With a `lexicon` its int8-fast has a shortlist.
    """

    name: str
    model: Transformer
    vocabulary_size: int
    sources: list[Source]
    calibration: list[Source]
    target_length: tuple[int, int] | None
    lexicon: Lexicon | None = None

    def options(self, source: Source, beam_size: int) -> SearchOptions:
        shortest, longest = self.target_length or (0, 2 * len(source) + 20)
        return SearchOptions(max_length=longest, min_length=shortest, beam_size=beam_size)


def marian() -> Subject:
    torch.manual_seed(1)
    model = Transformer(MARIAN, MARIAN_VOCABULARY).eval()
    draw = np.random.default_rng(1)
    body = [draw.integers(4, MARIAN_VOCABULARY, MARIAN_SOURCE - 1) for _ in range(64)]
    sources: list[Source] = [np.concatenate([ids, [EOS_ID]]) for ids in body]
    subject = Subject("marian", model, MARIAN_VOCABULARY, sources, sources[:16], (MARIAN_TARGET, MARIAN_TARGET))
    return replace(subject, lexicon=_own_lexicon(subject))


def _own_lexicon(subject: Subject) -> Lexicon:
    """For random weights, which translate nothing: every piece of a source may become what the model itself makes of
    that source, and others drawn by Zipf's law.

    That makes shortlists of 475 pieces for one source, 1,590 for 8 together and 3,906 for 32. Those of real pairs with
    as many pieces (tatoeba, a third shorter) have 550, 1,400 and 3,700.
    """
    reference, draw = _reference(subject), np.random.default_rng(1)
    options = [subject.options(source, beam_size) for beam_size in (1, 4) for source in subject.sources]
    results = generate(reference, [*subject.sources] * 2, options)
    size, shares = subject.vocabulary_size, np.arange(1.0, subject.vocabulary_size + 1) ** -1.35
    candidates = draw.choice(size, (size, NUM_CANDIDATES), p=shares / shares.sum())
    for source, hypotheses in zip([*subject.sources] * 2, results, strict=True):
        ids = np.array(hypotheses[0].ids)
        # Spread over the pieces of its source, so that the pieces have room for others.
        for place, token in enumerate(np.unique(ids)):
            candidates[source[place % len(source)], draw.integers(NUM_CANDIDATES)] = token
    return Lexicon(candidates, np.unique([*range(NUM_COMMON), EOS_ID]))


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
    folder.mkdir(parents=True, exist_ok=True)
    inputs_of = _measured(subject) if variant in ("int8", "int8-fast") else None
    lexicon = subject.lexicon if variant == "int8-fast" else None
    files = write_graphs(folder, build_graphs(subject.model, variant, inputs_of, lexicon=lexicon), variant)
    longest = subject.model.config.max_length
    manifest = Manifest(
        name=subject.name, version="1", task="translate", architecture="transformer", num_parameters=1,
        created_at=datetime.now(UTC), created_by={}, vocabulary_size=subject.vocabulary_size,
        pad_id=PAD_ID, unk_id=UNK_ID, bos_id=BOS_ID, eos_id=EOS_ID,
        max_source_length=longest, max_target_length=longest, tokenizer=Tokenizer(),
        variants={variant: files},
        files={},
    )  # fmt: skip
    return load_model(folder, manifest, variant, device, 1)


def _measured(subject: Subject) -> dict[nn.Module, LayerInputs]:
    return measure_inputs(_reference(subject), subject.calibration, LONGEST_CALIBRATED)


def _reference(subject: Subject) -> TorchModel:
    longest = subject.model.config.max_length
    return TorchModel(subject.model, bos_id=BOS_ID, eos_id=EOS_ID, pad_id=PAD_ID, max_target_length=longest)


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
