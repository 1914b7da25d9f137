"""Two phantom brains, a tiny recipe of images from fMRI and what training made of them, shared by all tests of that pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

TINY = """
base: fmri-images
title: Tiny
components:
  network: {parameters: {hidden: 32, n_blocks: 1, projector_hidden: 16}}
  prior: {parameters: {depth: 1, heads: 2, dim_head: 8, timesteps: 10}}
reconstruction: {samples: 2, steps: 2}
retrieval: {top_k: 3, pool: 6, draws: 3}
training: {epochs: 2, batch_size: 8, validation_share: 0.1}
"""


@pytest.fixture(scope="session")
def brains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantom brains, 24 images of their own each and 8 that both saw, three times each."""
    from chiasm.data.phantoms.nsd.cohort import NsdCohort, write_nsd

    root = tmp_path_factory.mktemp("brains") / "nsd"
    write_nsd(root, NsdCohort(subjects=2, images=24, shared=8, stimuli="fashion-mnist-small"))
    return root


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of the smallest networks, with the encoder and the decoder that ship."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, brains: Path, tiny: Path) -> Path:
    """What `chiasm train` wrote for both brains."""
    from chiasm.pipelines.cli.main import main

    out = tmp_path_factory.mktemp("trained") / "study"
    assert main(["train", str(tiny), str(brains), str(out), "--device", "cpu"]) == 0
    return out


@pytest.fixture(scope="session")
def without_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe as one that only retrieves."""
    path = tmp_path_factory.mktemp("recipe") / "retrieval.yaml"
    text = TINY.replace("title: Tiny", "title: Retrieval").replace("components:", "components:\n  decoder: null")
    path.write_text(text)
    return path


@pytest.fixture(scope="session")
def plain_brains(tmp_path_factory: pytest.TempPathFactory, brains: Path) -> Path:
    """The phantom brains as a plain cohort: a table of betas and of trials a subject, and the stimuli that both share."""
    import numpy as np

    from chiasm.data.datasets.fmri import open_decoding_set
    from chiasm.data.fmri.trials import SPLITS

    root = tmp_path_factory.mktemp("plain") / "cohort"
    data = open_decoding_set(brains)
    for one in data.subjects:
        folder, trials = root / f"sub-{one.name}", one.trials
        folder.mkdir(parents=True)
        np.save(folder / "betas.npy", one.betas.read(trials.row))
        lines = zip(trials.image, trials.session, trials.split, strict=True)
        rows = [f"{row}\t{image}\t{session}\t{SPLITS[split]}" for row, (image, session, split) in enumerate(lines)]
        (folder / "trials.tsv").write_text("\n".join(["row\timage\tsession\tsplit", *rows]) + "\n")
    np.save(root / "stimuli.npy", data.stimuli.read(np.arange(data.stimuli.n), size=64))
    shutil.copy(brains / "dataset_description.json", root)
    return root


@pytest.fixture
def cohort(tmp_path: Path, plain_brains: Path) -> Path:
    """A copy of the plain cohort that a test may spoil."""
    return Path(shutil.copytree(plain_brains, tmp_path / "cohort"))


@pytest.fixture
def copied(tmp_path: Path, brains: Path) -> Path:
    """A copy of the brains that a test may spoil."""
    return Path(shutil.copytree(brains, tmp_path / "copy"))
