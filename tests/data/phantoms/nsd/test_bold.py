"""BOLD: its least-squares betas are the written ones, and the reader of fMRIPrep derivatives finds trials and images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chiasm.data.datasets.fmri.fmriprep import open_set
from chiasm.data.phantoms.marker import is_phantom
from chiasm.data.phantoms.nsd.bold import run_bold
from chiasm.data.phantoms.nsd.brain import grow_brain, runs
from chiasm.data.phantoms.nsd.cohort import NsdCohort, write_nsd
from chiasm.data.phantoms.nsd.forward_model import ForwardModel


def test_the_single_trial_model_gives_the_sessions_betas() -> None:
    brain = grow_brain(2, seed=5, strength=1.0, model=ForwardModel())
    shown = np.random.default_rng(0).standard_normal((130, len(brain.mean))).astype(np.float32)
    betas = brain.session_betas(shown, 3)
    for run, trials in enumerate(runs(130)):
        plan, percent = run_bold(brain, shown[trials], session=3, run=run)
        assert plan.projector @ percent == pytest.approx(betas[trials], abs=1e-3)


def test_the_derivative_is_read_and_its_betas_follow_the_written_ones(tmp_path: Path) -> None:
    from chiasm.data.datasets.fmri.nsd import open_set as open_nsd

    cohort = NsdCohort(subjects=1, images=20, shared=5, repeats=2, stimuli="fashion-mnist-small", bold=True)
    write_nsd(tmp_path / "c", cohort)
    place = tmp_path / "c" / "derivatives" / "fmriprep"
    assert is_phantom(place)
    found, written = open_set(place), open_nsd(tmp_path / "c")
    subject, other = found.subject("01"), written.subject("01")
    assert len(subject.trials) == 50
    assert (subject.trials.split == other.trials.split).all()
    assert subject.n_voxels == other.n_voxels
    assert found.stimuli is not None
    assert written.stimuli is not None
    names = [found.stimuli.names[i] for i in subject.trials.image]
    assert [int(name.split("-")[1].split(".")[0]) for name in names] == other.trials.image.tolist()
    rows = np.arange(50)
    lss, ols = subject.betas.read(rows), other.betas.read(rows)
    similar = [np.corrcoef(a, b)[0, 1] for a, b in zip(lss.T, ols.T, strict=True)]
    assert np.median(similar) > 0.6
