"""The tokenizer of a run, and the ids that frame a target in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.evaluation.evaluate import ANY_BEGINNING, Beginning
from app.store.manifest import Manifest, Speech
from app.text.tokenizer import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    UNK_ID,
    Ids,
    SentencePieceTokenizer,
    TextTokenizer,
    open_tokenizer,
)

TOKENIZER_FILES = {"sentencepiece": "tokenizer.model", "bpe": "tokenizer.json"}
# The manifest of the artifact that a run started from, where its ids are others than those of our own tokenizers.
IMPORTED_FILE = "imported.json"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A target is fed as begin of sentence, the prefix of `beginning`, text, and has to give text, end of sentence.

    `pad_id` is an id that no target has to give: where a target is padded, and where the prefix is, nothing is learned.
    """

    tokenizer: TextTokenizer
    pad_id: int = PAD_ID
    unk_id: int = UNK_ID
    bos_id: int = BOS_ID
    eos_id: int = EOS_ID
    beginning: Beginning = ANY_BEGINNING
    imported: Manifest | None = None

    @property
    def size(self) -> int:
        """How many ids there are; imported models have some that their tokenizer does not list: time stamps."""
        return self.tokenizer.vocabulary_size if self.imported is None else self.imported.vocabulary_size

    @property
    def speech(self) -> Speech | None:
        """How the imported model is asked."""
        return None if self.imported is None else self.imported.speech

    @property
    def prefix(self) -> tuple[int, ...]:
        return self.beginning.prefix

    @property
    def never(self) -> frozenset[int]:
        """Ids that a model was made never to give: no text with them can be learned."""
        return frozenset(self.speech.suppressed_ids) if self.speech is not None else frozenset()

    @property
    def kind(self) -> Literal["sentencepiece", "bpe"]:
        return "sentencepiece" if isinstance(self.tokenizer, SentencePieceTokenizer) else "bpe"

    def encode(self, text: str) -> Ids:
        """The text of a target [T], as the tokenizer wants it."""
        # Whisper's texts begin with a space, which its pieces hold.
        return self.tokenizer.encode(text if self.kind == "sentencepiece" else f" {text}")


def read_vocabulary(folder: Path, language: str) -> Vocabulary:
    """The vocabulary of the run in `folder`; targets are in `language`, where an imported model knows several."""
    path = folder / IMPORTED_FILE
    if not path.exists():
        return Vocabulary(SentencePieceTokenizer(folder / TOKENIZER_FILES["sentencepiece"]))
    manifest = Manifest.model_validate_json(path.read_bytes())
    tokenizer = open_tokenizer(folder / TOKENIZER_FILES[manifest.tokenizer.kind], manifest.tokenizer.kind)
    return Vocabulary(
        tokenizer,
        # Not the artifact's, which is the end of sentence; what begins a target is never asked of a model.
        pad_id=manifest.bos_id,
        unk_id=manifest.unk_id,
        bos_id=manifest.bos_id,
        eos_id=manifest.eos_id,
        beginning=beginning_of(manifest.speech, language),
        imported=manifest,
    )


def beginning_of(speech: Speech | None, language: str) -> Beginning:
    """How a target in `language` is made to begin: the control tokens of a model that has such."""
    if speech is None:
        return ANY_BEGINNING
    prefix = speech.prefix(language, "transcribe", has_timestamps=False)
    return Beginning(prefix, tuple(speech.suppressed_first_ids))
