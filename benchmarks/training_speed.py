"""Question: does our trainer make as many training tokens a second as public toolkits at the same sizes?

Every contender takes the same batches of real sentence pairs through forward, label-smoothed loss, backward, clipping
and Adam, in windows that alternate within one run and one process. Run it with a Python that sees this package, and
Hugging Face transformers and JoeyNMT where they are to be compared (a missing one is reported as missing):

    SEQ2SERVE_DATA=... python -m benchmarks.training_speed --rounds 5 --window 20
"""

import argparse
import contextlib
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from app.models import build_model
from app.text.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from app.training.batching import Batch, TextBatches
from app.training.corpus import Corpus, prepare_tokenizer
from app.training.loop import Place, Trainer
from app.training.optimizer import learning_rate
from app.training.recipe import Optimization, Recipe
from app.training.validation import Validation
from benchmarks.record import machine, make_console, version_of, write_result

IGNORED_LABEL = -100
CPU = Place(torch.device("cpu"))


@dataclass
class Contender:
    """`step` trains on batch number i and gives the loss a target token, as its toolkit counts it."""

    name: str
    version: str
    num_parameters: int
    step: Callable[[int], float]
    tokens_per_s: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def make_recipe(arguments: argparse.Namespace) -> Recipe:
    pairs = {"languages": ["en", "de"]}
    return Recipe.model_validate(
        {
            "name": "training-speed",
            "data": {
                "directions": [["en", "de"]],
                "train": [pairs | {"files": ["translation/en-de/tatoeba.train.tsv.gz"]}],
                "dev": [pairs | {"files": ["translation/en-de/tatoeba.dev.tsv.gz"]}],
            },
            "tokenizer": {"vocabulary_size": arguments.vocabulary},
            # Marian knows post-norm only; the number of products is the same.
            "model": {
                "architecture": "transformer",
                "width": arguments.width,
                "num_heads": arguments.heads,
                "feed_forward_width": 4 * arguments.width,
                "encoder_layers": arguments.layers[0],
                "decoder_layers": arguments.layers[1],
                "norm": "post",
                "dropout": 0.1,
            },
            "optimization": {"learning_rate": 5e-4, "warmup_steps": 400},
            "training": {"max_steps": 100_000, "batch_tokens": arguments.batch_tokens, "max_length": 128},
        }
    )


def load_batches(recipe: Recipe, num_sentences: int, folder: Path) -> tuple[TextBatches, Validation]:
    corpus = Corpus(recipe, Path(os.environ["SEQ2SERVE_DATA"]))
    corpus.train = random.Random(1).sample(corpus.train, num_sentences)
    tokenizer = prepare_tokenizer(recipe, corpus, folder / "tokenizer.model")

    def batches(examples: list[Any]) -> TextBatches:
        return TextBatches(
            examples,
            tokenizer,
            recipe.languages,
            batch_tokens=recipe.training.batch_tokens,
            max_length=recipe.training.max_length,
            seed=1,
        )

    return batches(corpus.train), Validation(batches(corpus.dev), recipe)


def ours(recipe: Recipe, batches: TextBatches, validation: Validation, chosen: list[Batch], folder: Path) -> Contender:
    model = build_model(recipe.model, batches.tokenizer.vocabulary_size)
    trainer = Trainer(recipe, model, batches, validation, folder, CPU)
    return Contender(
        "seq2serve", version_of("seq2serve") or "here", count(model), lambda i: trainer._step([chosen[i]])[0]
    )


def update(model: torch.nn.Module, optimizer: torch.optim.Optimizer, options: Optimization, step: int) -> None:
    """What follows a toolkit's own backward pass, as our trainer does it."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm, foreach=True)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, options, 100_000, 1)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def adam(model: torch.nn.Module, options: Optimization) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=options.learning_rate, betas=options.betas, eps=1e-9, fused=True)


def marian(recipe: Recipe, vocabulary: int, chosen: list[Batch]) -> Contender:
    """Hugging Face's MarianMTModel with the label smoothing of its Trainer."""
    from transformers import MarianConfig, MarianMTModel
    from transformers.trainer_pt_utils import LabelSmoother

    sizes: Any = recipe.model
    model = MarianMTModel(
        MarianConfig(
            vocab_size=vocabulary,
            d_model=sizes.width,
            encoder_layers=sizes.encoder_layers,
            decoder_layers=sizes.decoder_layers,
            encoder_attention_heads=sizes.num_heads,
            decoder_attention_heads=sizes.num_heads,
            encoder_ffn_dim=sizes.feed_forward_width,
            decoder_ffn_dim=sizes.feed_forward_width,
            activation_function=sizes.activation,
            dropout=sizes.dropout,
            activation_dropout=sizes.dropout,
            attention_dropout=0.0,
            max_position_embeddings=sizes.max_length,
            scale_embedding=True,
            pad_token_id=PAD_ID,
            bos_token_id=BOS_ID,
            eos_token_id=EOS_ID,
            decoder_start_token_id=BOS_ID,
            forced_eos_token_id=EOS_ID,
        )
    ).train()
    options = recipe.optimization
    optimizer = adam(model, options)
    smoother = LabelSmoother(epsilon=options.label_smoothing, ignore_index=IGNORED_LABEL)
    inputs = [
        {
            "input_ids": batch.source,
            "attention_mask": (batch.source != PAD_ID).long(),
            "decoder_input_ids": batch.target,
            "use_cache": False,
        }
        for batch in chosen
    ]
    labels = [batch.gold.masked_fill(batch.gold == PAD_ID, IGNORED_LABEL) for batch in chosen]
    done = 0

    def step(i: int) -> float:
        nonlocal done
        done += 1
        loss = smoother(model(**inputs[i]), labels[i])
        loss.backward()
        update(model, optimizer, options, done)
        return float(loss.detach())

    attention = model.config._attn_implementation
    return Contender("transformers Marian", f"{version_of('transformers')} ({attention})", count(model), step)


def joeynmt(recipe: Recipe, vocabulary: int, chosen: list[Batch]) -> Contender:
    """JoeyNMT's Transformer with its own loss and batch, as its TrainManager calls them.

    It drops attention weights too, and its loss leaves out the entropy of the smoothed target, so that is lower.
    """
    from joeynmt.batch import Batch as JoeyBatch
    from joeynmt.model import build_model as build_joey_model
    from joeynmt.vocabulary import Vocabulary

    sizes: Any = recipe.model
    # JoeyNMT fixes the order of the special tokens: unknown before padding, ours the other way round.
    special = SimpleNamespace(
        unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>", sep_token=None, lang_tags=[],
        unk_id=PAD_ID, pad_id=UNK_ID, bos_id=BOS_ID, eos_id=EOS_ID,
    )  # fmt: skip
    pieces = Vocabulary([f"piece{i}" for i in range(vocabulary - 4)], special)
    side = {
        "type": "transformer",
        "num_heads": sizes.num_heads,
        "hidden_size": sizes.width,
        "ff_size": sizes.feed_forward_width,
        "dropout": sizes.dropout,
        "layer_norm": "post",
        "embeddings": {"embedding_dim": sizes.width, "scale": True, "dropout": sizes.dropout},
    }
    model = build_joey_model(
        {
            "tied_embeddings": True,
            "tied_softmax": True,
            "encoder": side | {"num_layers": sizes.encoder_layers},
            "decoder": side | {"num_layers": sizes.decoder_layers},
        },
        pieces,
        pieces,
    ).train()
    options = recipe.optimization
    model.loss_function = ("crossentropy", options.label_smoothing)
    optimizer = adam(model, options)

    def renumber(ids: torch.Tensor) -> torch.Tensor:
        return torch.where(ids == PAD_ID, UNK_ID, torch.where(ids == UNK_ID, PAD_ID, ids))

    def joey_batch(batch: Batch) -> Any:
        target = torch.cat([batch.target[:, :1], batch.gold], dim=1)
        rows = torch.arange(len(target))
        return JoeyBatch(
            renumber(batch.source), batch.lengths, None, renumber(target), None, rows, CPU.device, UNK_ID, EOS_ID
        )

    prepared = [joey_batch(batch) for batch in chosen]
    done = 0

    def step(i: int) -> float:
        nonlocal done
        done += 1
        batch = prepared[i]
        batch.sort_by_src_length()
        summed, _, _, _ = model(return_type="loss", **vars(batch))
        loss = batch.normalize(summed, normalization="tokens")
        loss.backward()
        update(model, optimizer, options, done)
        return float(loss.detach())

    return Contender("JoeyNMT", version_of("joeynmt") or "", count(model), step)


def count(model: torch.nn.Module) -> int:
    """Parameters that are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def run_window(contender: Contender, numbers: range, chosen: list[Batch]) -> None:
    started = time.perf_counter()
    losses = [contender.step(i) for i in numbers]
    seconds = time.perf_counter() - started
    contender.tokens_per_s.append(sum(chosen[i].num_tokens for i in numbers) / seconds)
    contender.losses.append(statistics.fmean(losses))


def find_contenders(
    recipe: Recipe, batches: TextBatches, validation: Validation, chosen: list[Batch], folder: Path
) -> tuple[list[Contender], dict[str, str]]:
    contenders, missing = [ours(recipe, batches, validation, chosen, folder)], {}
    for build in (marian, joeynmt):
        torch.manual_seed(1)
        try:
            contenders.append(build(recipe, batches.tokenizer.vocabulary_size, chosen))
        except ImportError as error:
            missing[build.__name__] = f"missing: {error}"
    return contenders, missing


def ratio(contender: Contender, base: Contender) -> float:
    """The median over rounds of its speed by that of `base` in the same round."""
    return statistics.median(a / b for a, b in zip(contender.tokens_per_s, base.tokens_per_s, strict=True))


def report(contenders: list[Contender], missing: dict[str, str], console: Console) -> None:
    table = Table(title="Training speed (real source and target tokens a second)", title_justify="left")
    for heading in ("trainer", "version", "parameters", "median", "range", "ratio", "last loss"):
        table.add_column(heading, justify="left" if heading in ("trainer", "version") else "right")
    for each in contenders:
        speeds, median = each.tokens_per_s, statistics.median(each.tokens_per_s)
        figures = [f"{median:,.0f}", f"{min(speeds):,.0f}-{max(speeds):,.0f}", f"{ratio(each, contenders[0]):.2f}"]
        table.add_row(each.name, each.version, f"{each.num_parameters:,}", *figures, f"{each.losses[-1]:.3f}")
    for name, reason in missing.items():
        table.add_row(name, reason)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs=2, default=[4, 1], help="encoder and decoder layers")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--batch-tokens", type=int, default=3000)
    parser.add_argument("--sentences", type=int, default=40_000, help="pairs to draw batches and pieces from")
    parser.add_argument("--rounds", type=int, default=5, help="windows of each trainer")
    parser.add_argument("--window", type=int, default=20, help="batches a window")
    parser.add_argument("--warmup", type=int, default=3, help="batches before the first window")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--name", default="training_speed", help="of the result file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    console, at_start = make_console(), machine()
    recipe = make_recipe(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        batches, validation = load_batches(recipe, arguments.sentences, folder)
        needed = arguments.warmup + arguments.rounds * arguments.window
        with contextlib.closing(batches.epoch(0)) as epoch:
            chosen = [batch for (_, batch), _ in zip(epoch, range(needed), strict=False)]
        if len(chosen) < needed:
            parser.error(f"{arguments.sentences} sentences make {len(chosen)} batches, {needed} are needed")
        contenders, missing = find_contenders(recipe, batches, validation, chosen, folder)
        for contender in contenders:
            for i in range(arguments.warmup):
                contender.step(i)
        for number in track(range(arguments.rounds), "rounds", console=console):
            start = arguments.warmup + number * arguments.window
            # Each trainer is first, second, ... in turn: a busy moment hits all alike.
            turn = number % len(contenders)
            for contender in contenders[turn:] + contenders[:turn]:
                run_window(contender, range(start, start + arguments.window), chosen)
        report(contenders, missing, console)
        path = write_result(
            arguments.name,
            {
                "question": "training tokens a second at the same sizes and batches, alternating windows of one run",
                "machine_at_start": at_start,
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "model": recipe.model.model_dump(),
                "vocabulary_size": batches.tokenizer.vocabulary_size,
                "batch_tokens": arguments.batch_tokens,
                "batches_a_window": arguments.window,
                "mean_real_tokens_a_batch": round(statistics.fmean(batch.num_tokens for batch in chosen)),
                "trainers": [
                    {
                        "name": each.name,
                        "version": each.version,
                        "num_parameters": each.num_parameters,
                        "median_tokens_per_s": round(statistics.median(each.tokens_per_s), 1),
                        "ratio_to_ours": round(ratio(each, contenders[0]), 3),
                        "tokens_per_s": [round(speed, 1) for speed in each.tokens_per_s],
                        "loss_nats_a_target_token": [round(loss, 4) for loss in each.losses],
                    }
                    for each in contenders
                ],
                "missing": missing,
            },
        )
    console.print(f"written: {path.name}")


if __name__ == "__main__":
    main()
