"""The whole way of a user: train, publish, promote, evaluate, translate, roll back, with the real command."""

import json
import os
import re
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

    fast = ("export", run, "--data", data, "--store", store, "--version", "2", "--shortlist")
    alone = seq2serve(*fast)
    assert alone.returncode == 1 and "--keep-fast" in alone.stderr
    exported = seq2serve(*fast, "--keep-fast")
    assert exported.returncode == 0, exported.stderr
    assert re.search(r"int8-fast: encode .* shortlist", exported.stderr)
    assert seq2serve("promote", "small", "2", "--store", store).returncode == 0
    options = ("--from", "en", "--to", "de", "--store", store, "--variant")
    whole, cut = (seq2serve("translate", *options, variant, text=lines).stdout for variant in ("int8", "int8-fast"))
    assert cut == whole != ""


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


SUMMARIZER = """
name = "small-summary"
task = "summarize"
seed = 7

[data]
directions = [["en", "tldr"], ["en", "title"]]

[[data.train]]
files = ["papers.jsonl"]
languages = ["en", "title"]

[[data.train]]
files = ["papers.jsonl"]
languages = ["en", "tldr"]
objective = "gap-sentences"

[[data.dev]]
files = ["papers.jsonl"]
languages = ["en", "title"]

[[data.dev]]
files = ["papers.jsonl"]
languages = ["en", "tldr"]

[data.test.papers]
files = ["papers.jsonl"]
languages = ["en", "title"]

[cleaning]
max_length_ratio = 1000
match_case = true

[tokenizer]
kind = "bpe"
vocabulary_size = 300

[model]
architecture = "transformer"
width = 32
num_heads = 4
feed_forward_width = 48
encoder_layers = 1
decoder_layers = 1
copying = true
dropout = 0.0
max_length = 100

[optimization]
learning_rate = 5e-3
warmup_steps = 10

[training]
max_steps = 200
batch_tokens = 800
max_length = 60
truncate_sources = true
evaluate_every = 200
checkpoint_every = 100
metric = "rouge"
dev_sentences = 8

[search]
beam_size = 2
max_length = 24
no_repeat_ngram = 3
"""


def test_a_recipe_becomes_a_model_that_summarizes_and_may_be_trained_further(data: Path, tmp_path: Path) -> None:
    lines = [line.split("\t")[0] for line in (data / "dev.tsv").read_text().splitlines()[:12]]
    papers = [{"document": " ".join([*lines[i : i + 3], "It works."]), "summary": lines[i].title()} for i in range(8)]
    (data / "papers.jsonl").write_text("\n".join(map(json.dumps, papers)))
    recipe, store, run = tmp_path / "summary.toml", tmp_path / "store", tmp_path / "run"
    recipe.write_text(SUMMARIZER)

    trained = seq2serve(
        "train", recipe, "--data", data, "--output", run, "--device", "cpu", "--store", store, "--no-publish"
    )
    assert trained.returncode == 0, trained.stderr
    exported = seq2serve("export", run, "--data", data, "--store", store, "--version", "1", "--with-weights")
    assert exported.returncode == 0, exported.stderr
    assert "dev score" in exported.stderr and "ROUGE-L" in exported.stderr and "copied trigrams" in exported.stderr
    folder = store / "small-summary" / "versions" / "1"
    assert "ROUGE-1 / ROUGE-2 / ROUGE-L" in (folder / "README.md").read_text()
    assert seq2serve("promote", "small-summary", "1", "--store", store).returncode == 0

    (tmp_path / "notes").mkdir()
    for number, paper in enumerate(papers[:3]):
        (tmp_path / "notes" / f"{number}.txt").write_text(paper["document"])
    (tmp_path / "notes" / "binary.dat").write_bytes(b"\xff\xfe\x00")
    output = tmp_path / "summaries"
    many = seq2serve("summarize", tmp_path / "notes", "--kind", "title", "--store", store, "--output", output)
    assert many.returncode == 1
    assert "binary.dat: not UTF-8 text" in many.stderr and "1 of 4 documents" in many.stderr
    assert sorted(path.name for path in output.iterdir()) == [f"{number}.txt.summary.txt" for number in range(3)]
    one = seq2serve("summarize", "--store", store, "--json", text=papers[0]["document"])
    assert one.returncode == 0, one.stderr
    assert json.loads(one.stdout)["kind"] == "tldr"

    again = seq2serve("train", recipe, "--data", data, "--output", tmp_path / "again", "--from", folder, "--no-publish")
    assert again.returncode == 0, again.stderr
    first_loss = float(again.stderr.split("loss ")[1].split()[0])
    fresh_loss = float(trained.stderr.split("loss ")[1].split()[0])
    assert first_loss < 0.6 * fresh_loss
