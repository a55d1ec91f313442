"""`seq2serve doctor`: what this machine and installation can do, and what is missing."""

import importlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console

from app import __version__
from app.commands.store import verify_models
from app.engine.session import may_have_cuda

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "torch", "onnx", "sentencepiece", "fastapi", "pydantic", "numpy")


def examine(store: Path, console: Console) -> bool:
    """Print the findings; True if the service can run here."""
    console.print(
        f"seq2serve {__version__}, Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores"
    )
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    console.print(", ".join(f"{package} {number}" for package, number in found.items()), highlight=False)
    runtimes = [package for package in ("onnxruntime", "onnxruntime-gpu") if package in found]
    if len(runtimes) != 1:
        fix = "install seq2serve[cpu] or seq2serve[gpu]" if not runtimes else "uninstall both, then install one of them"
        console.print(f"[red]expected one ONNX Runtime, found {len(runtimes)}: {fix}[/]", soft_wrap=True)
        return False
    providers = importlib.import_module("onnxruntime").get_available_providers()
    console.print(
        f"providers built in: {', '.join(providers)}; CUDA driver and device: {'yes' if may_have_cuda() else 'no'}"
    )
    if "torch" not in found:
        console.print("PyTorch is not installed: serving works, training needs seq2serve[cpu,train]", markup=False)
    console.print(f"models in {store}:")
    return verify_models(store, console)
