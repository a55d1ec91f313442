"""`seq2serve export`, and the end of `seq2serve train`: a run's best weights become a published version."""

from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from app.commands.card import model_card
from app.commands.evaluate import evaluate_all, recipe_test_sets
from app.commands.loading import OpenModel, open_run
from app.decoding.interface import StepModel
from app.evaluation.evaluate import evaluate
from app.export.artifact import Description, Gates, export_artifact
from app.store.manifest import VariantName
from app.store.registry import Registry
from app.text.cleaning import normalize
from app.text.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from app.training.corpus import read_pairs
from app.training.recipe import Recipe
from app.training.run import Run

# Dev sentences a direction that parity is shown on, and that the variants are scored on.
NUM_PARITY = 250
NUM_SCORED = 500


def publish_run(
    folder: Path,
    data: Path,
    store: Path,
    name: str | None,
    version: str | None,
    keep_fp32: bool,
    keep_fast: bool,
    with_weights: bool,
    console: Console,
) -> Path:
    """Export, gate, score on the recipe's test sets, publish -> the version's folder. Promotion is for the user."""
    run = Run(folder)
    opened = open_run(folder, "cpu")
    recipe = opened.recipe
    dev = DevSet(opened, data)
    description = Description(
        name=name or recipe.name,
        version=version or datetime.now(UTC).strftime("%Y%m%d-%H%M%S"),
        task=recipe.task,
        architecture=recipe.model.architecture,
        directions=recipe.data.directions,
        tokenizer_file=run.tokenizer_path,
        language_ids=opened.language_ids,
        lower_case=recipe.cleaning.lower_case,
        pad_id=PAD_ID,
        unk_id=UNK_ID,
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        max_source_length=recipe.max_source_length,
        max_target_length=recipe.model.max_length,
        recipe_text=run.recipe_path.read_text("utf-8"),
        card=lambda evaluation: model_card(recipe, evaluation),
        default_search=recipe.search.model_dump(),
    )

    def test_scores(variant: VariantName, model: StepModel) -> object:
        exported = OpenModel(f"{recipe.name} {variant}", model, opened.tokenizer, opened.language_ids, recipe)
        return evaluate_all(exported, recipe_test_sets(exported, data, []), None, console)

    gates = Gates(dev.sources[: 2 * NUM_PARITY], dev.score, test_scores=test_scores)
    keep: list[VariantName] = ["int8", "fp16"]
    keep += ["fp32"] if keep_fp32 else []
    keep += ["int8-fast"] if keep_fast else []
    published = export_artifact(
        run.load_model(),
        description,
        gates,
        Registry(store),
        keep=keep,
        with_weights=with_weights,
        report=lambda line: console.print(line),
    )
    console.print(
        f"published {description.name} {description.version}; it answers after: "
        f"seq2serve promote {description.name} {description.version}",
        highlight=False,
        soft_wrap=True,
    )
    return published


class DevSet:
    """The recipe's dev pairs, directions in turn, spread over the whole set."""

    def __init__(self, opened: OpenModel, data: Path) -> None:
        self.recipe: Recipe = opened.recipe
        self.detokenize = opened.tokenizer.decode
        by_direction = []
        for direction in self.recipe.data.directions:
            chosen = self._pairs(direction, data)
            texts = [normalize(source, self.recipe.cleaning) for source, _ in chosen]
            sources = opened.sources(texts, direction[1])
            by_direction.append(list(zip(sources, [[target] for _, target in chosen], strict=True)))
        mixed = [example for examples in zip(*by_direction, strict=False) for example in examples]
        self.sources = [source for source, _ in mixed]
        self.references = [reference for _, reference in mixed]

    def _pairs(self, direction: tuple[str, str], data: Path) -> list[tuple[str, str]]:
        pairs = []
        for text in self.recipe.data.dev:
            if text.languages == direction:
                pairs += read_pairs(text, data)
            elif text.languages == direction[::-1]:
                pairs += [(second, first) for first, second in read_pairs(text, data)]
        return pairs[:: max(1, len(pairs) // NUM_SCORED)][:NUM_SCORED]

    def score(self, model: StepModel) -> float:
        """BLEU over all directions together, or the mean of the ROUGE scores, by the recipe's search."""
        evaluation = evaluate(
            self.recipe.task,
            model,
            self.sources,
            self.references,
            self.detokenize,
            search=self.recipe.search.model_dump(),
        )
        scores = evaluation.scores if self.recipe.task == "summarize" else evaluation.scores[:1]
        return sum(score.value for score in scores) / len(scores)
