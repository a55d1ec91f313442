"""A `MarianMTModel` exported and run by ONNX Runtime through optimum, as its documentation does it.

Needs optimum-onnx, which wants Transformers 4: give the benchmark an environment of its own for it.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import MarianMTModel


def is_installed() -> bool:
    return find_spec("optimum") is not None


def open_exported(marian: MarianMTModel, folder: Path) -> Any:
    """The model as optimum's class, on one thread; its `generate` is that of Transformers."""
    import onnxruntime
    from optimum.exporters.onnx import main_export
    from optimum.onnxruntime import ORTModelForSeq2SeqLM

    marian.save_pretrained(folder / "torch")
    main_export(str(folder / "torch"), str(folder / "onnx"), task="text2text-generation-with-past", do_validation=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return ORTModelForSeq2SeqLM.from_pretrained(
        folder / "onnx", session_options=options, provider="CPUExecutionProvider"
    )
