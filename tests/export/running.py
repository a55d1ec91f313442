"""Runs graphs with plain ONNX Runtime, beside PyTorch: no engine in between."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

from app.export.graphs import Graphs
from app.models.interface import Seq2Seq
from app.store.manifest import StateTensor

Array = npt.NDArray[Any]


def open_graph(model: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(session: Any, inputs: dict[str, Array]) -> dict[str, Array]:
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))


@dataclass
class GraphDecoder:
    """Both graphs of a variant and the state between their runs; slots begin as NaN, which no row may read."""

    encode: Any
    step: Any
    specs: list[StateTensor]
    state: dict[str, Array]

    @classmethod
    def open(cls, graphs: Graphs) -> "GraphDecoder":
        return cls(open_graph(graphs.encode), open_graph(graphs.step), graphs.state, {})

    def start(self, source: Array, lengths: Array, width: int, capacity: int) -> dict[str, Array]:
        """Read the sources; the graph's outputs."""
        encoded = run(self.encode, {"source": source, "source_lengths": lengths})
        self.state = dict(encoded)
        for spec in self.specs:
            if spec.kind == "fixed":
                self.state[spec.name] = encoded[spec.name].repeat(width, axis=0)
            elif spec.kind == "growing":
                shape = [len(source) * width, *(capacity if size == -1 else size for size in spec.shape)]
                self.state[spec.name] = np.full(shape, np.nan, spec.dtype)
        return encoded

    def advance(
        self, ids: Array, positions: Array, num_candidates: int, num_alignments: int | None = None
    ) -> dict[str, Array]:
        inputs = dict(self.state)
        if num_alignments is not None:
            inputs["num_alignments"] = np.array([num_alignments])
        inputs |= {"ids": ids, "positions": positions.astype(np.int32), "num_candidates": np.array([num_candidates])}
        if any(spec.kind == "growing" for spec in self.specs):
            inputs["total_length"] = np.array(positions.max() + 1, np.int32)
        outputs = run(self.step, inputs)
        self.state |= {name.removesuffix(".next"): value for name, value in outputs.items() if name.endswith(".next")}
        return outputs


@dataclass
class TorchDecoder:
    """The same in PyTorch."""

    model: Seq2Seq
    state: dict[str, torch.Tensor]

    @classmethod
    def start(cls, model: Seq2Seq, source: Array, lengths: Array, width: int, capacity: int) -> "TorchDecoder":
        with torch.inference_mode():
            state = model.encode(torch.from_numpy(source), torch.from_numpy(lengths))
        for spec in model.state_specs():
            if spec.kind == "fixed":
                state[spec.name] = state[spec.name].repeat_interleave(width, dim=0)
            elif spec.kind == "growing":
                state[spec.name] = torch.zeros(
                    [len(source) * width, *(capacity if size == -1 else size for size in spec.shape)]
                )
        return cls(model, state)

    def advance(self, ids: Array, positions: Array) -> Array:
        """Logits [R, V]."""
        with torch.inference_mode():
            features, self.state = self.model.step(torch.from_numpy(ids), torch.from_numpy(positions), self.state)
            logits: Array = self.model.next_logits(features, self.state).numpy()
        return logits
