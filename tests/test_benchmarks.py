"""Benchmarks are run by hand, some with packages that tests do not have: what they use of the program must be there."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

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
