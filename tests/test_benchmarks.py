"""Benchmarks are run by hand, some with packages that tests do not have: what they use of the program must be there."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from app.models.transformer import Transformer, TransformerConfig
from benchmarks.grown_run import grown

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


def imported_names() -> Iterator[tuple[str, str, str]]:
    """(benchmark, module, name) of everything that is imported from the program and its benchmarks."""
    for path in sorted(FOLDER.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "app":
                yield from ((path.stem, node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize(("benchmark", "module", "name"), list(imported_names()))
def test_a_benchmark_imports_what_is_there(benchmark: str, module: str, name: str) -> None:
    found = importlib.import_module(module)
    if not hasattr(found, name):
        importlib.import_module(f"{module}.{name}")


def test_a_grown_model_gives_what_the_small_one_gives() -> None:
    torch.manual_seed(1)
    config = TransformerConfig(width=24, num_heads=3, feed_forward_width=40, encoder_layers=2, decoder_layers=1)
    small = Transformer(config, 61).eval()
    sizes = {"width": 48, "num_heads": 6, "feed_forward_width": 80, "encoder_layers": 4, "decoder_layers": 3}
    large = grown(small, config.model_copy(update=sizes | {"positions": "learned"}))
    source, lengths, target = torch.randint(4, 61, (3, 7)), torch.tensor([7, 4, 1]), torch.randint(4, 61, (3, 5))
    with torch.inference_mode():
        torch.testing.assert_close(large(source, lengths, target), small(source, lengths, target), atol=1e-5, rtol=0)
