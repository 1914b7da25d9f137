"""Retrieval in pools: known ranks, both directions, draws that differ and repeat."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chiasm.pipelines.evaluation.images.retrieval import cosines, retrieval


def test_the_right_tokens_are_always_found_and_noise_is_at_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(500, 4, 16, generator=generator)
    perfect = retrieval(3 * images, images)
    assert [(s.direction, s.value, s.pool, len(s.per_draw)) for s in perfect] == [
        ("brain-to-image", 1.0, 300, 30),
        ("image-to-brain", 1.0, 300, 30),
    ]
    for score in retrieval(torch.randn(500, 4, 16, generator=generator), images, top=(1, 30)):
        assert score.chance == score.top / 300
        assert score.value == pytest.approx(score.chance, abs=0.05)


def test_the_two_directions_differ() -> None:
    """Brain 1 is like image 0 and little like its own: image 1 still finds its brain."""
    images = torch.eye(3)
    brain = torch.tensor([[1.0, 0, 0], [0.9, 0.4, 0], [0, 0, 1]])
    there, back = retrieval(brain, images, pool=3)
    assert there.value == pytest.approx(2 / 3)
    assert back.value == 1
    assert retrieval(brain, images, pool=3, top=(2,))[0].value == 1


def test_a_candidate_as_similar_as_the_right_one_counts_against_it() -> None:
    images = torch.tensor([[1.0, 0], [1.0, 0], [0, 1.0]])
    assert retrieval(images, images, pool=3)[0].value == pytest.approx(1 / 3)
    assert retrieval(torch.zeros(3, 2), images, pool=3)[0].value == 0


def test_a_small_set_is_one_pool_and_says_so() -> None:
    tokens = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    score = retrieval(tokens, tokens)[0]
    assert (score.pool, len(score.per_draw), score.note) == (
        20,
        1,
        "only 20 images: all of them in one pool, not 30 pools of 300",
    )
    assert score.chance == pytest.approx(0.05)
    assert all(np.isnan(score.interval))
    assert retrieval(tokens, tokens, pool=20)[0].note == ""


def test_draws_are_independent_seeded_and_averaged() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(60, 8, generator=generator)
    brain = images + 1.5 * torch.randn(60, 8, generator=generator)
    first, again, other = (retrieval(brain, images, pool=20, seed=seed)[0] for seed in (1, 1, 2))
    assert first.per_draw.tolist() == again.per_draw.tolist() != other.per_draw.tolist()
    assert first.per_draw.std() > 0
    low, high = first.interval
    half = 1.96 * first.per_draw.std(ddof=1) / 30**0.5
    assert (low, high) == pytest.approx((first.value - half, first.value + half), abs=1e-4)
    # A draw by hand: the pool's own table.
    chosen = np.random.default_rng(1).choice(60, 20, replace=False)
    table = cosines(brain, images)[np.ix_(chosen, chosen)]
    assert first.per_draw[0] == pytest.approx((table.argmax(1) == np.arange(20)).mean())


def test_tokens_must_fit() -> None:
    with pytest.raises(ValueError, match="one size"):
        retrieval(torch.ones(3, 2), torch.ones(3, 4))
    with pytest.raises(ValueError, match="as many brain tokens"):
        retrieval(torch.ones(3, 2), torch.ones(4, 2))
