"""Baselines are made without a decoder; no function takes a true image."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from chiasm.pipelines.evaluation.images import choosing
from chiasm.pipelines.evaluation.images.choosing import mean_image, nearest_training_images


def test_no_function_takes_the_true_image() -> None:
    public = [f for name, f in vars(choosing).items() if inspect.isfunction(f) and f.__module__ == choosing.__name__]
    assert len(public) == 2
    assert {name for function in public for name in inspect.signature(function).parameters} == {
        "brain",
        "bank",
        "training",
    }


def test_retrieval_only_takes_the_nearest_training_image() -> None:
    bank = torch.randn(30, 2, 4, generator=torch.Generator().manual_seed(0))
    assert nearest_training_images(5 * bank[[7, 3, 29]], bank).tolist() == [7, 3, 29]


def test_the_mean_image_is_the_rounded_mean() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3), dtype=np.uint8)
    assert np.array_equal(mean_image(images), np.rint(images.astype(float).mean(0)).astype(np.uint8))
    with pytest.raises(ValueError, match="are needed"):
        mean_image(images[:0])
