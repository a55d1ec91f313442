"""The model card of an artifact: what it was trained on, how well it does, and what not to use it for."""

from collections.abc import Mapping
from typing import Any

from app.training.recipe import Recipe


def model_card(recipe: Recipe, evaluation: Mapping[str, Any]) -> str:
    """The card as Markdown. `evaluation` is what evaluation.json holds: `test` has records by variant."""
    directions = ", ".join(
        source if source == target else f"{source} to {target}" for source, target in recipe.data.directions
    )
    corpora = "\n".join(f"- `{file}`" for text in recipe.data.train for file in text.files)
    return f"""# {recipe.name}

{recipe.description}

- Task: {recipe.task}, {directions}
- Architecture: {recipe.model.architecture}; the whole recipe is in `recipe.toml`
- Licence of the weights: {recipe.licence or "not stated in the recipe"}

## Trained on
{corpora}

## Measured
{_score_table(evaluation.get("test", {}))}

Beam {recipe.search.beam_size}; signatures and intervals are in `evaluation.json`. Held-out sets that come from the same
collection as the training data flatter a model; sets from elsewhere (news, encyclopedia) show what to expect of it on
other text.

## Limits
{recipe.limits or "None stated in the recipe."}
"""


def _score_table(tests: Mapping[str, list[dict[str, Any]]]) -> str:
    variants = list(tests)
    if not variants:
        return "No test set in the recipe."
    names = " / ".join(score["name"] for score in tests[variants[0]][0]["scores"])
    has_lead = "lead" in tests[variants[0]][0]
    columns = [f"{variant}: {names}" for variant in variants] + ["lead baseline"] * has_lead
    rows = [f"| test set | direction | texts | {' | '.join(columns)} |", "|---" * (3 + len(columns)) + "|"]
    for position, record in enumerate(tests[variants[0]]):
        cells = [_values(tests[variant][position]["scores"]) for variant in variants]
        cells += [_values(record["lead"])] if has_lead else []
        rows.append(f"| {record['set']} | {record['direction']} | {record['sentences']} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _values(scores: list[dict[str, Any]]) -> str:
    return " / ".join(f"{score['value']:.1f}" for score in scores)
