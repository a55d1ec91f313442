"""A wrong recipe or corpus stops before training and names the place."""

from pathlib import Path

import pytest

from app.errors import CorpusError, RecipeError
from app.training.corpus import Corpus
from app.training.recipe import parse_recipe, read_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_project_is_valid_and_named_as_its_file(path: Path) -> None:
    assert read_recipe(path).name == path.stem


def test_a_typo_is_named_with_the_key_that_was_meant(recipe: Path) -> None:
    text = recipe.read_text().replace("warmup_steps", "warmup_step")
    with pytest.raises(RecipeError, match=r"optimization\.warmup_step: no such key; did you mean `warmup_steps`"):
        parse_recipe(text, "small.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_heads = 4", "num_heads = 5", "width 32 is not a multiple of num_heads 5"),
        ("max_steps = 12", "max_steps = 0", r"training\.max_steps"),
        ('architecture = "transformer"', 'architecture = "transfomer"', "transfomer"),
        ("[training]", "[training", "not valid TOML"),
    ],
)
def test_a_wrong_value_is_named(recipe: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(recipe.read_text().replace(old, new), "small.toml")


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nothing\.toml"):
        read_recipe(tmp_path / "nothing.toml")


def test_a_missing_corpus_file_is_named(recipe: Path, data: Path) -> None:
    (data / "dev.tsv").unlink()
    with pytest.raises(CorpusError, match=r"dev\.tsv: no such file"):
        Corpus(read_recipe(recipe), data)


def test_an_empty_corpus_is_named(recipe: Path, data: Path) -> None:
    (data / "train.tsv").write_text("")
    with pytest.raises(CorpusError, match=r"train\.tsv: no line"):
        Corpus(read_recipe(recipe), data)


def test_a_line_without_a_second_column_is_named(recipe: Path, data: Path) -> None:
    (data / "train.tsv").write_text("a cat\teine Katze\nonly one side\n")
    with pytest.raises(CorpusError, match=r"train\.tsv:2: found 1 column"):
        Corpus(read_recipe(recipe), data)


def test_files_of_unequal_length_are_named_with_their_counts(recipe: Path, data: Path) -> None:
    (data / "a.en").write_text("one\ntwo\n")
    (data / "a.de").write_text("eins\n")
    text = recipe.read_text().replace('files = ["train.tsv"]', 'files = ["a.en", "a.de"]')
    with pytest.raises(CorpusError, match=r"a\.en has 2 lines, .*a\.de has 1"):
        Corpus(parse_recipe(text, "small.toml"), data)


def test_a_corpus_in_other_languages_is_refused(recipe: Path, data: Path) -> None:
    text = recipe.read_text().replace('languages = ["en", "de"]', 'languages = ["en", "fr"]', 1)
    with pytest.raises(CorpusError, match="serve none of the directions"):
        Corpus(parse_recipe(text, "small.toml"), data)
