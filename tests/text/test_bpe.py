"""Byte-level BPE of imported models."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ArtifactError
from app.text.tokenizer import TextTokenizer, open_tokenizer
from tests.pretrained.checkpoint import CONTROL, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    write_tokenizer(path)
    return open_tokenizer(path, "bpe")


@given(text=st.text(st.characters(codec="utf-8"), max_size=60))
def test_text_survives(tokenizer: TextTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_control_pieces_and_ids_behind_the_vocabulary_leave_nothing(tokenizer: TextTokenizer) -> None:
    end, start = tokenizer.id_of(CONTROL[0]), tokenizer.id_of(CONTROL[1])
    ids = [start, *tokenizer.encode(" fox"), tokenizer.vocabulary_size + 3, end]
    assert tokenizer.decode(ids) == " fox"
    assert [tokenizer.id_of(piece) for piece in CONTROL] == list(
        range(tokenizer.vocabulary_size - len(CONTROL), tokenizer.vocabulary_size)
    )


def test_many_texts_are_encoded_as_one_by_one(tokenizer: TextTokenizer) -> None:
    texts = ["the lazy dog", "", "she sells", "\ud800 lone"]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert ids.tolist() == tokenizer.encode(text).tolist()
    assert tokenizer.decode(tokenizer.encode(texts[3])) == "? lone"


def test_a_missing_piece_and_a_damaged_file_are_refused(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"has no piece '<\|xx\|>'"):
        tokenizer.id_of("<|xx|>")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"not a readable tokenizer.json"):
        open_tokenizer(tmp_path / "tokenizer.json", "bpe")
