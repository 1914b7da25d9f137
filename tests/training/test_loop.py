from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from chiasm.data.errors import InputError
from chiasm.encoders.unet3d import UNet3d, UNet3dConfig
from chiasm.pipelines.training.loop import LOG, HowToRun, Outcome, train_network
from chiasm.pipelines.training.settings import Phase, TrainingSettings, read_settings

BLOCK = {
    "phases": [{"steps": 6, "patch": [8, 8, 8], "batch": 2}, {"steps": 4, "patch": [12, 8, 8]}],
    "learning_rate": 0.01,
    "warm_up_steps": 2,
    "ema": 0.5,
    "precision": "float32",
    "checkpoint_every": 3,
}


class Cubes:
    """A bright cube in noise; `kill_at` sends this process a SIGTERM when that sample is asked for."""

    def __init__(self, kill_at: int = -1, break_at: int = -1) -> None:
        self.kill_at, self.break_at, self.asked = kill_at, break_at, [0]

    def sample(self, index: int, phase: Phase) -> tuple[Tensor, Tensor]:
        if index == self.kill_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if index == self.break_at:
            raise KeyboardInterrupt
        self.asked.append(index)
        generator = torch.Generator().manual_seed(index)
        labels = torch.zeros(phase.patch, dtype=torch.int64)
        corner = int(torch.randint(0, 4, (1,), generator=generator))
        labels[corner : corner + 4, 2:6, 2:6] = 1
        return (labels + 0.5 * torch.randn(phase.patch, generator=generator))[None], labels


def settings(**more: object) -> TrainingSettings:
    return read_settings({**BLOCK, **more}, name="test")


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = UNet3d(UNet3dConfig(out_channels=2, channels=(4, 6), convolutions=(1, 1)))
    # Dropout draws from the global generator: a resumed run must meet the same draws.
    return nn.Sequential(layers, nn.Dropout(0.1))


def run(
    out: Path, source: Cubes | None = None, *, until: int | None = None, workers: int = 0, **more: object
) -> Outcome:
    out.mkdir(exist_ok=True)
    return train_network(
        network(), source or Cubes(), settings(**more), out, how=HowToRun(until=until, workers=workers)
    )


def curve(out: Path) -> list[tuple[int, float, float]]:
    lines = [json.loads(line) for line in (out / LOG).read_text().splitlines()]
    return [(line["step"], line["loss"], line["norm"]) for line in lines]


def same_weights(a: Outcome, b: Outcome) -> bool:
    pairs = zip(a.average.state_dict().values(), b.average.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    out = tmp_path_factory.mktemp("undisturbed")
    return out, run(out)


def test_training_lowers_the_loss_of_an_easy_task(tmp_path: Path) -> None:
    outcome = run(tmp_path, phases=[{"steps": 60, "patch": [12, 12, 12]}])
    losses = [loss for _, loss, _ in curve(tmp_path)]
    assert outcome.finished
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


@pytest.mark.parametrize("sample", [3, 8, 13])
def test_a_killed_run_goes_on_with_the_same_loss_curve_and_weights(
    tmp_path: Path, undisturbed: tuple[Path, Outcome], sample: int
) -> None:
    # A hard kill: whatever the log says beyond the last checkpoint is done again.
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Cubes(break_at=sample))
    outcome = run(tmp_path)
    assert curve(tmp_path) == curve(undisturbed[0])
    assert same_weights(outcome, undisturbed[1])


def test_sigterm_ends_the_step_saves_and_says_unfinished(tmp_path: Path, undisturbed: tuple[Path, Outcome]) -> None:
    outcome = run(tmp_path, Cubes(kill_at=9))
    assert (outcome.finished, outcome.step) == (False, 5)
    assert [step for step, *_ in curve(tmp_path)] == [1, 2, 3, 4, 5]
    assert same_weights(run(tmp_path), undisturbed[1])
    assert curve(tmp_path) == curve(undisturbed[0])
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_stopping_after_some_steps_changes_nothing(tmp_path: Path, undisturbed: tuple[Path, Outcome]) -> None:
    assert not run(tmp_path, until=4).finished
    assert same_weights(run(tmp_path), undisturbed[1])


def test_samples_made_ahead_are_the_same(tmp_path: Path, undisturbed: tuple[Path, Outcome]) -> None:
    source = Cubes()
    assert same_weights(run(tmp_path, source, workers=3), undisturbed[1])
    # None beyond the last: 6 steps of two, 4 of one.
    assert sorted(source.asked[1:]) == list(range(16))


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    run(tmp_path)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.iterdir() if path.name != LOG)
    source = Cubes()
    assert run(tmp_path, source).finished
    assert source.asked == [0]
    assert before == sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.iterdir() if path.name != LOG)


def test_one_checkpoint_is_kept(tmp_path: Path) -> None:
    run(tmp_path)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-0000010.safetensors"]


@pytest.mark.parametrize("change", [{"learning_rate": 0.02}, {"seed": 1}])
def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    run(tmp_path, until=3)
    with pytest.raises(InputError) as caught:
        run(tmp_path, **change)
    assert caught.value.code == "CHI-IN-130"


@pytest.mark.parametrize("damage", ["cut", "gone", "pointer"])
def test_a_damaged_checkpoint_is_a_coded_error(tmp_path: Path, damage: str) -> None:
    run(tmp_path, until=3)
    path = tmp_path / "checkpoint-0000003.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:500])
    elif damage == "gone":
        path.unlink()
    else:
        (tmp_path / "checkpoint.json").write_text("{")
    with pytest.raises(InputError) as caught:
        run(tmp_path)
    assert caught.value.code == "CHI-IN-131"


def test_the_average_follows_the_weights(tmp_path: Path) -> None:
    exact = run(tmp_path / "exact", ema=0.0)
    lagging = run(tmp_path / "lagging", ema=0.9)
    assert not same_weights(exact, lagging)
    assert all(torch.isfinite(value).all() for value in lagging.average.state_dict().values())


def test_a_step_without_a_finite_gradient_leaves_the_weights(tmp_path: Path) -> None:
    class Broken(Cubes):
        def sample(self, index: int, phase: Phase) -> tuple[Tensor, Tensor]:
            image, labels = super().sample(index, phase)
            return (image * float("nan") if index == 4 else image), labels

    outcome = run(tmp_path, Broken())
    assert all(torch.isfinite(value).all() for value in outcome.average.state_dict().values())


def test_validation_is_logged_when_due(tmp_path: Path) -> None:
    seen: list[int] = []

    def validate(average: nn.Module, step: int) -> dict[str, float]:
        assert not average.training
        seen.append(step)
        return {"dice": 0.5}

    train_network(network(), Cubes(), settings(validate_every=4), tmp_path, validate=validate)
    assert seen == [4, 8]
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [line["step"] for line in lines if "dice" in line] == [4, 8]
