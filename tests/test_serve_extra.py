"""The serving extra alone is enough to serve: no PyTorch, no ONNX package, nothing of the test tools."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements-cpu.lock"
TRAINING_LIBRARIES = ("torch", "onnx", "onnxscript", "sacrebleu", "tensorboard", "matplotlib")

BLOCKED_IMPORT = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {TRAINING_LIBRARIES!r}:
            raise ModuleNotFoundError(f"{{name}} is not in the serving extra")

sys.meta_path.insert(0, Blocked())
import app.api.main, app.cli, app.tasks
"""

BARE_IMPORT = f"""
import importlib.util
import app, app.api.main, app.cli, app.tasks

assert all(importlib.util.find_spec(name) is None for name in {TRAINING_LIBRARIES!r})
print(app.__file__)
"""


def _run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_the_service_imports_where_training_libraries_are_blocked() -> None:
    run = _run([sys.executable, "-c", BLOCKED_IMPORT], cwd=ROOT)
    assert run.returncode == 0, run.stderr


@pytest.fixture(scope="module")
def bare_python(request: pytest.FixtureRequest) -> Path:
    """The Python of an environment that holds the locked serving packages only; kept from run to run."""
    digest = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = Path(request.config.cache.mkdir("serve-extra")) / digest  # type: ignore[union-attr]
    python = folder / "bin" / "python"
    finished = folder / "finished"
    if not finished.exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        install = [str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(LOCK)]
        run = _run([*install, "--disable-pip-version-check"])
        if "connection" in run.stderr.lower() and os.environ.get("CI") != "true":
            pytest.skip("no package registry answers")
        assert run.returncode == 0, run.stderr
        finished.touch()
    return python


@pytest.fixture(scope="module")
def unpacked_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built distribution, from a copy of the sources so that no build folder is left in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "app", source / "app", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run = _run([*build, "--wheel-dir", str(folder), str(source)])
    assert run.returncode == 0, run.stderr
    wheel = next(folder.glob("seq2serve-*.whl"))
    zipfile.ZipFile(wheel).extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.mark.slow
@pytest.mark.network
def test_the_built_wheel_imports_with_the_locked_packages_alone(bare_python: Path, unpacked_wheel: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(unpacked_wheel)}
    run = _run([str(bare_python), "-c", BARE_IMPORT], cwd=unpacked_wheel.parent, env=environment)
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.strip()).is_relative_to(unpacked_wheel)


def test_the_wheel_carries_every_file_of_the_package(unpacked_wheel: Path) -> None:
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "app").rglob("*.*") if "__pycache__" not in path.parts}
    packed = {str(path.relative_to(unpacked_wheel)) for path in unpacked_wheel.rglob("*.*")}
    assert sources <= packed
