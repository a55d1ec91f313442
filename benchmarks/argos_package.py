"""Our Transformer as installed Argos packages, which LibreTranslate serves."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from app.models.transformer import Transformer
from benchmarks import ctranslate2_model


def install(model: Transformer, tokenizer_file: Path, directions: Sequence[tuple[str, str]], packages: Path) -> None:
    """Write a package a direction into `packages`; the pieces are its vocabulary."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_file))
    pieces = [processor.id_to_piece(number) for number in range(processor.get_piece_size())]
    for source, target in directions:
        folder = packages / f"translate-{source}_{target}"
        ctranslate2_model.convert(model, pieces, folder / "model", adds_end=True)
        shutil.copyfile(tokenizer_file, folder / "sentencepiece.model")
        described = {
            "package_version": "1.0",
            "argos_version": "1.5",
            "from_code": source,
            "from_name": source,
            "to_code": target,
            "to_name": target,
        }
        (folder / "metadata.json").write_text(json.dumps(described), "utf-8")
