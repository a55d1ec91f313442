"""A model as its two ONNX graphs, encode and step, and the state that passes between them."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from torch import nn

from app.errors import ExportError
from app.export import convolutional, rnn, transformer
from app.export.builder import GraphBuilder
from app.export.lexicon import Lexicon
from app.export.quantize import LayerInputs
from app.export.shortlist import add_allowed, allowed_tensor, build_shortlist
from app.export.speech import build_encode as build_speech_encode
from app.export.speech import build_recurrent_encode
from app.models.convolutional import Convolutional
from app.models.interface import Seq2Seq
from app.models.rnn import Rnn
from app.models.speech import Speech
from app.models.speech_rnn import SpeechRnn
from app.models.transformer import Transformer
from app.store import manifest
from app.store.manifest import StateTensor, VariantName


@dataclass(frozen=True, slots=True)
class Graphs:
    """The graphs of one variant, and the state as they want it; `shortlist` where there is a lexicon."""

    encode: onnx.ModelProto
    step: onnx.ModelProto
    state: list[StateTensor]
    shortlist: onnx.ModelProto | None = None


def build_graphs(
    model: Seq2Seq,
    variant: VariantName,
    inputs_of: Mapping[nn.Module, LayerInputs] | None = None,
    speech: manifest.Speech | None = None,
    lexicon: Lexicon | None = None,
) -> Graphs:
    """The graphs of `model` in the precision of `variant`; the contract is in `docs/artifact.md`.

    `speech` says what the steps of a speech model tell beside candidates: its probes, and attention for alignment.
    int8 quantizes the input of a layer in `inputs_of` with one scale that is known, of any other with a scale a row.
    With a `lexicon`, which int8-fast alone may have, a target is made of the pieces that it gives for the source.

    Raises: ExportError for an architecture, or a size, that has no graph form.
    """
    if lexicon is not None and (variant != "int8-fast" or not can_be_short(model)):
        raise ExportError(f"{type(model).__name__} in {variant} has no form with a shortlist; build it without one")
    encode, step = (GraphBuilder(name, variant, inputs_of, lexicon) for name in ("encode", "step"))
    if isinstance(model, Transformer):
        transformer.check_exportable(model)
        if isinstance(model, Speech):
            build_speech_encode(model, encode)
        else:
            transformer.build_encode(model, encode)
        probe_ids, heads = ([], []) if speech is None else (speech.probe_ids, speech.alignment_heads)
        transformer.build_step(model, step, probe_ids, heads)
    elif isinstance(model, Convolutional):
        convolutional.build_encode(model, encode)
        convolutional.build_step(model, step)
    elif isinstance(model, Rnn):
        if isinstance(model, SpeechRnn):
            build_recurrent_encode(model, encode)
        else:
            rnn.build_encode(model, encode)
        rnn.build_step(model, step)
    else:
        raise ExportError(f"{type(model).__name__} has no graph form; add it to app/export/graphs.py")
    state = state_tensors(model, variant)
    if lexicon is None:
        return Graphs(encode.model(), step.model(), state)
    add_allowed(encode, lexicon)
    shortlist = GraphBuilder("shortlist", variant, inputs_of)
    build_shortlist(shortlist, model.output)
    return Graphs(encode.model(), step.model(), [*state, allowed_tensor(model.output.out_features)], shortlist.model())


def can_be_short(model: Seq2Seq) -> bool:
    """Whether a shortlist may take the place of the model's vocabulary: it reads text, and copies none of it."""
    return not isinstance(model, (Speech, SpeechRnn)) and model.copy is None


def state_tensors(model: Seq2Seq, variant: VariantName) -> list[StateTensor]:
    """The state as the manifest declares it."""
    return [
        StateTensor(
            name=spec.name,
            kind=spec.kind,
            dtype="int64" if spec.dtype == "int64" else "float16" if variant == "fp16" else "float32",
            shape=list(spec.shape),
            length_axis=spec.length_axis,
        )
        for spec in model.state_specs()
    ]
