"""Candidates are chosen by the brain, and baselines are made without one; no function takes a true image."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from chiasm.pipelines.evaluation.images import choosing
from chiasm.pipelines.evaluation.images.choosing import choose_candidates, mean_image, nearest_training_images


def test_the_candidate_most_like_the_brain_is_taken() -> None:
    brain = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    candidates = torch.randn(4, 6, 3, 5, generator=torch.Generator().manual_seed(1))
    for trial, place in enumerate((5, 0, 2, 3)):
        candidates[trial, place] = 0.01 * brain[trial]  # cosine, not length
    assert choose_candidates(candidates, brain).tolist() == [5, 0, 2, 3]
    assert choose_candidates(candidates, brain, select="none").tolist() == [0, 0, 0, 0]


def test_other_ways_of_choosing_do_not_exist() -> None:
    with pytest.raises(ValueError, match="'brain' or 'none'"):
        choose_candidates(torch.ones(1, 2, 3), torch.ones(1, 3), select="truth")
    with pytest.raises(ValueError, match="are needed"):
        choose_candidates(torch.ones(2, 2, 3), torch.ones(1, 3))
    public = [f for name, f in vars(choosing).items() if inspect.isfunction(f) and f.__module__ == choosing.__name__]
    assert len(public) == 3
    taken = {name for function in public for name in inspect.signature(function).parameters}
    assert taken == {"candidates", "brain", "select", "bank", "training"}


def test_retrieval_only_takes_the_nearest_training_image() -> None:
    bank = torch.randn(30, 2, 4, generator=torch.Generator().manual_seed(0))
    assert nearest_training_images(5 * bank[[7, 3, 29]], bank).tolist() == [7, 3, 29]


def test_the_mean_image_is_the_rounded_mean() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3), dtype=np.uint8)
    assert np.array_equal(mean_image(images), np.rint(images.astype(float).mean(0)).astype(np.uint8))
    with pytest.raises(ValueError, match="are needed"):
        mean_image(images[:0])
