"""Text to ids and back. SentencePiece for our own models, learned from sentences; BPE for imported ones: see `bpe`."""

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import sentencepiece
from pydantic import BaseModel, ConfigDict, Field

from app.errors import ArtifactError, CorpusError

Ids = npt.NDArray[np.int64]

PAD_ID, UNK_ID, BOS_ID, EOS_ID = 0, 1, 2, 3


class TokenizerOptions(BaseModel):
    """How to learn a tokenizer. `sampling_alpha` > 0 switches subword regularization on in training (Kudo 2018):
    for unigram the smoothing of the distribution, for bpe the rate of dropped merges (Provilkov 2020)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["unigram", "bpe", "word", "char"] = "unigram"
    vocabulary_size: int = Field(8000, ge=16)
    character_coverage: float = Field(1.0, gt=0.9, le=1)
    sampling_alpha: float = Field(0.0, ge=0, le=1)


class TextTokenizer(Protocol):
    """What every kind of tokenizer can do."""

    @property
    def vocabulary_size(self) -> int:
        """Pieces that it knows."""

    def id_of(self, piece: str) -> int:
        """The id of a piece."""

    def encode(self, text: str) -> Ids:
        """Ids [S] without begin or end of sentence."""

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """`encode` for many texts."""

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text of ids; control pieces leave nothing."""


def open_tokenizer(path: Path, kind: Literal["sentencepiece", "bpe"]) -> TextTokenizer:
    """The tokenizer in an artifact's file. Raises: ArtifactError if it is not readable."""
    if kind == "sentencepiece":
        return SentencePieceTokenizer(path)
    from app.text.bpe import BpeTokenizer  # its library is for imported models only

    return BpeTokenizer(path)


def language_token(language: str) -> str:
    """The piece that asks for a target language, put before the source (Johnson 2017)."""
    return f"<2{language}>"


class SentencePieceTokenizer:
    """Text to ids without begin or end of sentence, and back. `unk` and control pieces leave no trace in text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise ArtifactError(f"{path.name}: not a readable SentencePiece model ({error})") from error

    @property
    def vocabulary_size(self) -> int:
        return int(self._processor.get_piece_size())

    def id_of(self, piece: str) -> int:
        """The id of a piece; `UNK_ID` if there is none."""
        return int(self._processor.piece_to_id(piece))

    def encode(self, text: str) -> Ids:
        """The best segmentation of `text` [S]."""
        # A lone surrogate has no UTF-8 form; the replacement character stands for it.
        clean = text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text
        return np.asarray(self._processor.encode(clean), np.int64)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """`encode` for many texts."""
        return [np.asarray(ids, np.int64) for ids in self._processor.encode(list(texts))]

    def seed_sampling(self, seed: int) -> None:
        """Make the next calls of `sample` reproducible (the generator is the process's own)."""
        sentencepiece.set_random_generator_seed(seed)

    def sample(self, text: str, alpha: float) -> Ids:
        """A random segmentation of `text` (subword regularization)."""
        ids = self._processor.encode(text, enable_sampling=True, alpha=alpha, nbest_size=-1)
        return np.asarray(ids, np.int64)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text of ids; begin, end and padding leave nothing."""
        return str(self._processor.decode([int(i) for i in ids]))


def learn_tokenizer(
    sentences: Iterable[str],
    options: TokenizerOptions,
    languages: Sequence[str],
    path: Path,
    symbols: Sequence[str] = (),
) -> None:
    """Learn pieces from `sentences` and write the model to `path`; one control piece for every target language, and
    one piece for each of `symbols`, which text may hold.

    Raises: CorpusError if the sentences can not fill the vocabulary.
    """
    model = BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type=options.kind,
            vocab_size=options.vocabulary_size,
            character_coverage=options.character_coverage,
            pad_id=PAD_ID,
            unk_id=UNK_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            control_symbols=[language_token(language) for language in languages],
            user_defined_symbols=list(symbols),
            # A recipe may ask for more pieces than a small corpus has.
            hard_vocab_limit=False,
            normalization_rule_name="nmt_nfkc",
            max_sentence_length=100_000,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise CorpusError(
            f"no tokenizer of {options.vocabulary_size} pieces could be learned from this corpus ({error}); "
            "give a smaller tokenizer.vocabulary_size or more text"
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.getvalue())
