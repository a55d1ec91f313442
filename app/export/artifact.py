"""From a trained model to a published version: graphs of every variant, the gates, the manifest, the store."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import onnx
import onnxruntime
import torch
from safetensors.torch import save_file
from torch import nn

from app import __version__
from app.decoding.interface import Source, StepModel
from app.engine.model import OnnxModel, load_model, probes_of
from app.errors import ExportError
from app.export.calibration import measure_inputs
from app.export.golden import MARGIN, choose_golden
from app.export.graphs import Graphs, build_graphs
from app.export.lexicon import Lexicon
from app.export.parity import LOGIT_TOLERANCE, check_parity
from app.export.quantize import LayerInputs
from app.models.interface import Seq2Seq
from app.models.stepping import TorchModel
from app.store.manifest import WEIGHTS_FILE, Manifest, Speech, Task, Tokenizer, Variant, VariantName
from app.store.registry import MANIFEST, Registry, describe_files

# What a variant may lose against fp32 on the dev set, in points of its score.
LARGEST_LOSS = 0.5
ORACLE: VariantName = "fp32"
_TOKENIZER_FILES = {"sentencepiece": Tokenizer().file, "bpe": "tokenizer/tokenizer.json"}


@dataclass(frozen=True, slots=True)
class Description:
    """What an artifact says of itself beside its weights; the fields of `app/store/manifest.py` (Manifest).

    `card` makes the model card README.md of what evaluation.json holds; `recipe_text` becomes recipe.toml, and
    `licence_text` LICENSE.
    """

    name: str
    version: str
    task: Task
    architecture: str
    directions: Sequence[tuple[str, str]]
    tokenizer_file: Path
    language_ids: Mapping[str, int]
    lower_case: bool
    pad_id: int
    unk_id: int
    bos_id: int
    eos_id: int
    max_source_length: int
    max_target_length: int
    recipe_text: str
    card: Callable[[Mapping[str, Any]], str]
    tokenizer_kind: Literal["sentencepiece", "bpe"] = "sentencepiece"
    speech: Speech | None = None
    default_search: Mapping[str, float] = field(default_factory=dict)
    licence_text: str | None = None


@dataclass(frozen=True, slots=True)
class Gates:
    """What a version is held against before it is published.

    `sources` [S] each, those that the model may read, are decoded by PyTorch and ONNX Runtime up to `max_length`
    target tokens; int8 is made for what they give its layers, and golden cases are chosen from them. `dev_score` gives
    the dev score of a model, BLEU, ROUGE or 100 - WER; None leaves the comparison of the variants with fp32 out.
    `test_scores` gives the records of a variant on the test sets; it is asked for the first one that is kept, and
    gates nothing. All targets begin with `prefix`. `is_calibrated` False: int8 is not, and finds a scale for
    every row as it runs.
    """

    sources: Sequence[Source]
    dev_score: Callable[[StepModel], float] | None = None
    test_scores: Callable[[VariantName, StepModel], Any] | None = None
    largest_loss: float = LARGEST_LOSS
    golden_margin: float = MARGIN
    max_length: int = 128
    prefix: tuple[int, ...] = ()
    is_calibrated: bool = True
    logit_tolerance: float = LOGIT_TOLERANCE


def export_artifact(
    model: Seq2Seq,
    description: Description,
    gates: Gates,
    registry: Registry,
    *,
    keep: Sequence[VariantName] = ("int8", "fp16"),
    with_weights: bool = False,
    lexicon: Lexicon | None = None,
    num_threads: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Build, check and publish -> the version's folder. `report` is told what has been done, a line each.

    `with_weights` adds them in float16, for training further. With a `lexicon` int8-fast has a shortlist. The fp32
    graphs are always built, as the oracle of the gates, and published only if `keep` names them.
    Raises: ExportError if a gate is not passed, ArtifactError if the version can not be published.
    """
    variants: list[VariantName] = [ORACLE, *(variant for variant in keep if variant != ORACLE)]
    made_with = {
        "seq2serve": __version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    # The service splits what is longer than the model reads.
    sources = [source for source in gates.sources if len(source) <= description.max_source_length]
    gates = replace(gates, sources=sources)
    with registry.staging(description.name) as folder:
        _write_texts(folder, description)
        if with_weights:
            _write_weights(folder / WEIGHTS_FILE, model)
        inputs_of: Mapping[nn.Module, LayerInputs] = {}
        if gates.is_calibrated:
            inputs_of = measure_inputs(_reference(model, description), gates.sources, gates.max_length, gates.prefix)
        states = {}
        for variant in variants:
            short = lexicon if variant == "int8-fast" else None
            graphs = build_graphs(model, variant, inputs_of, description.speech, short)
            states[variant] = write_graphs(folder, graphs, variant)
        manifest = _manifest(folder, model, description, states, made_with)
        for variant in variants:
            report(f"{variant}: {_megabytes(manifest, variant)}")
        opened = {variant: load_model(folder, manifest, variant, "cpu", num_threads) for variant in variants}
        evaluation = {"export": _pass_gates(model, description, gates, opened, report)}
        golden = choose_golden(
            _reference(model, description),
            list(opened.values()),
            gates.sources,
            made_with,
            margin=gates.golden_margin,
            prefix=gates.prefix,
        )
        _write_json(folder / "golden.json", golden.model_dump(exclude_defaults=True))
        report(f"golden cases: {len(golden.cases)}")
        if gates.test_scores is not None:  # last: it takes the longest
            evaluation["test"] = {variant: gates.test_scores(variant, opened[variant]) for variant in keep[:1]}
        _write_json(folder / "evaluation.json", evaluation)
        (folder / "README.md").write_text(description.card(evaluation), "utf-8")
        if ORACLE not in keep:
            shutil.rmtree(folder / ORACLE)
        published = {variant: states[variant] for variant in variants if variant in keep}
        manifest = _manifest(folder, model, description, published, made_with)
        left_out = {"speech"} if manifest.speech is None else set()
        _write_json(folder / MANIFEST, manifest.model_dump(mode="json", exclude=left_out))
        return registry.publish(folder)


def _reference(model: Seq2Seq, description: Description) -> TorchModel:
    return TorchModel(
        model.eval(),
        bos_id=description.bos_id,
        eos_id=description.eos_id,
        pad_id=description.pad_id,
        max_target_length=description.max_target_length,
        probes=probes_of(description.speech),
        alignment_heads=description.speech.alignment_heads if description.speech is not None else (),
    )


def _write_texts(folder: Path, description: Description) -> None:
    tokenizer = folder / _TOKENIZER_FILES[description.tokenizer_kind]
    tokenizer.parent.mkdir()
    shutil.copyfile(description.tokenizer_file, tokenizer)
    (folder / "recipe.toml").write_text(description.recipe_text, "utf-8")
    if description.licence_text is not None:
        (folder / "LICENSE").write_text(description.licence_text, "utf-8")


def _write_weights(path: Path, model: Seq2Seq) -> None:
    # Tied weights share memory, which the format does not know.
    save_file({name: value.detach().half().clone() for name, value in model.state_dict().items()}, path)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def write_graphs(folder: Path, graphs: Graphs, variant: VariantName) -> Variant:
    """Put them into a new folder named like the variant -> what the manifest says of it."""
    (folder / variant).mkdir()
    files = {}
    for name, graph in (("encode", graphs.encode), ("step", graphs.step), ("shortlist", graphs.shortlist)):
        if graph is not None:
            files[name] = f"{variant}/{name}.onnx"
            onnx.save_model(graph, folder / files[name])
    return Variant(**files, overflows=False, state=graphs.state)


def _megabytes(manifest: Manifest, variant: VariantName) -> str:
    graphs = manifest.variants[variant].graphs
    return ", ".join(f"{Path(file).stem} {manifest.files[file].bytes / 1e6:.1f} MB" for file in graphs)


def _manifest(
    folder: Path,
    model: Seq2Seq,
    description: Description,
    variants: Mapping[VariantName, Variant],
    made_with: dict[str, str],
) -> Manifest:
    tokenizer = Tokenizer(
        kind=description.tokenizer_kind,
        file=_TOKENIZER_FILES[description.tokenizer_kind],
        language_ids=dict(description.language_ids),
        lower_case=description.lower_case,
    )
    return Manifest(
        name=description.name,
        version=description.version,
        task=description.task,
        architecture=description.architecture,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        created_at=datetime.now(UTC).replace(microsecond=0),
        created_by=made_with,
        directions=list(description.directions),
        vocabulary_size=model.output.out_features,
        pad_id=description.pad_id,
        unk_id=description.unk_id,
        bos_id=description.bos_id,
        eos_id=description.eos_id,
        max_source_length=description.max_source_length,
        max_target_length=description.max_target_length,
        tokenizer=tokenizer,
        speech=description.speech,
        variants=dict(variants),
        default_search=dict(description.default_search),
        files=describe_files(folder),
    )


def _pass_gates(
    model: Seq2Seq,
    description: Description,
    gates: Gates,
    opened: Mapping[VariantName, OnnxModel],
    report: Callable[[str], None],
) -> dict[str, Any]:
    """What the gates measured, for evaluation.json. Raises: ExportError."""
    reference = _reference(model, description)
    parity = check_parity(
        reference,
        opened[ORACLE],
        gates.sources,
        max_length=gates.max_length,
        tolerance=gates.logit_tolerance,
        prefix=gates.prefix,
    )
    report(f"parity: {parity.num_sources} sources, logits at most {parity.largest_logit_difference:.1e} apart")
    measured: dict[str, Any] = {"parity": parity.as_record()}
    if gates.dev_score is None:
        return measured
    scores = {variant: gates.dev_score(exported) for variant, exported in opened.items()}
    report("dev score: " + ", ".join(f"{variant} {score:.2f}" for variant, score in scores.items()))
    for variant, score in scores.items():
        if not scores[ORACLE] - score <= gates.largest_loss:
            raise ExportError(
                f"{variant}: dev score {score:.2f}, fp32 has {scores[ORACLE]:.2f}; it may lose at most "
                f"{gates.largest_loss}. Leave the variant out, or train the model further"
            )
    return measured | {"dev_score": scores}
