"""The locks hold what pyproject.toml asks for, with hashes, from no named registry, and never PyTorch."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def _lock(extra: str) -> str:
    return (ROOT / f"requirements-{extra}.lock").read_text("utf-8")


def _entries(extra: str) -> dict[str, list[Requirement]]:
    """Name -> its pinned versions; more than one where they differ by platform or Python."""
    entries: dict[str, list[Requirement]] = {}
    for line in re.findall(r"^([a-z0-9].*?) \\$", _lock(extra), flags=re.MULTILINE):
        requirement = Requirement(line)
        entries.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return entries


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_lock_satisfies_the_project(extra: str) -> None:
    entries = _entries(extra)
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]]:
        wanted = Requirement(text)
        pinned = entries.get(canonicalize_name(wanted.name))
        assert pinned, f"{wanted.name} is not in requirements-{extra}.lock; run `make lock`"
        for entry in pinned:
            version = str(entry.specifier).removeprefix("==")
            assert wanted.specifier.contains(version), f"{wanted} against {entry}; run `make lock`"


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_every_locked_package_has_hashes(extra: str) -> None:
    for block in re.split(r"\n(?=\S)", _lock(extra).strip()):
        assert "--hash=sha256:" in block, block


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_lock_names_no_registry(extra: str) -> None:
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links", _lock(extra))


@pytest.mark.parametrize(("extra", "other"), [("cpu", "onnxruntime-gpu"), ("gpu", "onnxruntime")])
def test_lock_holds_one_runtime_and_nothing_of_training(extra: str, other: str) -> None:
    assert not {"torch", "onnx", "onnxscript", "tensorboard", other} & set(_entries(extra))
