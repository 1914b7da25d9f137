from __future__ import annotations

import numpy as np
import pytest

from chiasm.pipelines.training.augment import augment
from chiasm.pipelines.training.settings import Augmentation

SHAPE = (6, 7, 8)


def pair() -> tuple[np.ndarray, np.ndarray]:
    labels = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    return np.stack([labels, 2 * labels]).astype(np.float32), labels


def test_flips_move_image_and_labels_alike() -> None:
    image, labels = pair()
    moved, where = augment(image, labels, np.random.default_rng(1), Augmentation(flip=1, scale=0, shift=0, noise=0))
    assert np.array_equal(where, labels[::-1, ::-1, ::-1])
    assert np.array_equal(moved, np.stack([where, 2 * where]))


def test_nothing_set_changes_nothing() -> None:
    image, labels = pair()
    same, where = augment(image, labels, np.random.default_rng(1), Augmentation(flip=0, scale=0, shift=0, noise=0))
    assert np.array_equal(same, image)
    assert np.array_equal(where, labels)


@pytest.mark.parametrize("seed", range(3))
def test_the_outside_stays_zero_and_channels_change_apart(seed: int) -> None:
    image, labels = pair()
    changed, _ = augment(
        image, labels, np.random.default_rng(seed), Augmentation(flip=0, scale=0.2, shift=0.3, noise=0)
    )
    assert (changed[image == 0] == 0).all()
    ones = labels == 1
    assert changed[0][ones].std() < 1e-5
    assert not np.isclose(2 * changed[0][ones][0], changed[1][ones][0], atol=1e-3)
    assert abs(changed[0][ones][0] - 1) <= 0.5 + 1e-6
