"""One training run from recipe to best checkpoint, in a folder of its own."""

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from app.errors import RecipeError, TrainingError
from app.models import build_model
from app.models.interface import Seq2Seq
from app.models.stepping import TorchModel
from app.text.tokenizer import SentencePieceTokenizer
from app.training import checkpoint
from app.training.batching import Batches, TextBatches
from app.training.corpus import Corpus, prepare_tokenizer
from app.training.loop import StopReason, Trainer, training_place
from app.training.recipe import Recipe, parse_recipe, read_recipe
from app.training.recordings import HELD_OUT_SEED, SpeechBatches, SpeechCorpus
from app.training.start import read_start
from app.training.validation import Validation
from app.training.vocabulary import IMPORTED_FILE, TOKENIZER_FILES, Vocabulary, read_vocabulary

RECIPE_FILE = "recipe.toml"


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder: the recipe, the tokenizer, checkpoints, metrics, `curves.png` and TensorBoard's events."""

    folder: Path

    @property
    def tokenizer_path(self) -> Path:
        return self.folder / TOKENIZER_FILES["bpe" if self.is_imported else "sentencepiece"]

    @property
    def is_imported(self) -> bool:
        """Whether it started from a public model, and has its tokenizer."""
        return (self.folder / IMPORTED_FILE).exists()

    @property
    def recipe_path(self) -> Path:
        return self.folder / RECIPE_FILE

    def recipe(self) -> Recipe:
        return read_recipe(self.recipe_path)

    def vocabulary(self) -> Vocabulary:
        return read_vocabulary(self.folder, self.recipe().data.directions[0][1])

    def tokenizer(self) -> SentencePieceTokenizer:
        return SentencePieceTokenizer(self.tokenizer_path)

    def load_model(self, checkpoint_name: str = "best") -> Seq2Seq:
        """The weights of `best` or `last`, ready to evaluate or export."""
        content, _ = checkpoint.load(self.folder / "checkpoints" / f"{checkpoint_name}.pt")
        model = build_model(self.recipe().model, self.vocabulary().size)
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
    for section in ("model", "tokenizer", "data", "cleaning", "augmentation", "seed"):
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
        corpus = SpeechCorpus(recipe, data) if recipe.task == "transcribe" else Corpus(recipe, data)
        if place.is_first:
            for name, report in corpus.reports.items():
                console.print(name, report)
            _write_recipe(run, text, is_resumed=is_resumed)
            if start is not None:
                start.copy_files(run.folder)
            if not run.is_imported:
                prepare_tokenizer(recipe, corpus, run.tokenizer_path)
        if place.world_size > 1:
            torch.distributed.barrier()
        vocabulary = run.vocabulary()
        model = build_model(recipe.model, vocabulary.size)
        if start is not None:
            start.fill(model)
        # Processes that train together share the weights but not the dropout.
        torch.manual_seed(recipe.seed + place.rank)
        batches, held_out = _batches(recipe, corpus, vocabulary)
        trainer = Trainer(recipe, model, batches, Validation(held_out, recipe), folder, place)
        if is_resumed:
            trainer.resume()
        if place.is_first:
            console.print(_summary(recipe, model, trainer), highlight=False)
        return run, trainer.run()


def _batches(recipe: Recipe, corpus: Corpus | SpeechCorpus, vocabulary: Vocabulary) -> tuple[Batches, Batches]:
    """What is trained on, and what is held out."""
    if isinstance(corpus, SpeechCorpus):
        return _speech_batches(recipe, corpus, vocabulary)
    assert isinstance(vocabulary.tokenizer, SentencePieceTokenizer)
    return _text_batches(recipe, corpus, vocabulary.tokenizer)


def _text_batches(recipe: Recipe, corpus: Corpus, tokenizer: SentencePieceTokenizer) -> tuple[Batches, Batches]:
    options = recipe.training
    train = TextBatches(
        corpus.train,
        tokenizer,
        recipe.languages,
        batch_tokens=options.batch_tokens,
        max_length=options.max_length,
        seed=recipe.seed,
        sampling_alpha=recipe.tokenizer.sampling_alpha,
        truncate_sources=options.truncate_sources,
    )
    held_out = TextBatches(
        corpus.dev,
        tokenizer,
        recipe.languages,
        batch_tokens=options.batch_tokens,
        max_length=options.max_length if options.truncate_sources else recipe.model.max_length,
        seed=0,
        truncate_sources=options.truncate_sources,
    )
    return train, held_out


def _speech_batches(recipe: Recipe, corpus: SpeechCorpus, vocabulary: Vocabulary) -> tuple[Batches, Batches]:
    longest = min(recipe.training.max_length, recipe.model.max_length)
    train = SpeechBatches(corpus.train, vocabulary, recipe, max_length=longest, seed=recipe.seed, is_varied=True)
    held_out = SpeechBatches(
        corpus.dev, vocabulary, recipe, max_length=recipe.model.max_length, seed=HELD_OUT_SEED, is_varied=False
    )
    return train, held_out


def _summary(recipe: Recipe, model: Seq2Seq, trainer: Trainer) -> str:
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"{recipe.name}: {recipe.model.architecture}, {num_parameters:,} parameters, {len(trainer.batches):,} examples "
        f"({trainer.batches.num_too_long:,} too long), vocabulary {model.output.out_features:,}, "
        f"device {trainer.place.device}, {trainer.place.world_size} process(es), {torch.get_num_threads()} threads, "
        f"from step {trainer.progress.step} to {recipe.training.max_steps}"
    )


def step_model(model: Seq2Seq, vocabulary: Vocabulary, recipe: Recipe, device: str) -> TorchModel:
    """A trained model ready to be searched."""
    has_cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    return TorchModel(
        model.to("cuda" if has_cuda else "cpu"),
        bos_id=vocabulary.bos_id,
        eos_id=vocabulary.eos_id,
        pad_id=vocabulary.pad_id,
        max_target_length=recipe.model.max_length,
    )
