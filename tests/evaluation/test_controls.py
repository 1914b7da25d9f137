"""The controls must be able to fail: chance is measured, cheating is caught, a guess passes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from chiasm.pipelines.evaluation.controls import Chance, chance_dice, negative_control, positive_control, threshold_dice


def blobs(n: int, seed: int) -> list[np.ndarray]:
    """Balls of radius 4 at places that cluster in one corner of a 20-voxel cube."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(20)] * 3, indexing="ij"), axis=-1)
    return [np.linalg.norm(grid - rng.normal(8, 2, 3), axis=-1) < 4 for _ in range(n)]


BRAINS = [np.ones((20, 20, 20), dtype=bool)] * 12


def chance() -> Chance:
    return chance_dice(blobs(20, 0), blobs(12, 1), BRAINS)


def test_the_best_guess_uses_where_tumours_are_often() -> None:
    found = chance()
    assert found.best == "where tumours are often"
    means = {name: values.mean() for name, values in found.guesses.items()}
    assert means["the whole brain"] < means["another patient's mask"] < means["where tumours are often"]


def test_the_guess_of_the_whole_brain_has_its_known_score() -> None:
    truth = blobs(12, 1)
    expected = [2 * t.sum() / (t.sum() + 8000) for t in truth]
    np.testing.assert_allclose(chance().guesses["the whole brain"], expected)


def test_a_prior_passes_the_negative_control_and_a_network_that_sees_does_not() -> None:
    found = chance()
    assert negative_control(found.guesses["another patient's mask"], found).passed
    assert negative_control(np.zeros(12), found).passed
    seeing = negative_control(found.values + np.linspace(0.05, 0.15, 12), found)
    assert not seeing.passed
    assert seeing.excess.mean == pytest.approx(0.1)


def test_the_positive_control_passes_at_its_bar_and_not_below() -> None:
    assert positive_control(np.array([0.7, 0.9]), 0.8).passed
    assert not positive_control(np.array([0.7, 0.89]), 0.8).passed


def test_a_cut_solves_bright_tumours_and_not_hidden_ones() -> None:
    train, test = blobs(6, 0), blobs(4, 1)
    noise = np.random.default_rng(2).normal(0, 0.1, (10, 20, 20, 20))
    bright = [mask + n for mask, n in zip([*train, *test], noise, strict=True)]
    assert threshold_dice(bright[:6], train, bright[6:], test)[1].min() > 0.99
    assert threshold_dice(list(noise[:6]), train, list(noise[6:]), test)[1].max() < 0.2


def test_nothing_to_guess_from_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 training"):
        chance_dice([], blobs(1, 0), BRAINS[:1])
    with pytest.raises(ValueError, match="2 held-out masks and 12 brains"):
        chance_dice(blobs(1, 0), blobs(2, 0), BRAINS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_tiny_swin_unetr_finds_phantom_tumours_and_permuted_labels_teach_it_nothing(
    tmp_path: Path, repository: Path
) -> None:
    spec = importlib.util.spec_from_file_location("controls_brats", repository / "benchmarks" / "controls_brats.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    report = benchmark.run(tmp_path, tmp_path / "out.json", n_training=32, n_held_out=12, n_seeds=1, steps=None)
    assert report["positive"]["passed"], report["positive"]
    assert report["negative"]["passed"], report["negative"]
