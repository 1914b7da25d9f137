"""A tiny network and a tiny cohort, so that whole runs through real workers take seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from chiasm.encoders.unet3d import UNet3d, UNet3dConfig

RECIPE = """
recipe: 1
pipeline: segmentation
title: Tiny
channels: {T1w: {suffixes: [T1w], keywords: [t1]}}
components:
  network: {kind: unet3d, weights: test/tiny, parameters: {in_channels: 1, out_channels: 3, channels: [4, 8], convolutions: [1, 1]}}
windows: {size: [16, 16, 16], overlap: 0.25, blend: gaussian}
labels: {1: one, 2: two}
"""


@dataclass(frozen=True)
class Bench:
    """Folders and the command of a tiny run."""

    root: Path
    source: Path
    recipe: Path
    store: Path

    def command(self, out: Path, *options: str) -> list[str]:
        base = [
            sys.executable,
            "-m",
            "chiasm",
            "run",
            str(self.recipe),
            str(self.source),
            str(out),
            "--threads",
            "1",
            "--device",
            "cpu",
        ]
        return [*base, *options]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "CHIASM_WEIGHTS": str(self.store), "OMP_NUM_THREADS": "1"}

    def run(self, out: Path, *options: str, **settings: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            self.command(out, *options),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            **settings,
        )

    def add_head(self, patient: str, seed: int, size: int = 24) -> None:
        """Add a patient whose volume is noise of a seed."""
        write_head(self.source / patient / "t1.nii.gz", seed, size)

    @staticmethod
    def tree(out: Path) -> dict[str, bytes]:
        """Every file of an output folder but logs and the ledger: what must be the same bytes each time."""
        return {
            path.relative_to(out).as_posix(): path.read_bytes()
            for path in sorted(out.rglob("*"))
            if path.is_file() and path.relative_to(out).parts[0] not in {"logs", ".chiasm"}
        }


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    folder = store / "test" / "tiny"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    parameters = {"in_channels": 1, "out_channels": 3, "channels": [4, 8], "convolutions": [1, 1]}
    network = UNet3d(UNet3dConfig(in_channels=1, out_channels=3, channels=(4, 8), convolutions=(1, 1)))
    with torch.no_grad():  # the first guess of a fresh network is one label everywhere: equal trees would prove little
        list(network.parameters())[-2].normal_()
        list(network.parameters())[-1].zero_()
    save_file(dict(network.state_dict()), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"kind": "unet3d", "parameters": parameters, "channels": ["T1w"]}))
    return store


def write_head(path: Path, seed: int, size: int = 24) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(100, 20, (size, size, size)).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, 1.0, 1.0, 1.0])), path)


@pytest.fixture
def bench(tmp_path: Path, tiny_store: Path) -> Callable[[int], Bench]:
    """Return a maker of cohorts of n patients."""

    def make(n_patients: int) -> Bench:
        source = tmp_path / "in"
        for number in range(n_patients):
            write_head(source / f"p{number:02d}" / "t1.nii.gz", number)
        recipe = tmp_path / "tiny.yaml"
        recipe.write_text(RECIPE)
        return Bench(tmp_path, source, recipe, tiny_store)

    return make
