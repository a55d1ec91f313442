"""A PyTorch model as a `StepModel`, so that evaluation and the parity gate run the service's own search."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import numpy as np
import torch
from torch import Tensor

from app.decoding.interface import NO_PROBES, Candidates, Ids, Probes, Source
from app.models.attention import CrossAttention
from app.models.interface import Seq2Seq

INITIAL_CAPACITY = 32


class TorchState:
    """Named tensors: memory a source, fixed and growing a row, and the position of every row.

    `length_axes` gives the length axis of the memory and growing tensors, `memory_names` which belong to sources.
    """

    def __init__(
        self,
        tensors: dict[str, Tensor],
        positions: Tensor,
        width: int,
        length_axes: dict[str, int],
        memory_names: frozenset[str],
    ) -> None:
        self.tensors = tensors
        self.positions = positions  # [R]
        self.width = width
        self.length_axes = length_axes
        self.memory_names = memory_names

    def __len__(self) -> int:
        return len(self.positions)

    def _with(self, tensors: dict[str, Tensor], positions: Tensor) -> Self:
        return type(self)(tensors, positions, self.width, self.length_axes, self.memory_names)

    def take(self, rows: Ids) -> Self:
        chosen = torch.from_numpy(np.asarray(rows, np.int64)).to(self.positions.device)
        sources = chosen[:: self.width] // self.width
        tensors = {
            name: tensor[sources if name in self.memory_names else chosen] for name, tensor in self.tensors.items()
        }
        return self._with(tensors, self.positions[chosen])

    def concat(self, other: Self) -> Self:
        tensors = {}
        for name, mine in self.tensors.items():
            pair = [mine, other.tensors[name]]
            if name in self.length_axes:
                axis = self.length_axes[name]
                size = max(tensor.shape[axis] for tensor in pair)
                pair = [pad_axis(tensor, axis, size) for tensor in pair]
            tensors[name] = torch.cat(pair)
        return self._with(tensors, torch.cat([self.positions, other.positions]))


def pad_axis(tensor: Tensor, axis: int, size: int) -> Tensor:
    """Zeros behind, so that `axis` has `size` positions."""
    missing = size - tensor.shape[axis]
    if missing <= 0:
        return tensor
    shape = list(tensor.shape)
    shape[axis] = missing
    return torch.cat([tensor, tensor.new_zeros(shape)], dim=axis)


class TorchModel:
    """Runs a `Seq2Seq` in evaluation mode, without gradients, on the device that its weights are on.

    `alignment_heads` are (decoder layer, head) of a Transformer.
    """

    def __init__(
        self,
        model: Seq2Seq,
        *,
        bos_id: int,
        eos_id: int,
        pad_id: int,
        max_target_length: int,
        probes: Probes = NO_PROBES,
        alignment_heads: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.model = model
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.pad_id = pad_id
        self.max_target_length = max_target_length
        self.vocabulary_size = model.output.out_features
        self.probes = probes
        self.alignment_heads = tuple(alignment_heads)
        self.num_alignment_heads = len(alignment_heads)
        self.specs = model.state_specs()
        self.memory_names = frozenset(s.name for s in self.specs if s.kind == "memory") | {"memory_lengths"}
        self.length_axes = {s.name: s.length_axis for s in self.specs if s.length_axis is not None}

    @property
    def device(self) -> torch.device:
        return self.model.output.weight.device

    def padded(self, sources: Sequence[Source]) -> tuple[Tensor, Tensor]:
        """Sources as a model reads them: ids [B, S] or features [B, F, M], and their lengths [B]."""
        lengths = torch.tensor([len(source) for source in sources], device=self.device)
        first = np.asarray(sources[0])
        shape = (len(sources), int(lengths.max()), *first.shape[1:])
        if first.ndim == 1:
            padded = torch.full(shape, self.pad_id, device=self.device)
        else:
            padded = torch.zeros(shape, device=self.device)
        for row, source in enumerate(sources):
            padded[row, : len(source)] = torch.from_numpy(np.asarray(source))
        return padded, lengths

    @torch.inference_mode()
    def encode(self, sources: Sequence[Source], width: int) -> TorchState:
        self.model.eval()
        tensors = self.model.encode(*self.padded(sources))
        num_rows = len(sources) * width
        for spec in self.specs:
            if spec.kind == "fixed":
                tensors[spec.name] = tensors[spec.name].repeat_interleave(width, dim=0)
            elif spec.kind == "growing":
                shape = [num_rows, *(INITIAL_CAPACITY if size == -1 else size for size in spec.shape)]
                tensors[spec.name] = torch.zeros(shape, device=self.device)
        positions = torch.zeros(num_rows, dtype=torch.int64, device=self.device)
        return TorchState(tensors, positions, width, self.length_axes, self.memory_names)

    @torch.inference_mode()
    def step(
        self, ids: Ids, state: TorchState, num_candidates: int, *, needs_attention: bool = False
    ) -> tuple[Candidates, TorchState]:
        self.model.eval()
        needed = int(state.positions.max()) + 1
        tensors = dict(state.tensors)
        for spec in self.specs:
            if spec.kind == "growing" and spec.length_axis is not None:
                slots = tensors[spec.name]
                if slots.shape[spec.length_axis] < needed:
                    tensors[spec.name] = pad_axis(slots, spec.length_axis, 2 * needed)
        with self._watched(self.alignment_heads if needs_attention else ()) as attention:
            features, tensors = self.model.step(torch.from_numpy(ids).to(self.device), state.positions, tensors)
        log_probs = self.model.next_logits(features, tensors).float().log_softmax(-1)  # [R, V]
        best = log_probs.topk(num_candidates, dim=-1)
        after = TorchState(tensors, state.positions + 1, state.width, state.length_axes, state.memory_names)
        candidates = Candidates(
            best.indices.cpu().numpy(),
            best.values.cpu().numpy(),
            log_probs[:, list(self.probes.ids)].cpu().numpy() if self.probes.ids else None,
            torch.stack([attention[head] for head in self.alignment_heads], dim=1).cpu().numpy() if attention else None,
        )
        return candidates, after

    @contextmanager
    def _watched(self, heads: Sequence[tuple[int, int]]) -> Iterator[dict[tuple[int, int], Tensor]]:
        """Collects, from what runs within it, how the (layer, head) of `heads` attend to the source: [R, S] each."""
        found: dict[tuple[int, int], Tensor] = {}

        def note(layer: int, attention: CrossAttention, inputs: tuple[Tensor, ...]) -> None:
            query, keys, _, mask = inputs
            weights = attention.weights(query, keys, mask)  # [B, H, R / B, S]
            found.update({head: weights[:, head[1]].flatten(0, 1).float() for head in heads if head[0] == layer})

        hooks = []
        for layer in {layer for layer, _ in heads}:
            attention = self.model.get_submodule(f"decoder_layers.{layer}.cross_attention")
            assert isinstance(attention, CrossAttention)
            hooks.append(attention.register_forward_pre_hook(lambda *call, layer=layer: note(layer, *call)))
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()
