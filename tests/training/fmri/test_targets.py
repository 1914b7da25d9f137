"""Targets of stimuli: the same from memory and from a file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chiasm.data.fmri.stimuli import ArrayStimuli
from chiasm.encoders.target_spaces import load_target
from chiasm.pipelines.training.fmri import prepare


@pytest.fixture
def stimuli() -> ArrayStimuli:
    """Twelve pictures of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    return ArrayStimuli(pixels, tuple(f"i{index}" for index in range(12)), ())


def test_many_targets_are_read_from_a_file_made_once(tmp_path, monkeypatch, stimuli) -> None:
    encoder, images = load_target("thumbnail-8", None), np.array([2, 5, 7, 11])
    few = prepare.target_table(encoder, stimuli, images, folder=tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(prepare, "IN_MEMORY_BYTES", 100)
    many = prepare.target_table(encoder, stimuli, images, folder=tmp_path)
    (file,) = tmp_path.glob("*.npy")
    asked = np.array([11, 2, 2])
    assert torch.allclose(many(asked), few(asked), atol=1e-3)  # kept as float16
    assert not torch.equal(many(np.array([2])), many(np.array([5])))
    before = file.stat().st_mtime_ns
    prepare.target_table(encoder, stimuli, images, folder=tmp_path)
    assert file.stat().st_mtime_ns == before


def test_a_stimulus_without_a_target_is_no_other_s(tmp_path, stimuli) -> None:
    table = prepare.target_table(load_target("thumbnail-8", None), stimuli, np.array([2, 5]), folder=tmp_path)
    with pytest.raises(KeyError):
        table(np.array([3]))
