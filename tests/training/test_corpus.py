"""Documents with summaries: read, spoiled for denoising, and refused with the line that is wrong."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from app.errors import CorpusError
from app.training.corpus import read_documents, read_pairs
from app.training.denoising import MASK, denoising_pairs, gap_sentences, infill
from app.training.recipe import ParallelText

DOCUMENT = "Cats sleep all day. Dogs run and cats sleep in the sun. Birds sing. The sun is warm in the day."


def write(path: Path, records: list[object]) -> Path:
    path.write_bytes(gzip.compress("\n".join(json.dumps(record) for record in records).encode()))
    return path


def test_reads_documents_with_one_or_several_references(tmp_path: Path) -> None:
    records: list[object] = [
        {"document": "a b", "summary": "a"},
        {"document": "c", "summary": "d", "references": ["d", "e"]},
    ]
    path = write(tmp_path / "set.jsonl.gz", records)
    assert read_documents(path) == [("a b", ["a"]), ("c", ["d", "e"])]
    text = ParallelText(files=[path.name], languages=("en", "title"))
    assert read_pairs(text, tmp_path) == [("a b", "a"), ("c", "d")]


@pytest.mark.parametrize("record", [{"document": "a"}, ["a", "b"], {"summary": "a"}])
def test_names_the_line_that_is_no_document(tmp_path: Path, record: object) -> None:
    path = write(tmp_path / "set.jsonl.gz", [{"document": "a b", "summary": "a"}, record])
    with pytest.raises(CorpusError, match=r"set\.jsonl\.gz:2: expected JSON"):
        read_documents(path)


def test_gap_sentences_takes_out_the_sentence_that_says_most() -> None:
    source, target = gap_sentences(DOCUMENT) or ("", "")
    assert target == "Dogs run and cats sleep in the sun."
    assert source == DOCUMENT.replace(target, MASK)
    assert gap_sentences("One. Two.") is None


def test_infilling_masks_about_a_third_and_wants_everything_back() -> None:
    words = [f"w{number}" for number in range(5000)]
    source, target = infill(" ".join(words), np.random.default_rng(1))
    kept = [word for word in source.split() if word != MASK]
    assert target.split() == words
    assert 0.6 < len(kept) / len(words) < 0.85
    assert kept == [word for word in words if word in set(kept)]  # in order


def test_denoising_is_the_same_for_a_seed() -> None:
    pairs = [(DOCUMENT, "x")]
    assert denoising_pairs(pairs, "pairs", 1) == pairs
    assert denoising_pairs(pairs, "infilling", 1) == denoising_pairs(pairs, "infilling", 1)
