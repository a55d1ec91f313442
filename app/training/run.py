"""One training run from recipe to best checkpoint, in a folder of its own."""

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from app.errors import RecipeError, TrainingError
from app.models import build_model
from app.models.interface import Seq2Seq
from app.models.stepping import TorchModel
from app.text.tokenizer import BOS_ID, EOS_ID, PAD_ID, SentencePieceTokenizer
from app.training import checkpoint
from app.training.batching import Batches
from app.training.corpus import Corpus, prepare_tokenizer
from app.training.loop import StopReason, Trainer, training_place
from app.training.recipe import Recipe, parse_recipe, read_recipe
from app.training.start import read_start
from app.training.validation import Validation

RECIPE_FILE = "recipe.toml"
TOKENIZER_FILE = "tokenizer.model"


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder: the recipe, the tokenizer, checkpoints, metrics, `curves.png` and TensorBoard's events."""

    folder: Path

    @property
    def tokenizer_path(self) -> Path:
        return self.folder / TOKENIZER_FILE

    @property
    def recipe_path(self) -> Path:
        return self.folder / RECIPE_FILE

    def recipe(self) -> Recipe:
        return read_recipe(self.recipe_path)

    def tokenizer(self) -> SentencePieceTokenizer:
        return SentencePieceTokenizer(self.tokenizer_path)

    def load_model(self, checkpoint_name: str = "best") -> Seq2Seq:
        """The weights of `best` or `last`, ready to evaluate or export."""
        content, _ = checkpoint.load(self.folder / "checkpoints" / f"{checkpoint_name}.pt")
        model = build_model(self.recipe().model, self.tokenizer().vocabulary_size)
        model.load_state_dict(content["model"])
        return model.eval()


def _write_recipe(run: Run, text: str, *, is_resumed: bool) -> None:
    if run.recipe_path.exists() and not is_resumed:
        raise TrainingError(
            f"{run.folder}: holds a run already; go on with --resume, or name another folder with --output"
        )
    run.folder.mkdir(parents=True, exist_ok=True)
    run.recipe_path.write_text(text, "utf-8")


def _check_resumable(old: Recipe, new: Recipe) -> None:
    for section in ("model", "tokenizer", "data", "cleaning", "seed"):
        if getattr(old, section) != getattr(new, section):
            raise RecipeError(
                f"[{section}] changed since the run began; --resume allows [optimization] and [training] to"
            )


def train(
    recipe_path: Path,
    data: Path,
    folder: Path,
    *,
    device: str = "auto",
    is_resumed: bool = False,
    start_from: Path | None = None,
    console: Console | None = None,
) -> tuple[Run, StopReason]:
    """Train as the recipe says. Raises: RecipeError or CorpusError before training, TrainingError during it."""
    console = console or Console(stderr=True)
    text = recipe_path.read_text("utf-8") if recipe_path.exists() else ""
    recipe = parse_recipe(text, str(recipe_path)) if text else read_recipe(recipe_path)
    run = Run(folder)
    if is_resumed:
        _check_resumable(run.recipe(), recipe)
    with training_place(device) as place:
        checkpoint.seed_everything(recipe.seed)
        start = None if start_from is None else read_start(start_from)
        corpus = Corpus(recipe, data)
        if place.is_first:
            for name, report in corpus.reports.items():
                console.print(name, report)
            _write_recipe(run, text, is_resumed=is_resumed)
            if start is not None:
                start.copy_tokenizer(run.tokenizer_path)
            prepare_tokenizer(recipe, corpus, run.tokenizer_path)
        if place.world_size > 1:
            torch.distributed.barrier()
        tokenizer = run.tokenizer()
        model = build_model(recipe.model, tokenizer.vocabulary_size)
        if start is not None:
            start.fill(model)
        # Processes that train together share the weights but not the dropout.
        torch.manual_seed(recipe.seed + place.rank)
        trainer = Trainer(
            recipe, model, _batches(recipe, corpus, tokenizer), _validation(recipe, corpus, tokenizer), folder, place
        )
        if is_resumed:
            trainer.resume()
        if place.is_first:
            console.print(_summary(recipe, model, trainer), highlight=False)
        return run, trainer.run()


def _batches(recipe: Recipe, corpus: Corpus, tokenizer: SentencePieceTokenizer) -> Batches:
    return Batches(
        corpus.train,
        tokenizer,
        recipe.languages,
        batch_tokens=recipe.training.batch_tokens,
        max_length=recipe.training.max_length,
        seed=recipe.seed,
        sampling_alpha=recipe.tokenizer.sampling_alpha,
        truncate_sources=recipe.training.truncate_sources,
    )


def _validation(recipe: Recipe, corpus: Corpus, tokenizer: SentencePieceTokenizer) -> Validation:
    held_out = Batches(
        corpus.dev,
        tokenizer,
        recipe.languages,
        batch_tokens=recipe.training.batch_tokens,
        max_length=recipe.training.max_length if recipe.training.truncate_sources else recipe.model.max_length,
        seed=0,
        truncate_sources=recipe.training.truncate_sources,
    )
    return Validation(held_out, recipe)


def _summary(recipe: Recipe, model: Seq2Seq, trainer: Trainer) -> str:
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"{recipe.name}: {recipe.model.architecture}, {num_parameters:,} parameters, {len(trainer.batches):,} examples "
        f"({trainer.batches.num_too_long:,} too long), vocabulary {model.output.out_features:,}, "
        f"device {trainer.place.device}, {trainer.place.world_size} process(es), {torch.get_num_threads()} threads, "
        f"from step {trainer.progress.step} to {recipe.training.max_steps}"
    )


def step_model(model: Seq2Seq, recipe: Recipe, device: str) -> TorchModel:
    """A trained model ready to be searched."""
    has_cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    return TorchModel(
        model.to("cuda" if has_cuda else "cpu"),
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        pad_id=PAD_ID,
        max_target_length=recipe.model.max_length,
    )
