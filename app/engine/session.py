"""Opens a graph as an ONNX Runtime session: device, threads, checks."""

import ctypes
import logging
import platform
import re
from functools import cache
from pathlib import Path
from typing import Any, Literal

from app.engine.graph_file import check_graph_file
from app.errors import ArtifactError, DeviceError

try:
    import onnxruntime
except ImportError as error:
    raise DeviceError(
        "ONNX Runtime is not installed: pip install 'seq2serve[cpu]' or, for CUDA, 'seq2serve[gpu]'"
    ) from error
if not hasattr(onnxruntime, "InferenceSession"):  # the empty shell that uninstalling one of the two packages leaves
    raise DeviceError("onnxruntime is damaged: uninstall onnxruntime and onnxruntime-gpu, then install one of them")

logger = logging.getLogger(__name__)

Device = Literal["cpu", "cuda", "auto"]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_CUDA_OPTIONS = {
    "device_id": "0",
    # By default the arena grows in powers of two, and never gives back.
    "arena_extend_strategy": "kSameAsRequested",
    # Rounding to 10 bits of mantissa would break parity with PyTorch; the fp16 variant does not use it anyway.
    "use_tf32": "0",
}


def may_have_cuda() -> bool:
    """Whether trying CUDA makes sense: a failed try fills standard error with the library's own messages."""
    if CUDA not in onnxruntime.get_available_providers() or not Path("/dev/nvidiactl").exists():
        return False
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@cache
def adds_in_16_bits() -> bool:
    """Whether this processor may add products of u8 and s8 in 16 bits: x86 without VNNI does."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        description = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return True
    return not re.search(r"\b(avx512_vnni|avx_vnni)\b", description)


def open_session(path: Path, provider: str, num_threads: int, *, overflows: bool = False) -> Any:
    """An `onnxruntime.InferenceSession` on that provider, `CPU` or `CUDA`; `num_threads` 0 takes every core.

    `overflows`: its int8 weights may be too large for products that are added in 16 bits.

    Raises: ArtifactError for a file that is no acceptable graph, DeviceError if CUDA was wanted and not had.
    """
    check_graph_file(path)
    if provider == CUDA:
        _prepare_cuda()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Shapes change as rows join and leave: a plan kept for each of them would only pile up.
    options.enable_mem_pattern = False
    # Waiting threads that spin take a third more CPU time from the neighbours on a shared host.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if overflows and adds_in_16_bits():
        options.add_session_config_entry("session.x64quantprecision", "1")  # u8 x u8: slower, and exact
    providers = [(CUDA, _CUDA_OPTIONS), CPU] if provider == CUDA else [CPU]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no narrower base
        if provider == CUDA:
            raise DeviceError(f"{path.name}: does not open on CUDA ({error}); use device=cpu") from error
        raise ArtifactError(f"{path.name}: ONNX Runtime refuses it ({error}); publish the version again") from error
    found = session.get_providers()[0]
    if found != provider:  # a missing driver or library only prints; the session then runs elsewhere
        raise DeviceError(
            f"{path.name}: asked for {provider}, ONNX Runtime gave {found}; check the NVIDIA driver (>= 580) and that "
            "'seq2serve[gpu]' is installed without the CPU package, or use device=cpu"
        )
    logger.info("graph opened", extra={"file": path.name, "provider": found, "num_threads": num_threads})
    return session


def _prepare_cuda() -> None:
    if CUDA not in onnxruntime.get_available_providers():
        raise DeviceError(
            "this ONNX Runtime was built without CUDA: pip uninstall onnxruntime, pip install 'seq2serve[gpu]', "
            "or use device=cpu"
        )
    onnxruntime.preload_dlls()
