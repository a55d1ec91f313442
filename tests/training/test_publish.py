"""The whole way of a user: train, publish, promote, evaluate, translate, roll back, with the real command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def seq2serve(*arguments: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_recipe_becomes_a_model_that_translates(recipe: Path, data: Path, tmp_path: Path) -> None:
    # A few sentences learned by heart: what is published must be sure of its answers.
    (data / "train.tsv").write_text((data / "dev.tsv").read_text())
    longer = recipe.with_name("longer.toml")
    text = recipe.read_text().replace("max_steps = 12", "max_steps = 150").replace("dropout = 0.1", "dropout = 0.0")
    longer.write_text(text.replace("evaluate_every = 6", "evaluate_every = 150").replace("sampling_alpha = 0.1", ""))
    store, run = tmp_path / "store", tmp_path / "run"

    trained = seq2serve("train", longer, "--data", data, "--output", run, "--device", "cpu", "--store", store)
    assert trained.returncode == 0, trained.stderr
    assert "parity:" in trained.stderr and "seq2serve promote small" in trained.stderr
    (version,) = (path.name for path in (store / "small" / "versions").iterdir())

    before = seq2serve("translate", "Good morning.", "--from", "en", "--to", "de", "--store", store)
    assert before.returncode == 1 and "no current model" in before.stderr
    assert seq2serve("promote", "small", version, "--store", store).returncode == 0
    listed = seq2serve("models", "--store", store)
    assert version in listed.stdout and "current" in listed.stdout
    assert seq2serve("verify", "--store", store).returncode == 0

    lines = "The house is big.\n\nA cat.\n:-)\n"
    translated = seq2serve("translate", "--from", "en", "--to", "de", "--store", store, text=lines)
    assert translated.returncode == 0, translated.stderr
    first, blank, second, smile = translated.stdout.split("\n")[:4]
    assert first and second and not blank and smile == ":-)"

    scores = tmp_path / "scores.json"
    for model in ("small", str(run)):
        evaluated = seq2serve("evaluate", model, "--data", data, "--store", store, "--output", scores)
        assert evaluated.returncode == 0, evaluated.stderr
        assert {record["direction"] for record in json.loads(scores.read_text())} == {"en-de", "de-en"}
        assert "BLEU" in evaluated.stderr and "version:" in evaluated.stderr

    nowhere = seq2serve("rollback", "small", "--store", store)
    assert nowhere.returncode == 1 and "Traceback" not in nowhere.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "nothing-here"], "nothing-here"),
        (["evaluate", "tiny-en-de", "--file", "x.tsv"], "--direction"),
        (["translate", "hello", "--from", "en", "--to", "xx"], "no current model"),
        (["export", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_command_says_what_is_wrong_in_a_line(tiny_store: Path, arguments: list[str], message: str) -> None:
    done = seq2serve(*arguments, "--store", tiny_store)
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
