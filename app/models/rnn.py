"""Recurrent models: encoder-decoder (Sutskever 2014, Cho 2014), with attention by Bahdanau 2015 or Luong 2015."""

from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from app.models.attention import length_mask
from app.models.copying import CopyAttention
from app.models.dropout import Dropout
from app.models.interface import Decoded, Seq2Seq, StateSpec

CELLS: dict[str, tuple[Any, Any]] = {
    "lstm": (nn.LSTM, nn.LSTMCell),
    "gru": (nn.GRU, nn.GRUCell),
    "rnn": (nn.RNN, nn.RNNCell),
}


class RnnOptions(BaseModel):
    """Sizes and options of a recurrent model, whatever it reads.

    `attention`: none (the source only through the first hidden state), additive (Bahdanau 2015), dot or general
    (Luong 2015, input feeding). A bidirectional encoder has `width` / 2 units in each direction.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Literal["lstm", "gru", "rnn"] = "lstm"
    width: int = Field(256, ge=8, multiple_of=2)
    encoder_layers: int = Field(1, ge=1)
    decoder_layers: int = Field(1, ge=1)
    bidirectional: bool = True
    attention: Literal["none", "additive", "dot", "general"] = "additive"
    tied_embeddings: bool = True
    copying: bool = Field(False, description="A copy mechanism: see app/models/copying.py.")
    dropout: float = Field(0.2, ge=0, lt=1)
    max_length: int = Field(512, ge=2, description="Tokens a source or target may have.")


class RnnConfig(RnnOptions):
    """A recurrent model over tokens."""

    architecture: Literal["rnn"] = "rnn"


class MemoryAttention(nn.Module):
    """Weights over the memory by additive, dot or general score; gives the weighted memory."""

    def __init__(self, kind: Literal["additive", "dot", "general"], width: int) -> None:
        super().__init__()
        self.kind = kind
        self.key: nn.Module = nn.Linear(width, width, bias=False) if kind != "dot" else nn.Identity()
        if kind == "additive":
            self.query = nn.Linear(width, width)
            self.energy = nn.Linear(width, 1, bias=False)

    def forward(self, hidden: Tensor, memory: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """hidden [B, T, D], memory and keys [B, S, D], mask [B, 1, S] -> context [B, T, D]."""
        if self.kind == "additive":
            energies = torch.tanh(self.query(hidden)[:, :, None] + keys[:, None])  # [B, T, S, D]
            scores = self.energy(energies).squeeze(-1)  # [B, T, S]
        else:
            scores = hidden @ keys.transpose(1, 2)  # [B, T, S]
        weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
        context: Tensor = weights @ memory
        return context


class Rnn(Seq2Seq):
    """Recurrent encoder and decoder.

    With additive attention the context of the hidden state before the step joins the cell's input (Bahdanau 2015);
    with dot or general attention the context of the hidden state after the step is mixed into the features, which
    are fed into the next step (Luong 2015, 3.3). The first hidden state is made from the encoder's last states.
    """

    def __init__(self, config: RnnOptions, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        sequence, cell = CELLS[config.cell]
        self.embedding = nn.Embedding(vocabulary_size, width)
        directions = 2 if config.bidirectional else 1
        self.encoder = sequence(
            width,
            width // directions,
            config.encoder_layers,
            bidirectional=config.bidirectional,
            batch_first=True,
            dropout=config.dropout if config.encoder_layers > 1 else 0.0,
        )
        self.bridges = nn.ModuleList(nn.Linear(width, width) for _ in range(config.decoder_layers))
        first = width if config.attention == "none" else 2 * width
        self.cells = nn.ModuleList(cell(first if i == 0 else width, width) for i in range(config.decoder_layers))
        if config.attention != "none":
            self.attention = MemoryAttention(config.attention, width)
            self.mix = nn.Linear(2 * width, width)
        self.output = nn.Linear(width, vocabulary_size)
        self.copy = CopyAttention(width) if config.copying else None
        self.dropout = Dropout(config.dropout)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        if config.tied_embeddings:
            self.output.weight = self.embedding.weight

    @property
    def has_attention(self) -> bool:
        return self.config.attention != "none"

    def state_specs(self) -> list[StateSpec]:
        width = self.config.width
        specs = [StateSpec(f"hidden.{i}", "fixed", (width,)) for i in range(self.config.decoder_layers)]
        if self.config.cell == "lstm":
            specs += [StateSpec(f"cell.{i}", "fixed", (width,)) for i in range(self.config.decoder_layers)]
        if self.has_attention:
            specs += [StateSpec(name, "memory", (-1, width), 1) for name in ("memory", "keys")]
            specs.append(StateSpec("context", "fixed", (width,)))
        return specs + self._copy_specs(width)

    def encode(self, source: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        memory, summary, lengths = self._read(source, lengths)
        return self._first_state(memory, summary, lengths) | self._copy_state(memory, source)

    def _embed_source(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder's layers read [B, S, D], and its real lengths [B]."""
        return self.dropout(self.embedding(source)), lengths

    def _read(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> memory [B, S, D], zero in the padding, the last layer's last states [B, D], and the real lengths [B]."""
        embedded, lengths = self._embed_source(source, lengths)
        packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, last = self.encoder(packed)
        memory, _ = nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True, total_length=embedded.shape[1])
        hidden = last[0] if self.config.cell == "lstm" else last  # [layers * directions, B, D / directions]
        directions = 2 if self.config.bidirectional else 1
        summary = torch.cat(list(hidden[-directions:]), dim=-1)  # forward and backward of the last layer
        return memory, summary, lengths

    def _first_state(self, memory: Tensor, summary: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        state = {"memory_lengths": lengths}
        for i, bridge in enumerate(self.bridges):
            state[f"hidden.{i}"] = torch.tanh(bridge(summary))
            if self.config.cell == "lstm":
                state[f"cell.{i}"] = torch.zeros_like(summary)
        if self.has_attention:
            state["memory"], state["keys"] = memory, self.attention.key(memory)
            state["context"] = torch.zeros_like(summary)
        return state

    def _attend(self, hidden: Tensor, state: dict[str, Tensor]) -> Tensor:
        """hidden [R, D] -> context [R, D]; the rows of one source share its memory."""
        memory = state["memory"]
        mask = length_mask(state["memory_lengths"], memory.shape[1])[:, None]  # [B, 1, S]
        grouped = hidden.unflatten(0, (len(memory), -1))  # [B, R / B, D]
        context: Tensor = self.attention(grouped, memory, state["keys"], mask)
        return context.flatten(0, 1)

    def _advance(self, embedded: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One position: embedded [R, D] -> features [R, D] and the state after it."""
        state = dict(state)
        is_additive = self.config.attention == "additive"
        if is_additive:
            state["context"] = self._attend(state["hidden.0"], state)
        x = torch.cat([embedded, state["context"]], dim=-1) if self.has_attention else embedded
        for i, cell in enumerate(self.cells):
            if self.config.cell == "lstm":
                state[f"hidden.{i}"], state[f"cell.{i}"] = cell(x, (state[f"hidden.{i}"], state[f"cell.{i}"]))
            else:
                state[f"hidden.{i}"] = cell(x, state[f"hidden.{i}"])
            x = self.dropout(state[f"hidden.{i}"])
        if not self.has_attention:
            return x, state
        context = state["context"] if is_additive else self._attend(x, state)
        features = torch.tanh(self.mix(torch.cat([x, context], dim=-1)))
        if not is_additive:
            state["context"] = features
        return self.dropout(features), state

    def decode(self, source: Tensor, lengths: Tensor, target: Tensor) -> Decoded:
        memory, summary, lengths = self._read(source, lengths)
        state = self._first_state(memory, summary, lengths)
        embedded = self.dropout(self.embedding(target))
        features = []
        for position in range(target.shape[1]):
            feature, state = self._advance(embedded[:, position], state)
            features.append(feature)
        return self._decoded(torch.stack(features, dim=1), memory, lengths)

    def step(self, ids: Tensor, positions: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self._advance(self.dropout(self.embedding(ids)), state)
