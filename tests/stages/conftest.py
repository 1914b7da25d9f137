"""Tiny sessions on disk and stand-in networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from chiasm.data.patients import Recording, Session
from chiasm.pipelines.engine.plan import Plan
from chiasm.pipelines.engine.stage import Context
from chiasm.pipelines.recipes import Recipe


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write an array as NIfTI; returns its path."""

    def write(values: np.ndarray, name: str = "t1.nii.gz", affine: np.ndarray | None = None) -> Path:
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        path = folder / name
        nib.save(nib.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
        return path

    return write


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(components={}, plan=Plan(), out=tmp_path / "out")


@pytest.fixture
def recipe_of() -> Callable[..., Recipe]:
    """A one-channel recipe without a mask; arguments replace whole blocks."""

    def make(**changes: Any) -> Recipe:
        base: dict[str, Any] = {
            "recipe": 1,
            "pipeline": "segmentation",
            "title": "A test",
            "name": "test-recipe",
            "channels": {"T1w": {}},
            "components": {"network": {"kind": "unet3d"}},
            "intensity": "none",
            "windows": {"size": [16, 16, 16], "overlap": 0.5},
            "labels": {1: "low", 2: "high"},
        }
        return Recipe.model_validate({**base, **changes})

    return make


@pytest.fixture
def session_of() -> Callable[..., Session]:
    """A session of NIfTI files, channel by channel."""

    def make(patient: str = "01", **channels: Path) -> Session:
        recordings = [
            Recording(channel=name, kind="nifti", files=(path,), relative=path.name) for name, path in channels.items()
        ]
        return Session(patient=patient, recordings=tuple(recordings))

    return make


@pytest.fixture
def nearest_class() -> Callable[[torch.Tensor], torch.Tensor]:
    """A 'network' whose label is the intensity itself: 0, 1 or 2, whichever is nearest."""

    def network(batch: torch.Tensor) -> torch.Tensor:
        return torch.cat([-((batch - label) ** 2) for label in range(3)], dim=1)

    return network
