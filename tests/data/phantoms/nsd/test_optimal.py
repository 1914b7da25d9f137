"""The optimal decoder: far above chance on signal, at chance on noise, right without noise, and no better than it may be."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from chiasm.data.errors import InputError
from chiasm.data.phantoms.nsd.cohort import NsdCohort, write_nsd
from chiasm.data.phantoms.nsd.forward_model import ForwardModel
from chiasm.data.phantoms.nsd.optimal import OptimalDecoder, optimal_retrieval

SIZES = {"subjects": 1, "images": 60, "shared": 200, "stimuli": "fashion-mnist-small"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("optimal")


@cache
def cohort(folder: Path, strength: float, ceiling: float = 40.0) -> Path:
    out = folder / f"{strength}-{ceiling}"
    write_nsd(out, NsdCohort(strength=strength, model=ForwardModel(noise_ceiling=ceiling), **SIZES))
    return out


def shared(decoder: OptimalDecoder) -> np.ndarray:
    from scipy.io import loadmat

    return loadmat(decoder.root / "nsddata/experiments/nsd/nsd_expdesign.mat")["sharedix"].ravel().astype(np.int64) - 1


def top1(scores: np.ndarray) -> float:
    return float((scores.argmax(axis=1) == np.arange(len(scores))).mean())


def test_at_the_default_noise_it_is_nearly_always_right(folder: Path) -> None:
    root = cohort(folder, 1.0)
    images = shared(OptimalDecoder(root))
    scores = optimal_retrieval(root, "subj01", images)
    assert scores.shape == (200, 200)
    assert top1(scores) > 0.95
    assert top1(scores.T) > 0.9
    assert np.exp(scores).sum(axis=1) == pytest.approx(1)


def test_weaker_signal_and_fewer_repeats_are_worse(folder: Path) -> None:
    root = cohort(folder, 0.15)
    images = shared(OptimalDecoder(root))
    one, three = (top1(optimal_retrieval(root, "1", images, repeats=n)) for n in (1, 3))
    assert 0.05 < one < three < 0.9


def test_at_strength_zero_it_is_at_chance(folder: Path) -> None:
    root = cohort(folder, 0.0)
    images = shared(OptimalDecoder(root))
    right = round(
        200 * top1(optimal_retrieval(root, "01", images) + 1e-9 * np.random.default_rng(0).random((200, 200)))
    )
    assert right <= binom.ppf(0.9999, 200, 1 / 200)


def test_it_knows_how_often_it_is_right(folder: Path) -> None:
    """Posteriors of the true noise are calibrated: their mean maximum is the share that is right."""
    root = cohort(folder, 0.15)
    scores = optimal_retrieval(root, "subj01", shared(OptimalDecoder(root)))
    assert np.exp(scores.max(axis=1)).mean() == pytest.approx(top1(scores), abs=0.12)


def test_a_response_without_noise_is_likeliest_under_its_own_image(folder: Path) -> None:
    decoder = OptimalDecoder(cohort(folder, 1.0))
    predicted, images = decoder.predicted("subj01"), np.arange(0, 260, 3)
    scores = decoder.log_likelihood(
        "subj01", predicted[images], np.arange(260), n_repeats=np.ones(len(images), dtype=np.int64)
    )
    assert (scores.argmax(axis=1) == images).all()
    assert scores.max(axis=1) == pytest.approx(0, abs=1e-6)


def test_observed_betas_are_prediction_plus_noise_of_the_stated_size(folder: Path) -> None:
    decoder = OptimalDecoder(cohort(folder, 1.0))
    brain, images = decoder.brain("subj01"), shared(decoder)
    noise = brain.noise.at(brain.cortex.visual)
    for repeats in (1, 3):
        betas, count = decoder.observed("subj01", images, repeats=repeats)
        assert (count == repeats).all()
        white = noise.whiten(betas - decoder.predicted("subj01")[images])
        assert (white**2).mean() * repeats == pytest.approx(1, abs=0.05)


def test_it_needs_the_true_noise(folder: Path) -> None:
    """Correlation, which knows no noise covariance, is worse than the likelihood."""
    root = cohort(folder, 0.15)
    decoder = OptimalDecoder(root)
    images = shared(decoder)
    betas, _ = decoder.observed("subj01", images, repeats=3)
    plain = np.corrcoef(betas, decoder.predicted("subj01")[images])[:200, 200:]
    assert top1(optimal_retrieval(root, "subj01", images)) > top1(plain)


def test_an_image_that_was_never_shown_is_the_callers_mistake(folder: Path) -> None:
    with pytest.raises(ValueError, match="never saw 1"):
        OptimalDecoder(cohort(folder, 1.0)).observed("subj01", np.array([0, 260]), repeats=3)


def test_what_is_no_phantom_or_was_changed_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        OptimalDecoder(tmp_path)
    assert caught.value.code == "CHI-IN-333"
    root = cohort(folder, 1.0)
    with pytest.raises(InputError, match="subj01") as caught:
        OptimalDecoder(root).predicted("subj07")
    assert caught.value.code == "CHI-IN-333"
    shutil.copytree(root, tmp_path / "copy")
    brick = tmp_path / "copy" / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
    import h5py

    with h5py.File(brick, "r+") as file:
        file["imgBrick"][0, 0, 0, 0] ^= 1
    with pytest.raises(InputError) as caught:
        OptimalDecoder(tmp_path / "copy").predicted("subj01")
    assert caught.value.code == "CHI-IN-334"
    brick.write_bytes(brick.read_bytes()[:1000])
    with pytest.raises(InputError) as caught:
        OptimalDecoder(tmp_path / "copy").predicted("subj01")
    assert caught.value.code == "CHI-IN-334"
    (tmp_path / "copy" / "phantom.json").write_text('{"kind": "nsd", "version": 99}')
    with pytest.raises(InputError) as caught:
        OptimalDecoder(tmp_path / "copy")
    assert caught.value.code == "CHI-IN-333"
