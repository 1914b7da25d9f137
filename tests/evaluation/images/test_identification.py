"""Two-way identification against a count of single comparisons."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chiasm.pipelines.evaluation.images.identification import correlations, row_correlation, two_way


def counted(table: np.ndarray, rule: str) -> np.ndarray:
    n = len(table)
    wins = np.zeros(n, dtype=int)
    for j in range(n):
        for i in range(n):
            other = table[i, j] if rule == "columns" else table[j, i]
            wins[j] += i != j and other < table[j, j]
    return wins


@pytest.mark.parametrize("rule", ["columns", "rows"])
def test_every_comparison_is_counted(rule: str) -> None:
    table = np.random.default_rng(0).standard_normal((9, 9)) + np.eye(9)
    found = two_way(table, rule=rule)
    assert found.wins.tolist() == counted(table, rule).tolist()
    assert found.score == pytest.approx(counted(table, rule).mean() / 8)
    assert found.tie_share == 0


def test_the_two_rules_differ() -> None:
    """One reconstruction like everything: by columns it alone fails, by rows every image fails against it."""
    table = np.array([[0.5, 0.1, 0.9], [0.1, 0.5, 0.9], [0.1, 0.1, 0.8]])
    assert two_way(table).wins.tolist() == [2, 2, 0]
    assert two_way(table, rule="rows").wins.tolist() == [1, 1, 2]


def test_ties_are_lost_and_counted() -> None:
    found = two_way(np.zeros((5, 5)))
    assert found.score == 0
    assert found.tie_share == 1
    assert found.per_image_with_ties.tolist() == [0.5] * 5


def test_permuted_pairs_take_another_image_for_their_own() -> None:
    rng = np.random.default_rng(0)
    real, made = (torch.tensor(rng.standard_normal((6, 30)), dtype=torch.float32) for _ in range(2))
    partner = np.array([1, 2, 3, 4, 5, 0])
    for rule in ("columns", "rows"):
        direct = two_way(correlations(real[partner], made), rule=rule)
        assert two_way(correlations(real, made), rule=rule, partner=partner).wins.tolist() == direct.wins.tolist()


def test_unrelated_features_are_at_chance_and_related_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    real = torch.tensor(rng.standard_normal((200, 50)), dtype=torch.float32)
    noise = torch.tensor(rng.standard_normal((200, 50)), dtype=torch.float32)
    assert two_way(correlations(real, noise)).score == pytest.approx(0.5, abs=0.05)
    assert two_way(correlations(real, real + noise)).score > 0.99


def test_correlations_are_numpys_also_far_from_zero_and_in_slices() -> None:
    rng = np.random.default_rng(0)
    a = (rng.standard_normal((4, 10_000)) + 5).astype("f4")
    b = (0.5 * a[:3] + rng.standard_normal((3, 10_000))).astype("f4")
    expected = np.corrcoef(a, b)[:4, 4:]
    assert correlations(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, abs=1e-9)


def test_a_constant_reconstruction_is_like_nothing() -> None:
    real = torch.arange(12.0).reshape(3, 4) ** 2
    assert correlations(real, torch.full((3, 4), 0.1)).tolist() == [[0.0] * 3] * 3
    assert row_correlation(torch.zeros(1, 5), torch.arange(5.0)[None]).tolist() == [0.0]
    assert row_correlation(real, real * 2 + 1) == pytest.approx(1)


def test_one_pair_cannot_be_compared() -> None:
    for table in (np.zeros((1, 1)), np.zeros((3, 2))):
        with pytest.raises(ValueError, match="at least 2 images"):
            two_way(table)
