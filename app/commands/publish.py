"""`seq2serve export`, and the end of `seq2serve train`: a run's best weights become a published version."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console

from app.commands.card import model_card
from app.commands.evaluate import TestSet, evaluate_all, recipe_test_sets, sources_of, spoken_test_sets
from app.commands.import_ import LOGIT_TOLERANCE as IMPORTED_LOGIT_TOLERANCE
from app.commands.loading import OpenModel, open_run
from app.commands.store import tell_published
from app.decoding.interface import Ids, Source, StepModel
from app.errors import InputError
from app.evaluation.evaluate import evaluate
from app.export.artifact import Description, Gates, export_artifact
from app.export.graphs import can_be_short
from app.export.lexicon import Lexicon, estimate_lexicon, thinned_out
from app.export.parity import LOGIT_TOLERANCE
from app.models.interface import Seq2Seq
from app.store.manifest import Task, VariantName
from app.store.registry import Registry
from app.text.tokenizer import EOS_ID
from app.training.corpus import Corpus, read_pairs
from app.training.run import Run

T = TypeVar("T")

# Dev sentences a direction that parity is shown on, and that the variants are scored on.
NUM_PARITY = 250
NUM_SCORED = 500
# Below so many pieces, cutting a shortlist out of the vocabulary costs what it saves.
SMALLEST_SHORTENED = 16_000
# Frames of speech that parity is shown on.
NUM_PARITY_FRAMES = 36_000


@dataclass(frozen=True, slots=True)
class Extras:
    """What a version holds beside int8 and fp16. `has_shortlist` is asked of int8-fast; None: where it pays."""

    keep_fp32: bool = False
    keep_fast: bool = False
    has_shortlist: bool | None = None
    with_weights: bool = False


def publish_run(
    folder: Path,
    data: Path,
    store: Path,
    name: str | None,
    version: str | None,
    extras: Extras,
    console: Console,
) -> Path:
    """Export, gate, score on the recipe's test sets, publish -> the version's folder. Promotion is for the user."""
    if extras.has_shortlist and not extras.keep_fast:
        raise InputError("a shortlist is a part of int8-fast: ask for that too, with --keep-fast")
    run = Run(folder)
    opened = open_run(folder, "cpu")
    recipe, vocabulary = opened.recipe, run.vocabulary()
    is_speech = opened.speech is not None
    dev = DevSet(opened, data)
    description = Description(
        name=name or recipe.name,
        version=version or datetime.now(UTC).strftime("%Y%m%d-%H%M%S"),
        task=recipe.task,
        architecture=recipe.model.architecture,
        directions=() if is_speech else recipe.data.directions,
        tokenizer_file=run.tokenizer_path,
        tokenizer_kind=vocabulary.kind,
        language_ids=opened.language_ids,
        lower_case=recipe.cleaning.lower_case,
        pad_id=vocabulary.pad_id,
        unk_id=vocabulary.unk_id,
        bos_id=vocabulary.bos_id,
        eos_id=vocabulary.eos_id,
        max_source_length=recipe.max_source_length,
        max_target_length=recipe.model.max_length,
        recipe_text=run.recipe_path.read_text("utf-8"),
        card=lambda evaluation: model_card(recipe, evaluation),
        speech=opened.speech,
        default_search=recipe.search.model_dump(),
    )

    def test_scores(variant: VariantName, model: StepModel) -> object:
        exported = replace(opened, name=f"{recipe.name} {variant}", model=model)
        return evaluate_all(exported, recipe_test_sets(exported, data, []), None, console)

    gates = Gates(
        dev.parity_sources(),
        dev.score,
        test_scores=test_scores,
        prefix=vocabulary.prefix,
        # As `seq2serve import` exports them: see there.
        is_calibrated=not run.is_imported,
        logit_tolerance=IMPORTED_LOGIT_TOLERANCE if run.is_imported else LOGIT_TOLERANCE,
    )
    keep: list[VariantName] = ["int8", "fp16"]
    keep += ["fp32"] if extras.keep_fp32 else []
    keep += ["int8-fast"] if extras.keep_fast else []
    model, lexicon = run.load_model(), None
    has_shortlist = extras.has_shortlist
    if has_shortlist is None:
        has_shortlist = extras.keep_fast and _is_worth_a_shortlist(recipe.task, model)
    if has_shortlist:
        console.print("estimating which pieces translate which, for the shortlist of int8-fast")
        lexicon = learned_lexicon(opened, data)
    published = export_artifact(
        model,
        description,
        gates,
        Registry(store),
        keep=keep,
        with_weights=extras.with_weights,
        lexicon=lexicon,
        report=lambda line: console.print(line),
    )
    tell_published(description.name, description.version, console)
    return published


def _is_worth_a_shortlist(task: Task, model: Seq2Seq) -> bool:
    return task == "translate" and can_be_short(model) and model.output.out_features >= SMALLEST_SHORTENED


def learned_lexicon(opened: OpenModel, data: Path) -> Lexicon:
    """What the recipe's training pairs tell of which pieces translate which."""
    examples = thinned_out(Corpus(opened.recipe, data).train)
    pairs: list[tuple[Ids, Ids]] = []
    for direction in opened.recipe.data.directions:
        chosen = [example for example in examples if example.direction == direction]
        sources = opened.sources([example.source for example in chosen], direction[1])
        targets = opened.tokenizer.encode_batch([example.target for example in chosen])
        pairs += zip(sources, targets, strict=True)
    return estimate_lexicon(pairs, opened.tokenizer.vocabulary_size, always=[EOS_ID])


class DevSet:
    """The recipe's dev set, directions in turn, spread over the whole set."""

    def __init__(self, opened: OpenModel, data: Path) -> None:
        self.recipe = opened.recipe
        self.opened = opened
        tests = self._recordings(data) if opened.speech is not None else self._texts(data)
        by_direction = [zip(sources_of(opened, test), test.references, strict=True) for test in tests]
        mixed = [example for examples in zip(*by_direction, strict=False) for example in examples]
        self.sources = [source for source, _ in mixed]
        self.references = [reference for _, reference in mixed]

    def _texts(self, data: Path) -> list[TestSet]:
        """The pairs of every direction."""
        sets = []
        for direction in self.recipe.data.directions:
            pairs = []
            for text in self.recipe.data.dev:
                if text.languages == direction:
                    pairs += read_pairs(text, data)
                elif text.languages == direction[::-1]:
                    pairs += [(second, first) for first, second in read_pairs(text, data)]
            pairs = _spread(pairs)
            sources, references = [source for source, _ in pairs], [[target] for _, target in pairs]
            sets.append(TestSet("dev", direction, sources, references))
        return sets

    def _recordings(self, data: Path) -> list[TestSet]:
        """What is spoken, in the one direction that there is."""
        found = [test for text in self.recipe.data.dev for test in spoken_test_sets("dev", text, data)]
        sources = [source for test in found for source in test.sources if not isinstance(source, str)]
        references = [reference for test in found for reference in test.references]
        return [TestSet("dev", found[0].direction, _spread(sources), _spread(references))]

    def parity_sources(self) -> list[Source]:
        """Those that PyTorch and ONNX Runtime are compared on."""
        if self.opened.speech is None:
            return self.sources[: 2 * NUM_PARITY]
        ends = np.cumsum([len(source) for source in self.sources])
        return self.sources[: max(1, int(np.searchsorted(ends, NUM_PARITY_FRAMES, side="right")))]

    def score(self, model: StepModel) -> float:
        """BLEU over all directions together, the mean of the ROUGE scores, or 100 - WER, by the recipe's search."""
        evaluation = evaluate(
            self.recipe.task,
            model,
            self.sources,
            self.references,
            self.opened.tokenizer.decode,
            search=self.recipe.search.model_dump(),
            beginning=self.opened.beginning(self.recipe.data.directions[0][1]),
        )
        if self.recipe.task == "transcribe":
            return 100 - evaluation.scores[0].value
        scores = evaluation.scores if self.recipe.task == "summarize" else evaluation.scores[:1]
        return sum(score.value for score in scores) / len(scores)


def _spread(examples: list[T]) -> list[T]:
    """At most so many as are scored, from everywhere in the set."""
    return examples[:: max(1, len(examples) // NUM_SCORED)][:NUM_SCORED]
