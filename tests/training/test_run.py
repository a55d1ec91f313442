"""Real runs: they learn, resume to the bit, stop when asked and say why they stop."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from app.errors import RecipeError, TrainingError
from app.training import checkpoint
from app.training.loop import Trainer
from app.training.optimizer import learning_rate
from app.training.progress import read_metrics
from app.training.recipe import Optimization, Recipe, read_recipe
from app.training.run import Run, train
from app.training.start import read_start
from tests.training.resuming import assert_resume_equals_no_stop

ROOT = Path(__file__).parents[2]


def edited(recipe: Path, *changes: tuple[str, str]) -> Path:
    text = recipe.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = recipe.with_name("edited.toml")
    path.write_text(text)
    return path


def test_a_run_learns_and_leaves_curves_tokenizer_and_best_weights(recipe: Path, data: Path, tmp_path: Path) -> None:
    run, reason = train(edited(recipe, ("max_steps = 12", "max_steps = 60")), data, tmp_path / "run", device="cpu")
    losses = [loss for _, loss in read_metrics(run.folder)["train/loss"]]
    assert reason == "finished" and losses[-1] < losses[0] - 1
    assert {"dev/loss", "dev/bleu", "dev/chrf"} <= read_metrics(run.folder).keys()
    assert (run.folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert run.load_model("best").output.out_features == run.tokenizer().vocabulary_size


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop"])
def test_resume_equals_no_stop_to_the_bit(recipe: Path, data: Path, tmp_path: Path, optimizer: str) -> None:
    whole = edited(
        recipe, ("learning_rate = 5e-3", f'learning_rate = 2e-3\noptimizer = "{optimizer}"\naccumulation = 2')
    )
    assert_resume_equals_no_stop(whole, data, tmp_path)


def test_resume_refuses_another_model(recipe: Path, data: Path, tmp_path: Path) -> None:
    train(recipe, data, tmp_path / "run", device="cpu")
    with pytest.raises(RecipeError, match=r"\[model\] changed"):
        train(edited(recipe, ("width = 32", "width = 64")), data, tmp_path / "run", device="cpu", is_resumed=True)


def test_a_folder_with_a_run_is_not_overwritten(recipe: Path, data: Path, tmp_path: Path) -> None:
    train(recipe, data, tmp_path / "run", device="cpu")
    with pytest.raises(TrainingError, match="--resume"):
        train(recipe, data, tmp_path / "run", device="cpu")


def test_early_stopping_ends_a_run_that_gains_nothing(recipe: Path, data: Path, tmp_path: Path) -> None:
    stuck = edited(
        recipe, ("learning_rate = 5e-3", "learning_rate = 1e-12"), ("max_steps = 12", "max_steps = 100\npatience = 2")
    )
    run, reason = train(stuck, data, tmp_path / "run", device="cpu")
    assert reason == "early stopping"
    assert checkpoint.load(run.folder / "checkpoints" / "last.pt")[1].step == 18


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_way_out(
    recipe: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"the loss became .* at step \d+ .*lower optimization.learning_rate"):
        train(
            edited(recipe, ("learning_rate = 5e-3", "learning_rate = 1e30"), ("warmup_steps = 10", "warmup_steps = 0")),
            data,
            tmp_path / "run",
            device="cpu",
        )


def test_divergence_stops_with_both_losses() -> None:
    trainer = Trainer.__new__(Trainer)
    trainer.progress = checkpoint.Progress()
    for loss in (5.0, 4.0, 3.0):
        trainer._check_divergence(loss)
    with pytest.raises(TrainingError, match="training diverges"):
        for _ in range(9):
            trainer._check_divergence(9.0)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match=r"last\.pt: not a readable checkpoint"):
        checkpoint.load(path)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "app.cli", "train", *map(str, arguments), "--device", "cpu", "--no-publish"]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_sigterm_saves_and_exits_and_the_run_can_go_on(recipe: Path, data: Path, tmp_path: Path) -> None:
    endless = edited(recipe, ("max_steps = 12", "max_steps = 100000"))
    arguments = command(endless, "--data", data, "--output", tmp_path / "run")
    with subprocess.Popen(arguments, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "run" / "checkpoints" / "last.pt").exists():
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "--resume" in errors
    found = re.search(r"interrupted at step (\d+)", errors)
    assert found
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")[1].step == int(found[1])


@pytest.mark.slow
def test_two_processes_train_one_model(recipe: Path, data: Path, tmp_path: Path) -> None:
    arguments = command(recipe, "--data", data, "--output", tmp_path / "run")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, *arguments[1:]], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "2 process(es)" in done.stderr
    _, progress = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")
    assert progress.step == 12
    assert Run(tmp_path / "run").load_model().output.out_features > 100


def test_a_wrong_recipe_is_one_line_and_exit_code_1(recipe: Path, data: Path, tmp_path: Path) -> None:
    wrong = edited(recipe, ("max_steps", "max_step"))
    done = subprocess.run(
        command(wrong, "--data", data, "--output", tmp_path / "run"),
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "did you mean" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_schedules_have_their_published_shapes() -> None:
    def rate(schedule: str, step: int) -> float:
        options = Optimization.model_validate({"schedule": schedule, "warmup_steps": 100, "learning_rate": 1.0})
        return learning_rate(step, options, max_steps=1100, width=256)

    for schedule in ("inverse_sqrt", "cosine", "constant"):
        assert rate(schedule, 50) == pytest.approx(0.5)
        assert rate(schedule, 100) == pytest.approx(1.0)
    assert rate("inverse_sqrt", 400) == pytest.approx(0.5)
    assert rate("cosine", 600) == pytest.approx(0.5) and rate("cosine", 1100) == pytest.approx(0.0)
    assert rate("constant", 1000) == 1.0
    assert rate("noam", 100) == pytest.approx(256**-0.5 * 0.1) and rate("noam", 400) == pytest.approx(256**-0.5 / 20)


def test_the_recipe_of_a_run_is_kept_in_its_folder(recipe: Path, data: Path, tmp_path: Path) -> None:
    run, _ = train(recipe, data, tmp_path / "run", device="cpu")
    assert isinstance(run.recipe(), Recipe) and run.recipe() == read_recipe(recipe)


def test_a_run_starts_from_another_with_its_tokenizer(recipe: Path, data: Path, tmp_path: Path) -> None:
    first, _ = train(recipe, data, tmp_path / "first", device="cpu")
    still = edited(
        recipe, ("learning_rate = 5e-3", "learning_rate = 1e-12"), ("vocabulary_size = 300", "vocabulary_size = 200")
    )
    second, _ = train(still, data, tmp_path / "second", device="cpu", start_from=first.folder)
    assert second.tokenizer_path.read_bytes() == first.tokenizer_path.read_bytes()
    before, after = (run.load_model().state_dict() for run in (first, second))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


def test_a_start_that_does_not_fit_is_told(recipe: Path, data: Path, tmp_path: Path, tiny_store: Path) -> None:
    first, _ = train(recipe, data, tmp_path / "first", device="cpu")
    wider = edited(recipe, ("width = 32", "width = 64"))
    with pytest.raises(TrainingError, match="do not fit the recipe's model"):
        train(wider, data, tmp_path / "second", device="cpu", start_from=first.folder)
    with pytest.raises(TrainingError, match="published without its weights; export it with --with-weights"):
        read_start(tiny_store / "tiny-en-de" / "versions" / "1")
