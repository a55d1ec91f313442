"""What is published is whole, checked, and nothing is left of what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from app.decoding.interface import Ids, StepModel
from app.engine.model import OnnxModel, load_model
from app.errors import ArtifactError, ExportError
from app.export.artifact import Description, Gates, export_artifact
from app.models.interface import Seq2Seq
from app.store.manifest import Golden, VariantName
from app.store.registry import Registry


def test_a_published_version_is_whole(tiny_store: Path, tiny_tokenizer_file: Path) -> None:
    folder, manifest = Registry(tiny_store).resolve("tiny-en-de")
    assert Registry.verify(folder) == manifest
    graphs = {f"{variant}/{graph}.onnx" for variant in ("fp32", "fp16", "int8") for graph in ("encode", "step")}
    others = {"tokenizer/tokenizer.model", "recipe.toml", "evaluation.json", "golden.json", "README.md"}
    assert set(manifest.files) == graphs | others
    assert manifest.directions == [("en", "de"), ("de", "en")]
    assert manifest.tokenizer.language_ids.keys() == {"en", "de"}
    assert manifest.created_by.keys() == {"seq2serve", "torch", "onnx", "onnxruntime"}
    assert (folder / manifest.tokenizer.file).read_bytes() == tiny_tokenizer_file.read_bytes()
    assert json.loads((folder / "evaluation.json").read_text())["export"]["parity"]["num_sources"] == 62


@pytest.mark.parametrize("variant", ["fp32", "fp16", "int8"])
def test_every_variant_reproduces_the_golden_cases(tiny_store: Path, variant: str) -> None:
    folder, manifest = Registry(tiny_store).resolve("tiny-en-de")
    golden = Golden.model_validate_json((folder / "golden.json").read_bytes())
    assert len(golden.cases) >= 4 and max(len(case.target) for case in golden.cases) >= 5
    load_model(folder, manifest, variant, "cpu", 1).check_golden(folder)


def test_only_what_is_kept_is_published(
    tmp_path: Path, tiny_transformer: Seq2Seq, tiny_sources: list[Ids], describe: Callable[..., Description]
) -> None:
    gates, registry = Gates(sources=tiny_sources[:40], max_length=16), Registry(tmp_path)
    lines: list[str] = []
    folder = export_artifact(
        tiny_transformer, describe("small"), gates, registry, keep=("int8",), num_threads=1, report=lines.append
    )
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"int8", "tokenizer"}
    _, manifest = registry.resolve("small", "1")
    assert set(manifest.variants) == {"int8"}
    assert any(line.startswith("parity: 40 sources") for line in lines)
    assert any(line.startswith("int8: ") and "MB" in line for line in lines)


def export_scored(
    root: Path, model: Seq2Seq, sources: list[Ids], description: Description, scores: dict[VariantName, float]
) -> Path:
    def score(exported: StepModel) -> float:
        assert isinstance(exported, OnnxModel)
        return scores[exported.variant]

    gates = Gates(sources=sources[:20], dev_score=score, max_length=16)
    return export_artifact(model, description, gates, Registry(root), num_threads=1)


def test_scores_of_all_variants_are_recorded(
    tmp_path: Path, tiny_transformer: Seq2Seq, tiny_sources: list[Ids], describe: Callable[..., Description]
) -> None:
    scores: dict[VariantName, float] = {"fp32": 30.0, "fp16": 30.1, "int8": 29.5}
    folder = export_scored(tmp_path, tiny_transformer, tiny_sources, describe("scored"), scores)
    assert json.loads((folder / "evaluation.json").read_text())["export"]["dev_score"] == scores


@pytest.mark.parametrize("variant", ["int8", "fp16"])
@pytest.mark.parametrize("score", [29.49, float("nan")])
def test_a_variant_that_loses_more_than_half_a_point_is_refused_and_leaves_nothing(
    variant: VariantName,
    score: float,
    tmp_path: Path,
    tiny_transformer: Seq2Seq,
    tiny_sources: list[Ids],
    describe: Callable[..., Description],
) -> None:
    scores: dict[VariantName, float] = {"fp32": 30.0, "fp16": 30.0, "int8": 30.0} | {variant: score}
    with pytest.raises(ExportError, match=rf"{variant}: dev score .*fp32 has 30.00; it may lose at most 0.5"):
        export_scored(tmp_path, tiny_transformer, tiny_sources, describe("scored"), scores)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_version_is_published_once(
    tiny_store: Path, tiny_transformer: Seq2Seq, tiny_sources: list[Ids], describe: Callable[..., Description]
) -> None:
    with pytest.raises(ArtifactError, match="exists already"):
        export_artifact(
            tiny_transformer,
            describe("tiny-en-de"),
            Gates(tiny_sources[:20], max_length=16),
            Registry(tiny_store),
            num_threads=1,
        )


def test_a_model_without_golden_cases_is_refused_before_it_is_tested(
    tmp_path: Path, tiny_transformer: Seq2Seq, tiny_sources: list[Ids], describe: Callable[..., Description]
) -> None:
    def test_scores(variant: VariantName, exported: StepModel) -> object:
        raise AssertionError("test sets take long")

    gates = Gates(sources=tiny_sources[:4], golden_margin=1000.0, test_scores=test_scores, max_length=16)
    with pytest.raises(ExportError, match="none of 4 sources makes a golden case"):
        export_artifact(tiny_transformer, describe("flat"), gates, Registry(tmp_path), num_threads=1)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_sources_longer_than_the_model_reads_are_left_out_of_the_gates(
    tmp_path: Path, tiny_transformer: Seq2Seq, tiny_sources: list[Ids], describe: Callable[..., Description]
) -> None:
    too_long = tiny_sources[0].repeat(5)
    gates, lines = Gates(sources=[too_long, *tiny_sources[:20]], max_length=16), list[str]()
    export_artifact(
        tiny_transformer,
        describe("long"),
        gates,
        Registry(tmp_path),
        keep=("fp32",),
        num_threads=1,
        report=lines.append,
    )
    assert any(line.startswith("parity: 20 sources") for line in lines)


def test_test_scores_of_what_is_kept_reach_the_card(
    tmp_path: Path, tiny_transformer: Seq2Seq, tiny_sources: list[Ids], describe: Callable[..., Description]
) -> None:
    def test_scores(variant: VariantName, exported: StepModel) -> object:
        return [{"set": "small", "variant": variant}]

    gates = Gates(sources=tiny_sources[:20], test_scores=test_scores, max_length=16)
    registry = Registry(tmp_path)
    folder = export_artifact(tiny_transformer, describe("tested"), gates, registry, keep=("int8",), num_threads=1)
    recorded = json.loads((folder / "evaluation.json").read_text())["test"]
    assert recorded == {"int8": [{"set": "small", "variant": "int8"}]}
    assert "['export', 'test']" in (folder / "README.md").read_text()
