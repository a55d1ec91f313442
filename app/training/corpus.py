"""From data files to examples: read, clean, count, tokenize."""

import gzip
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from app.errors import CorpusError
from app.text.cleaning import CleaningReport, clean_pairs, normalize_pair
from app.text.tokenizer import EOS_ID, UNK_ID, SentencePieceTokenizer, language_token, learn_tokenizer
from app.training.denoising import MASK, denoising_pairs
from app.training.recipe import ParallelText, Recipe

logger = logging.getLogger(__name__)

Ids = npt.NDArray[np.int64]
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Example:
    """A sentence pair in one direction; texts as cleaned. `weight` is how often an epoch sees it."""

    source: str
    target: str
    direction: tuple[str, str]
    weight: float


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, plain or gzip. Raises: CorpusError."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            text = file.read().decode("utf-8")
    except FileNotFoundError as error:
        raise CorpusError(
            f"{path}: no such file; recipes name files relative to the data folder (--data, or SEQ2SERVE_DATA)"
        ) from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: can not be read ({error})") from error
    return text.removesuffix("\n").split("\n") if text else []


def is_json_lines(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith(".jsonl")


def read_documents(path: Path) -> list[tuple[str, list[str]]]:
    """Documents with their reference summaries, of JSON lines {"document", "summary", "references" where there are
    several}. Raises: CorpusError naming file and line."""
    documents = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            record = json.loads(line)
            references = record.get("references") or [record["summary"]]
            documents.append((str(record["document"]), [str(reference) for reference in references]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorpusError(
                f'{path}:{number}: expected JSON with "document" and "summary" ({type(error).__name__}: {error})'
            ) from error
    return documents


def read_pairs(text: ParallelText, root: Path) -> list[Pair]:
    """All pairs of a parallel text, in the order of its `languages`. Raises: CorpusError naming file and line."""
    paths = [root / file for file in text.files]
    if is_json_lines(paths[0]):
        pairs = [(document, references[0]) for path in paths for document, references in read_documents(path)]
    elif len(paths) == 2:
        first, second = (read_lines(path) for path in paths)
        if len(first) != len(second):
            raise CorpusError(
                f"{paths[0]} has {len(first)} lines, {paths[1]} has {len(second)}; parallel files need equally many"
            )
        pairs = list(zip(first, second, strict=True))
    else:
        pairs = []
        for number, line in enumerate(read_lines(paths[0]), start=1):
            columns = line.split("\t")
            if len(columns) < 2:
                raise CorpusError(
                    f"{paths[0]}:{number}: found 1 column, expected {text.languages[0]}<TAB>{text.languages[1]}"
                )
            pairs.append((columns[0], columns[1]))
    if not pairs:
        raise CorpusError(f"{' and '.join(text.files)}: no line in it")
    return pairs


def directed(
    pairs: list[Pair], text: ParallelText, directions: list[tuple[str, str]]
) -> Iterator[tuple[Pair, tuple[str, str]]]:
    """Every pair in every direction of `directions` that the text's languages allow."""
    for direction in directions:
        if direction == text.languages:
            yield from ((pair, direction) for pair in pairs)
        elif direction == text.languages[::-1]:
            yield from (((pair[1], pair[0]), direction) for pair in pairs)


class Corpus:
    """The cleaned examples of a recipe, and the reports of what cleaning dropped."""

    def __init__(self, recipe: Recipe, root: Path) -> None:
        self.recipe = recipe
        self.root = root
        self.reports: dict[str, CleaningReport] = {}
        self.train = self._examples(recipe.data.train, self._clean)
        self.dev = self._examples(recipe.data.dev, self._normalize)

    def _clean(self, text: ParallelText) -> list[Pair]:
        pairs = denoising_pairs(read_pairs(text, self.root), text.objective, self.recipe.seed)
        name = ", ".join(text.files) + ("" if text.objective == "pairs" else f" ({text.objective})")
        pairs, self.reports[name] = clean_pairs(pairs, self.recipe.cleaning)
        return pairs

    def _normalize(self, text: ParallelText) -> list[Pair]:
        # As the service would read them; no pair is dropped from a held-out set.
        cleaning = self.recipe.cleaning
        return [normalize_pair(pair, cleaning) for pair in read_pairs(text, self.root)]

    def _examples(self, texts: list[ParallelText], read: Callable[[ParallelText], list[Pair]]) -> list[Example]:
        examples: list[Example] = []
        for text in texts:
            pairs = read(text)
            if not pairs:
                raise CorpusError(f"{', '.join(text.files)}: cleaning dropped every pair; relax [cleaning]")
            found = [
                Example(source, target, direction, text.weight)
                for (source, target), direction in directed(pairs, text, self.recipe.data.directions)
            ]
            if not found:
                raise CorpusError(
                    f"{', '.join(text.files)}: languages {text.languages} serve none of the directions "
                    f"{self.recipe.data.directions}"
                )
            examples += found
        return examples

    def sentences(self) -> Iterator[str]:
        """Every training sentence of every language, for learning a tokenizer."""
        seen = set()
        for example in self.train:
            for sentence in (example.source, example.target):
                if sentence not in seen:
                    seen.add(sentence)
                    yield sentence


class Sentences(Protocol):
    """What a tokenizer is learned from."""

    def sentences(self) -> Iterator[str]:
        """Every training text."""


def prepare_tokenizer(recipe: Recipe, corpus: Sentences, path: Path) -> SentencePieceTokenizer:
    """The run's tokenizer: learned from the corpus at first, loaded from `path` after that."""
    if not path.exists():
        symbols = [MASK] if recipe.task == "summarize" else []
        learn_tokenizer(corpus.sentences(), recipe.tokenizer, recipe.languages, path, symbols)
        logger.info("learned tokenizer", extra={"pieces": SentencePieceTokenizer(path).vocabulary_size})
    tokenizer = SentencePieceTokenizer(path)
    targets = {target for _, target in recipe.data.directions}
    if missing := [name for name in sorted(targets) if tokenizer.id_of(language_token(name)) == UNK_ID]:
        raise CorpusError(
            f"{path}: this tokenizer has no token for {', '.join(missing)}; start from weights whose recipe has it, "
            "or learn a tokenizer anew"
        )
    return tokenizer


def source_ids(ids: Ids, target_language_id: int) -> Ids:
    """What the encoder reads: the token that asks for the language, the text, the end of sentence."""
    return np.concatenate([[target_language_id], ids, [EOS_ID]]).astype(np.int64)


def language_ids(tokenizer: SentencePieceTokenizer, languages: list[str]) -> dict[str, int]:
    """The id of every language's token."""
    return {language: tokenizer.id_of(language_token(language)) for language in languages}
