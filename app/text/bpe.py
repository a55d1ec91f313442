"""Byte-level BPE of imported models: the `tokenizer.json` of Hugging Face's tokenizers library."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers

from app.errors import ArtifactError

Ids = npt.NDArray[np.int64]


class BpeTokenizer:
    """Text to ids without begin or end of sentence, and back. Control pieces leave no trace in text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise ArtifactError(f"{path.name}: not a readable tokenizer.json ({error})") from error

    @property
    def vocabulary_size(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def control_pieces(self) -> dict[str, int]:
        """The id of every piece that stands for no text."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {token.content: int(index) for index, token in added.items() if token.special}

    def id_of(self, piece: str) -> int:
        """The id of a piece. Raises: ArtifactError if there is none."""
        index = self._tokenizer.token_to_id(piece)
        if index is None:
            raise ArtifactError(f"{self.path.name}: has no piece {piece!r}")
        return int(index)

    def encode(self, text: str) -> Ids:
        """The pieces of `text` [S]."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """`encode` for many texts."""
        # A lone surrogate has no UTF-8 form; the replacement character stands for it.
        clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        encodings = self._tokenizer.encode_batch(clean, add_special_tokens=False)
        return [np.asarray(encoding.ids, np.int64) for encoding in encodings]

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text of ids; control pieces, and ids behind the vocabulary (time stamps), leave nothing."""
        return str(self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True))
