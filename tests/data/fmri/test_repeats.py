"""Each policy weighs the repeats as it says, and padding never counts as a trial."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.data.fmri.repeats import POLICIES, each_trial, repeat_weights, samples
from chiasm.data.fmri.trials import ImageTrials, Trials, by_image

ALL = np.arange(3)


def images() -> ImageTrials:
    """Image 5 shown three times, 6 once, 9 twice."""
    image = np.array([5, 9, 5, 6, 5, 9])
    return by_image(
        Trials(
            row=np.arange(10, 16),
            image=image,
            session=np.array([1, 1, 1, 2, 2, 2]),
            repeat=np.array([0, 0, 1, 0, 2, 1]),
            split=np.zeros(6, np.int8),
        )
    )


def test_padding_is_told_apart() -> None:
    grouped = images()
    np.testing.assert_array_equal(grouped.rows, [[10, 12, 14], [13, 13, 13], [11, 15, 11]])
    np.testing.assert_array_equal(grouped.n_repeats, [3, 1, 2])


def test_mean_first_cycle() -> None:
    third = 1 / 3
    np.testing.assert_allclose(
        repeat_weights(images(), ALL, "mean"), [[third] * 3, [1, 0, 0], [0.5, 0.5, 0]], rtol=1e-6
    )
    np.testing.assert_array_equal(repeat_weights(images(), ALL, "first"), [[1, 0, 0]] * 3)
    taken = [repeat_weights(images(), ALL, "cycle", iteration=i).argmax(axis=1).tolist() for i in range(7)]
    assert taken == [[0, 0, 0], [1, 0, 1], [2, 0, 0], [0, 0, 1], [1, 0, 0], [2, 0, 1], [0, 0, 0]]


def test_single_takes_every_trial_once() -> None:
    each = each_trial(images())
    assert sorted(each.rows[:, 0].tolist()) == [10, 11, 12, 13, 14, 15]
    assert dict(zip(each.rows[:, 0].tolist(), each.image.tolist(), strict=True)) == {
        10: 5, 12: 5, 14: 5, 13: 6, 11: 9, 15: 9,
    }  # fmt: skip
    assert dict(zip(each.rows[:, 0].tolist(), each.session[:, 0].tolist(), strict=True))[15] == 2
    np.testing.assert_array_equal(repeat_weights(each, np.arange(6), "single"), np.ones((6, 1)))
    assert len(samples(images(), "single")) == 6
    assert len(samples(images(), "mean")) == 3
    with pytest.raises(ValueError, match="samples"):
        repeat_weights(images(), ALL, "single")


@pytest.mark.parametrize("policy", POLICIES)
def test_weights_sum_to_one_and_padding_has_none(policy: str) -> None:
    rng = np.random.default_rng(0)
    pool = samples(images(), policy)
    for iteration in range(50):
        chosen = rng.integers(0, len(pool), 20)
        weights = repeat_weights(pool, chosen, policy, generator=rng, iteration=iteration)
        assert weights.dtype == np.float32
        np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
        assert (weights >= 0).all()
        padded = np.arange(weights.shape[1])[None] >= pool.n_repeats[chosen][:, None]
        assert (weights[padded] == 0).all()


def test_random_single_is_uniform_over_real_repeats() -> None:
    rng = np.random.default_rng(0)
    chosen = np.repeat(ALL, 3000)
    weights = repeat_weights(images(), chosen, "random-single", generator=rng).reshape(3, 3000, 3).mean(axis=1)
    np.testing.assert_allclose(weights, [[1 / 3] * 3, [1, 0, 0], [0.5, 0.5, 0]], atol=0.03)


def test_mix_has_its_shares() -> None:
    weights = repeat_weights(images(), np.zeros(20_000, np.int64), "mix", generator=np.random.default_rng(0))
    single = (weights == 1).any(axis=1)
    mean = (np.abs(weights - 1 / 3) < 1e-6).all(axis=1)
    assert single.mean() == pytest.approx(0.2, abs=0.01)
    assert mean.mean() == pytest.approx(0.3, abs=0.01)
    assert weights[~single & ~mean].std() > 0.1


def test_same_generator_same_weights() -> None:
    for policy in ("random-single", "mix"):
        first, again = (repeat_weights(images(), ALL, policy, generator=np.random.default_rng(3)) for _ in range(2))
        np.testing.assert_array_equal(first, again)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="generator"):
        repeat_weights(images(), ALL, "mix")
    with pytest.raises(ValueError, match="policy"):
        samples(images(), "average")
