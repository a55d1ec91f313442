"""An artifact's variant as a `StepModel`: its sessions, opened, warmed up and checked."""

import logging
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from app.decoding.interface import NO_PROBES, Candidates, Floats, Ids, Probes, Source
from app.engine.arrays import Array, Arrays, open_arrays
from app.engine.binding import StepBinding, StepSizes
from app.engine.golden import unpack
from app.engine.session import CPU, CUDA, Device, may_have_cuda, open_session
from app.engine.shortlist import SHORTLIST_INPUTS, Shortlist
from app.engine.state import SlotState
from app.errors import ArtifactError, DeviceError, InputError
from app.store.manifest import Golden, Manifest, Speech, VariantName

logger = logging.getLogger(__name__)

# int8 never runs on CUDA (its operators fall back to the host); on the CPU, fp16 is emulated.
# int8-fast only where it is asked for, or is all there is: its answers depend on who runs beside them.
_PREFERENCE: dict[str, tuple[VariantName, ...]] = {
    CPU: ("int8", "fp32", "fp16", "int8-fast"),
    CUDA: ("fp16", "fp32", "int8", "int8-fast"),
}
_DEVICES = {CPU: "cpu", CUDA: "cuda"}
_WARM_UP_LENGTH = 16
# On the CPU, sources are read in parts of about so many positions: what passes between two operators then stays in
# the processor's cache.
_POSITIONS_TOGETHER = 512


class OnnxModel:
    """A model run by ONNX Runtime; implements `interface.StepModel`. One thread uses it at a time; see `twin`.

    `variant` is the precision in use, `provider` the execution provider that ONNX Runtime really took.
    """

    def __init__(
        self,
        manifest: Manifest,
        variant: VariantName,
        encode: Any,
        step: Any,
        arrays: Arrays,
        shortlist: Shortlist | None = None,
    ) -> None:
        self.bos_id = manifest.bos_id
        self.eos_id = manifest.eos_id
        self.pad_id = manifest.pad_id
        self.vocabulary_size = manifest.vocabulary_size
        self.max_source_length = manifest.max_source_length
        self.max_target_length = manifest.max_target_length
        self.variant = variant
        self.probes = probes_of(manifest.speech)
        self.provider: str = step.get_providers()[0]
        self._manifest = manifest
        self._specs = manifest.variants[variant].state
        self._encode = encode
        self._step_session = step
        self._arrays = arrays
        has_alignment = "alignment" in {value.name for value in step.get_outputs()}
        self.num_alignment_heads = len(manifest.speech.alignment_heads) if manifest.speech and has_alignment else 0
        sizes = StepSizes(manifest.vocabulary_size, len(self.probes.ids), self.num_alignment_heads)
        self._shortlist = shortlist
        self._step = StepBinding(step, arrays.device, sizes, shortlist)

    def twin(self) -> "OnnxModel":
        """The same model for another thread: the sessions, and so the weights, are shared."""
        return OnnxModel(self._manifest, self.variant, self._encode, self._step_session, self._arrays, self._shortlist)

    def encode(self, sources: Sequence[Source], width: int) -> SlotState:
        """Read all sources together; B = len(sources) >= 1, the state has B x width rows.

        Raises: InputError for a source that is empty or longer than `max_source_length`.
        """
        for index, source in enumerate(sources):
            if not 0 < len(source) <= self.max_source_length:
                raise InputError(
                    f"source {index} has {len(source)} positions, the model takes 1 to {self.max_source_length}; "
                    "split it"
                )
        lengths = np.array([len(source) for source in sources], np.int64)
        padded = self._padded(sources, int(lengths.max()))
        num_parts = 1 if self._arrays.device != "cpu" else -(-lengths.size * int(lengths.max()) // _POSITIONS_TOGETHER)
        parts = [
            self._read(part, part_lengths)
            for part, part_lengths in zip(
                np.array_split(padded, min(num_parts, len(sources))),
                np.array_split(lengths, min(num_parts, len(sources))),
                strict=True,
            )
        ]
        encoded, memory_lengths = parts[0]
        if len(parts) > 1:
            encoded = {name: np.concatenate([part[name] for part, _ in parts]) for name in encoded}
            memory_lengths = np.concatenate([part_lengths for _, part_lengths in parts])
        return SlotState(self._specs, self._arrays, encoded, memory_lengths, width, self.max_target_length)

    def _read(self, padded: Source, lengths: Ids) -> tuple[dict[str, Array], Ids]:
        """What the encode graph makes of [B, S, ...], and the lengths of the memory [B]."""
        binding = self._encode.io_binding()
        binding.bind_cpu_input("source", padded)
        binding.bind_cpu_input("source_lengths", lengths)
        names = [spec.name for spec in self._specs if spec.kind != "growing"]
        for name in names:
            binding.bind_output(name, self._arrays.device)
        binding.bind_output("memory_lengths", "cpu")
        self._encode.run_with_iobinding(binding)
        *values, memory_lengths = binding.get_outputs()
        encoded = {name: self._arrays.adopt(value) for name, value in zip(names, values, strict=True)}
        return encoded, memory_lengths.numpy()

    def step(
        self, ids: Ids, state: SlotState, num_candidates: int, *, needs_attention: bool = False
    ) -> tuple[Candidates, SlotState]:
        """Feed `ids` [R], the last token of every row; give the K best next ones of each. The state is changed."""
        return self._step.run(ids, state, num_candidates, needs_attention), state

    def logits(self, sources: Sequence[Source], targets: Ids) -> Floats:
        """Force `targets` [B, T], which begin with the begin of sentence -> logits [B, T, V] of every next token."""
        state = self.encode(sources, width=1)
        rows = [self._step.run_for_logits(targets[:, position], state) for position in range(targets.shape[1])]
        return np.stack(rows, axis=1)

    def warm_up(self) -> None:
        """Run both graphs once at one row and once at several, so that no request waits for first-time work."""
        source = np.full(_WARM_UP_LENGTH, self.eos_id, np.int64)
        batches = [(1, 1, 1), (4, 1, 1), (2, 4, 8)]
        _, length, *num_features = self._encode.get_inputs()[0].shape
        if num_features:
            has_fixed_length = isinstance(length, int)
            source = np.zeros((length if has_fixed_length else _WARM_UP_LENGTH, *num_features), np.float32)
            if has_fixed_length:  # each one takes as long as a request
                batches = [(1, 4, 8)]
        source = source[: self.max_source_length]
        for num_sources, width, num_candidates in batches:
            state = self.encode([source] * num_sources, width)
            for _ in range(min(2, self.max_target_length)):
                ids = np.full(len(state), self.bos_id, np.int64)
                _, state = self.step(ids, state, min(num_candidates, self.vocabulary_size))

    def check_golden(self, folder: Path) -> None:
        """Raises: ArtifactError if `golden.json` is missing, or a case in it does not come out here as recorded."""
        try:
            golden = Golden.model_validate_json((folder / "golden.json").read_bytes())
            mismatch = self.find_mismatch(golden)
        except (OSError, ValueError) as error:  # a ValidationError is a ValueError
            raise ArtifactError(f"golden.json: not readable ({error}); publish the version again") from error
        if mismatch is not None:
            raise ArtifactError(
                f"golden.json: {mismatch} ({self.variant} on {self.provider}); use another variant or device"
            )

    def find_mismatch(self, golden: Golden) -> str | None:
        """Which case does not reproduce, if one does not: where, the recorded id and the one found.

        The recorded ids are fed, and each must be the best candidate: the same as a greedy search that gives them.
        """
        if not golden.cases:
            return "it holds no cases"
        # What has to come out: the target, then the end, unless the target was cut off.
        expected = [[*case.target, self.eos_id][: golden.max_length] for case in golden.cases]
        state = self.encode([unpack(case.source) for case in golden.cases], width=1)
        ids = np.full(len(expected), self.bos_id, np.int64)
        for position in range(max(len(target) for target in expected)):
            candidates, state = self.step(ids, state, 1)
            for case, target in enumerate(expected):
                if position >= len(target):
                    continue
                found = int(candidates.ids[case, 0])
                if position >= len(golden.prefix) and found != target[position]:
                    return f"case {case}, position {position}: recorded id {target[position]}, found {found}"
                ids[case] = target[position]
        return None

    def _padded(self, sources: Sequence[Source], length: int) -> Source:
        """[B, S, ...] of ids or of features."""
        first = np.asarray(sources[0])
        pad, dtype = (self.pad_id, np.int64) if first.ndim == 1 else (0, np.float32)
        padded = np.full((len(sources), length, *first.shape[1:]), pad, dtype)
        for row, source in enumerate(sources):
            padded[row, : len(source)] = source
        return padded


def probes_of(speech: Speech | None) -> Probes:
    """What the steps of a model with this manifest tell beside candidates."""
    if speech is None:
        return NO_PROBES
    lowered = set(speech.suppressed_ids)
    return Probes(
        tuple(speech.probe_ids), tuple(speech.suppression if id_ in lowered else 0.0 for id_ in speech.probe_ids)
    )


def load_model(folder: Path, manifest: Manifest, variant: str | None, device: Device, num_threads: int) -> OnnxModel:
    """The model in a verified artifact folder. `variant` None takes the best for the device; `num_threads` 0 all cores.

    `auto` takes CUDA where it works and the CPU elsewhere.
    Raises: ArtifactError if the graphs are not what the manifest says, DeviceError if `device` cannot be had.
    """
    if device == "cuda" or (device == "auto" and may_have_cuda()):
        try:
            return _open(folder, manifest, variant, CUDA, num_threads)
        except DeviceError as error:
            if device == "cuda":
                raise
            logger.warning("cuda not usable", extra={"reason": str(error)})
    return _open(folder, manifest, variant, CPU, num_threads)


def _open(folder: Path, manifest: Manifest, variant: str | None, provider: str, num_threads: int) -> OnnxModel:
    name = _choose_variant(manifest, variant, provider)
    files = manifest.variants[name]

    def opened(file: str) -> Any:
        return open_session(folder / file, provider, num_threads, overflows=files.overflows)

    encode, step = opened(files.encode), opened(files.step)
    carried = [spec.name for spec in files.state if spec.kind != "memory"]
    encoded = [spec.name for spec in files.state if spec.kind != "growing"]
    read = {spec.name for spec in files.state}
    told = {"candidates", "log_probs", *(f"{name}.next" for name in carried)}
    shortlist = None
    if files.shortlist is None:
        told.add("logits")
    else:
        session = opened(files.shortlist)
        _check_names(files.shortlist, "inputs", SHORTLIST_INPUTS, session.get_inputs())
        shortlist = Shortlist(session)
        read = (read - SHORTLIST_INPUTS) | set(shortlist.outputs)
    _check_names(files.encode, "inputs", {"source", "source_lengths"}, encode.get_inputs())
    _check_names(files.encode, "outputs", {*encoded, "memory_lengths"}, encode.get_outputs())
    _check_names(files.step, "inputs", {"ids", *read}, step.get_inputs())
    _check_names(files.step, "outputs", told, step.get_outputs())
    arrays = open_arrays(_DEVICES[provider])
    return OnnxModel(manifest, name, encode, step, arrays, shortlist)


def _choose_variant(manifest: Manifest, variant: str | None, provider: str) -> VariantName:
    for name in _PREFERENCE[provider]:
        if name in manifest.variants and variant in (None, name):
            return name
    raise ArtifactError(
        f"{manifest.name} {manifest.version}: has no variant {variant!r}; choose one of {sorted(manifest.variants)}"
    )


def _check_names(file: str, what: str, expected: Set[str], found: Sequence[Any]) -> None:
    missing = sorted(expected - {value.name for value in found})
    if missing:
        raise ArtifactError(f"{file}: among its {what}, {missing} are missing; export the model again")
