"""Question: what do int8 and int8-fast cost in quality, and does an answer depend on its neighbours?

1. BLEU of every variant on test sets of the recipe, the same lines and search.
2. `--neighbours` lines, each alone and all together in a random order: how many get the same ids, and how far their
   log-probabilities are apart.

    SEQ2SERVE_DATA=... python -m benchmarks.quality --run runs/translate-en-de
"""

import argparse
import random
import tempfile
from pathlib import Path
from typing import Any

from rich.progress import Progress
from rich.table import Table

from app.commands.loading import open_run
from app.decoding.interface import Hypothesis, SearchOptions, Source
from app.decoding.running import generate
from app.engine.model import OnnxModel
from app.evaluation.evaluate import evaluate
from app.store.manifest import VariantName
from benchmarks.record import machine, make_console, settings_of, write_result
from benchmarks.subjects import exported, of_run, test_set

VARIANTS: tuple[VariantName, ...] = ("fp32", "int8", "int8-fast")


def found(model: OnnxModel, sources: list[Source], beam_size: int) -> list[Hypothesis]:
    options = [SearchOptions(max_length=2 * len(source) + 16, beam_size=beam_size) for source in sources]
    return [best[0] for best in generate(model, sources, options, max_rows=len(sources) * beam_size)]


def same_alone(model: OnnxModel, sources: list[Source], beam_size: int) -> dict[str, float]:
    """Of the sources' hypotheses alone and among all others: how many have the same ids, and the largest difference
    of their log-probabilities, in nats."""
    together = found(model, sources, beam_size)
    alone = [found(model, [source], beam_size)[0] for source in sources]
    pairs = list(zip(alone, together, strict=True))
    return {
        "same_ids": sum(a.ids == b.ids for a, b in pairs) / len(pairs),
        "largest_difference": max(abs(a.log_prob - b.log_prob) for a, b in pairs if a.ids == b.ids),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run's folder with trained weights")
    parser.add_argument("--sets", nargs="+", default=["tatoeba", "newstest2013"])
    parser.add_argument("--source", default="en")
    parser.add_argument("--lines", type=int, default=2000, help="of every set, at most")
    parser.add_argument("--neighbours", type=int, default=200)
    parser.add_argument("--beam-size", type=int, default=4)
    parser.add_argument("--name", default="quality", help="of the result file")
    arguments = parser.parse_args()
    console, at_start, beam_size = make_console(), machine(), arguments.beam_size
    opened = open_run(arguments.run, "cpu")
    sets = [test_set(opened, name, arguments.source, arguments.lines) for name in arguments.sets]
    every = [source for _, sources in sets for source in sources]
    mixed = random.Random(1).sample(every, arguments.neighbours)
    subject = of_run(arguments.run, opened, every)
    records: dict[str, dict[str, Any]] = {}
    table = Table("variant", *(f"BLEU {test.name}" for test, _ in sets), "same ids alone, greedy", f"beam {beam_size}")
    with tempfile.TemporaryDirectory() as folder, Progress(console=console, transient=True) as progress:
        for variant in progress.track(VARIANTS, description="variants"):
            model = exported(subject, variant, Path(folder) / "ours")
            scores = {}
            for test, sources in sets:
                evaluation = evaluate(
                    "translate",
                    model,
                    sources,
                    test.references,
                    opened.tokenizer.decode,
                    search=opened.recipe.search.model_dump() | {"beam_size": beam_size},
                )
                scores[test.name] = round(evaluation.scores[0].value, 2)
            same = {f"beam {width}": same_alone(model, mixed, width) for width in (1, beam_size)}
            records[variant] = {"bleu": scores, "same_alone_and_among_neighbours": same}
            table.add_row(
                variant,
                *(f"{score:.2f}" for score in scores.values()),
                *(f"{each['same_ids']:.1%}" for each in same.values()),
            )
    console.print(table)
    path = write_result(
        arguments.name,
        {
            "question": "quality of the variants, and whether an answer depends on its neighbours",
            "machine_at_start": at_start,
            "settings": settings_of(arguments),
            "variants": records,
        },
    )
    console.print(f"written: {path.name}")


if __name__ == "__main__":
    main()
