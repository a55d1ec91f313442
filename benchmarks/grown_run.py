"""A run's Transformer twice as wide and as deep as a Marian model, which translates exactly as it does:

    python -m benchmarks.grown_run runs/translate-en-de runs/translate-en-de-base

So engines and services are compared on a model of ordinary size with real translations of real lengths, which random
weights do not have. Widths are doubled and layers added such that the function stays the same (Chen et al. 2016,
"Net2Net"): every feature stands there twice, and added layers add zero.
"""

import argparse
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from app.models import build_model
from app.models.transformer import Transformer, TransformerConfig
from app.training import checkpoint
from app.training.checkpoint import Progress
from app.training.run import RECIPE_FILE, Run
from benchmarks.subjects import run_model

ENCODER_LAYERS = DECODER_LAYERS = 6
_PARTS = {"query_key_value": 3, "key_value": 2}


def grown(model: Transformer, config: TransformerConfig) -> Transformer:
    """`model` in the larger sizes of `config`."""
    assert model.config.norm == "pre", "what an added layer adds would be normalized"
    large = build_model(config, model.output.out_features)
    assert isinstance(large, Transformer)
    small = model.state_dict() | {"position_table": model.position_table}
    with torch.no_grad():
        for name, parameter in large.named_parameters():
            parameter.copy_(_grown(name, small))
    return large.eval()


def _grown(name: str, small: dict[str, Tensor]) -> Tensor:
    """A parameter of the large model."""
    if name not in small:  # of an added layer: as the first one, but with an answer of zero
        first = re.sub(r"layers\.\d+\.", "layers.0.", name)
        adds = re.search(r"(attention\.output|feed_forward\.down)\.(weight|bias)$", name)
        return _grown(first, small) * (0.0 if adds else 1.0)
    value = small[name]
    if name in ("embedding.weight", "output.weight"):
        # The larger model multiplies embeddings by the root of twice the width, and as the projection sums twice.
        return torch.cat([value, value], dim=1) / math.sqrt(2)
    if name == "output.bias":
        return value
    if name == "position_table":
        return torch.cat([value, value], dim=1)
    if name.startswith("decoder_norm"):
        return torch.cat([value, value]) / math.sqrt(2)
    parts = next((count for part, count in _PARTS.items() if f".{part}." in name), 1)
    value = torch.cat([half for part in value.chunk(parts) for half in (part, part)])
    return torch.cat([value, value], dim=1) / 2 if value.ndim == 2 else value


def write_run(origin: Path, folder: Path, test_sets: Sequence[str]) -> None:
    """`test_sets` of the recipe are those that stay in it: an export scores all that it finds."""
    run = Run(origin)
    recipe, model = run.recipe(), run_model(origin)
    sizes = {
        "width": 2 * model.config.width,
        "num_heads": 2 * model.config.num_heads,
        "feed_forward_width": 2 * model.config.feed_forward_width,
        "encoder_layers": ENCODER_LAYERS,
        "decoder_layers": DECODER_LAYERS,
    }
    assert isinstance(recipe.model, TransformerConfig)
    config = recipe.model.model_copy(update=sizes | {"positions": "learned"})
    large = grown(model, config)
    folder.mkdir(parents=True)
    sections = run.recipe_path.read_text("utf-8").split("\n\n")
    left_out = tuple(f"[data.test.{name}]" for name in recipe.data.test if name not in test_sets)
    text = "\n\n".join(section for section in sections if not section.startswith(left_out))
    for name, size in sizes.items():
        text = re.sub(rf"(?m)^{name} = .*$", f"{name} = {size}", text)
    text = re.sub(r'(?m)^name = "(.*)"$', r'name = "\1-base"', text, count=1)
    text = text.replace("[model]\n", '[model]\npositions = "learned"\n')
    (folder / RECIPE_FILE).write_text(text, "utf-8")
    shutil.copyfile(run.tokenizer_path, folder / run.tokenizer_path.name)
    checkpoint.save(folder / "checkpoints" / "best.pt", {"model": large.state_dict()}, Progress())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run to begin with")
    parser.add_argument("folder", type=Path, help="the new run's folder, which must not be there yet")
    parser.add_argument("--tests", nargs="+", default=["tatoeba"], help="test sets of the run's recipe that it keeps")
    arguments = parser.parse_args()
    write_run(arguments.run, arguments.folder, arguments.tests)


if __name__ == "__main__":
    main()
