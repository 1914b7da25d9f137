"""What a result may not depend on: the true image, the test betas of others, how many images are decoded at once."""

from __future__ import annotations

import numpy as np
import pytest

import chiasm
from chiasm.data.datasets.fmri import open_decoding_set
from chiasm.data.fmri.trials import by_image
from chiasm.pipelines.cli.main import main
from chiasm.pipelines.recipes import load_recipe
from chiasm.pipelines.stages.fmri.predictor import ImageMaker, Predicted, predict


@pytest.fixture(scope="module")
def reader(tiny, trained):
    return chiasm.load(tiny, weights=trained / "weights")


@pytest.fixture(scope="module")
def seen(reader, plain_brains):
    return reader(plain_brains, subject="01")


def test_noise_in_place_of_the_true_images_changes_scores_and_no_pixel(cohort, reader, seen) -> None:
    stimuli = np.load(cohort / "stimuli.npy")
    noise = np.random.default_rng(0).integers(0, 256, stimuli.shape, dtype=np.uint8)
    np.save(cohort / "stimuli.npy", noise)
    found = reader(cohort, subject="01")
    assert found.reconstruction.tobytes() == seen.reconstruction.tobytes()
    assert found.projected.tobytes() == seen.projected.tobytes()
    assert found.spread.tobytes() == seen.spread.tobytes()
    assert found.scores["PixCorr"] != seen.scores["PixCorr"]
    assert abs(found.scores["PixCorr"]) < 0.3


def test_without_stimuli_the_same_images_come_out(cohort, reader, seen) -> None:
    (cohort / "stimuli.npy").unlink()
    found = reader(cohort, subject="01")
    assert found.reconstruction.tobytes() == seen.reconstruction.tobytes()
    assert found.retrieved is None
    assert found.scores == {}


def test_permuted_betas_permute_what_is_decoded(cohort, plain_brains, reader, seen) -> None:
    subject = open_decoding_set(plain_brains, subjects=("01",)).subjects[0]
    test = by_image(subject.trials.of("test"))
    order = np.roll(np.arange(len(test)), 3)
    path = cohort / "sub-01" / "betas.npy"
    betas = np.load(path)
    betas[test.rows] = betas[test.rows[order]]
    np.save(path, betas)
    found = reader(cohort, subject="01")
    np.testing.assert_allclose(found.projected, seen.projected[order], atol=1e-4)
    # With its noise, which its number gives, an image moves as a whole.
    trained = reader._components["trained"]
    scaler = trained.scalers["01"]
    predicted = predict(trained.model, subject, test, scaler, repeats="mean-betas")
    moved = Predicted(
        tokens=predicted.tokens[order],
        projected=predicted.projected[order],
        latents=None if predicted.latents is None else predicted.latents[order],
    )
    again = reader._components["maker"].make(trained.model, moved, test.image[order], seed=0)
    difference = again.reconstruction.astype(int) - seen.reconstruction[order].astype(int)
    assert np.abs(difference).max() <= 1
    assert again.image.tolist() == seen.image[order].tolist()


@pytest.mark.parametrize("batch_size", [2, 6])
def test_how_many_are_decoded_at_once_does_not_matter(plain_brains, tiny, reader, seen, batch_size) -> None:
    recipe = load_recipe(tiny)
    spec = recipe.reconstruction.model_copy(update={"batch_size": batch_size})
    subject = open_decoding_set(plain_brains, subjects=("01",)).subjects[0]
    test = by_image(subject.trials.of("test"))
    trained, maker = (reader._components[name] for name in ("trained", "maker"))
    other = ImageMaker(recipe.model_copy(update={"reconstruction": spec}), maker.encoder, maker.decoder, maker.latents)
    predicted = predict(trained.model, subject, test, trained.scalers["01"], repeats="mean-betas")
    found = other.make(trained.model, predicted, test.image, seed=0)
    assert np.abs(found.reconstruction.astype(int) - seen.reconstruction).max() <= 1
    np.testing.assert_allclose(found.spread, seen.spread, atol=1e-5)


def test_another_seed_gives_other_samples(tiny, trained, plain_brains, seen) -> None:
    other = chiasm.load(tiny, weights=trained / "weights", seed=1)(plain_brains, subject="01")
    assert other.projected.tobytes() == seen.projected.tobytes()
    assert other.reconstruction.tobytes() != seen.reconstruction.tobytes()


def test_test_betas_have_no_part_in_the_weights(cohort, plain_brains, without_decoder, tmp_path) -> None:
    """Statistics, split and training alike: the test trials of both subjects become noise, and no byte of the weights changes."""
    for subject in open_decoding_set(plain_brains).subjects:
        path = cohort / f"sub-{subject.name}" / "betas.npy"
        betas = np.load(path)
        rows = subject.trials.of("test").row
        betas[rows] = np.random.default_rng(1).normal(100, 50, betas[rows].shape)
        np.save(path, betas)
    outs = []
    for data in (plain_brains, cohort):
        outs.append(tmp_path / f"out{len(outs)}")
        command = ["train", str(without_decoder), str(data), str(outs[-1]), "--no-baselines", "--device", "cpu"]
        assert main([*command, "--epochs", "1"]) == 0
    for name in ("model", "prior", "scalers"):
        first, second = ((out / "weights" / f"{name}.safetensors").read_bytes() for out in outs)
        assert first == second, name
    texts = [(out / "results.json").read_text() for out in outs]
    assert texts[0] != texts[1]
