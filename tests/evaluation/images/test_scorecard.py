"""The scorecard: every metric with interval and chance, what is missing named, paired differences with a sign."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from chiasm.data.errors import InputError
from chiasm.pipelines.evaluation.images.choosing import mean_image
from chiasm.pipelines.evaluation.images.feature_networks import NETWORKS, FeatureNetwork, Judges, load_networks
from chiasm.pipelines.evaluation.images.identification import correlations, two_way
from chiasm.pipelines.evaluation.images.scorecard import ImageScorer, Scorecard, score_images

N = 20
NOT_THERE = "weights are not on this machine"


def pictures(seed: int = 0, *, noise: float = 0.0, n: int = N) -> np.ndarray:
    """Smooth coloured pictures, mixed with others of their kind."""
    fields = []
    for one in (0, seed + 1):
        field = gaussian_filter(np.random.default_rng(one).standard_normal((n, 32, 32, 3)), (0, 4, 4, 0))
        fields.append(field / field.std())
    mixed = fields[0] + noise * fields[1]
    return np.clip(128 + 45 * mixed / mixed.std(), 0, 255).astype(np.uint8)


def coarse(values: torch.Tensor) -> dict[str, torch.Tensor]:
    """A network that sees an 8 x 8 grid."""
    return {"pooled": torch.nn.functional.adaptive_avg_pool2d(values, 8), "early": values[:, :, ::8, ::8]}


@pytest.fixture(scope="module")
def judges() -> Judges:
    network = FeatureNetwork(spec=NETWORKS["efficientnet-lite0"], sha256="abc", run=coarse, device=torch.device("cpu"))
    missing = {name: NOT_THERE for name in NETWORKS if name != "efficientnet-lite0"}
    return Judges(networks={"efficientnet-lite0": network}, missing=missing)


@pytest.fixture(scope="module")
def scorer(judges: Judges) -> ImageScorer:
    return ImageScorer(pictures(), judges, n_chance=3, n_draws=500)


@pytest.fixture(scope="module")
def good(scorer: ImageScorer) -> Scorecard:
    return scorer.score(pictures(noise=0.5), declared={"selection": "brain", "blending": "none"})


PRESENT = (
    "PixCorr",
    "SSIM",
    "efficientnet-lite0 two-way",
    "efficientnet-lite0 distance",
    "efficientnet-lite0 early two-way",
)


def test_every_row_is_the_mean_of_its_images_with_interval_and_chance(good: Scorecard) -> None:
    for name in PRESENT:
        score = good[name]
        assert score.value == pytest.approx(score.per_image.mean())
        assert score.per_image.shape == (N,)
        assert score.interval.low <= score.value <= score.interval.high
        assert (score.interval.low < score.interval.high) == (score.per_image.std() > 0)
        assert score.interval.n == N
    assert good["PixCorr"].value > 0.7
    assert good["efficientnet-lite0 two-way"].value > 0.95
    assert good["efficientnet-lite0 distance"].value < 0.3


def test_chance_is_the_same_metric_on_permuted_pairs(good: Scorecard) -> None:
    assert good["efficientnet-lite0 two-way"].chance.mean == pytest.approx(0.5, abs=0.1)
    assert good["PixCorr"].chance.mean == pytest.approx(0, abs=0.12)
    assert good["efficientnet-lite0 distance"].chance.mean == pytest.approx(1, abs=0.15)
    for name in PRESENT:
        score = good[name]
        outside = score.interval.low > score.chance.high or score.interval.high < score.chance.low
        assert outside, name


def test_noise_is_at_chance_in_every_metric(scorer: ImageScorer) -> None:
    noise = scorer.score(pictures(noise=1e6, seed=5))
    for name in PRESENT:
        score = noise[name]
        assert max(score.interval.low, score.chance.low) < min(score.interval.high, score.chance.high), name


def test_a_missing_network_has_a_row_without_a_value(good: Scorecard) -> None:
    names = [score.name for score in good.scores]
    assert names[:8] == ["PixCorr", "SSIM", "AlexNet(2)", "AlexNet(5)", "Inception", "CLIP", "EffNet-B", "SwAV"]
    for name in names[2:8]:
        assert good[name].value is good[name].interval is good[name].chance is None
        assert good[name].reason == NOT_THERE
    assert good["SwAV"].higher_is_better is False
    assert not good["efficientnet-lite0 distance"].published
    rows = json.loads(json.dumps(good.rows()))
    assert (rows[2]["value"], rows[2]["reason"]) == (None, NOT_THERE)
    assert rows[0]["size"] == 425
    assert good.declared == {"selection": "brain", "blending": "none"}


def test_the_value_is_the_published_score(good: Scorecard, scorer: ImageScorer) -> None:
    network = scorer.judges.networks["efficientnet-lite0"]
    made = ImageScorer(pictures(noise=0.5), scorer.judges, n_chance=0).images
    real, features = (network.features(images)["pooled"] for images in (scorer.images, made))
    table = np.corrcoef(real.numpy(), features.numpy())[:N, N:]
    score = good["efficientnet-lite0 two-way"]
    assert score.value == pytest.approx(((table < np.diag(table)).sum(0) / (N - 1)).mean())
    assert score.settings["rule"] == "columns"
    by_rows = score_images(pictures(), pictures(noise=2), judges=scorer.judges, rule="rows")[
        "efficientnet-lite0 two-way"
    ]
    made = ImageScorer(pictures(noise=2), scorer.judges, n_chance=0).images
    expected = two_way(correlations(real, network.features(made)["pooled"]), rule="rows").score
    assert by_rows.value == pytest.approx(expected)


def test_the_mean_image_identifies_nothing(scorer: ImageScorer) -> None:
    card = scorer.score(np.repeat(mean_image(pictures(3))[None], N, axis=0))
    assert card["efficientnet-lite0 two-way"].value == pytest.approx(0.5)
    grey = scorer.score(np.full((N, 16, 16, 3), 128, np.uint8))
    assert grey["PixCorr"].value == 0
    assert grey["PixCorr"].chance.mean == 0


def test_differences_are_paired_and_know_the_better_side(good: Scorecard, scorer: ImageScorer) -> None:
    bad = scorer.score(pictures(noise=2.0, seed=7))
    differences = {one.name: one for one in good.differences(bad, n_draws=500)}
    assert set(differences) == set(PRESENT)
    assert differences["PixCorr"].interval.mean == pytest.approx(good["PixCorr"].value - bad["PixCorr"].value)
    assert differences["PixCorr"].first_is_better is True
    assert differences["efficientnet-lite0 distance"].interval.mean < 0
    assert differences["efficientnet-lite0 distance"].first_is_better is True
    assert {one.first_is_better for one in bad.differences(good, n_draws=500) if one.name == "PixCorr"} == {False}
    same = good.differences(good, n_draws=100)
    assert all(one.first_is_better is None and one.interval.mean == 0 for one in same)
    # Pairs share their stimuli, so that the interval is narrower than that of two separate sets.
    wide = np.hypot(*(np.ptp([card["SSIM"].interval.low, card["SSIM"].interval.high]) for card in (good, bad)))
    assert differences["SSIM"].interval.high - differences["SSIM"].interval.low < wide


def test_scores_of_other_stimuli_are_not_compared(good: Scorecard, judges: Judges) -> None:
    other = score_images(pictures()[::-1], pictures(), judges=judges)
    with pytest.raises(InputError) as error:
        good.differences(other)
    assert error.value.code == "CHI-IN-313"


@pytest.mark.parametrize("made", [pictures()[:-1], pictures()[..., :2], pictures() / 255, pictures()[:, :20]])
def test_images_that_do_not_fit_are_refused(made: np.ndarray, scorer: ImageScorer) -> None:
    with pytest.raises(InputError) as error:
        scorer.score(made)
    assert error.value.code == "CHI-IN-312"


def test_one_image_has_pixels_but_no_identification(judges: Judges) -> None:
    card = score_images(pictures(n=1), pictures(n=1), judges=judges)
    assert card["PixCorr"].value == pytest.approx(1)
    assert card["PixCorr"].chance is None
    assert card["efficientnet-lite0 two-way"].reason == "two-way identification needs two images"


def test_the_offline_judge_sees_what_a_picture_shows() -> None:
    """Three kinds of drawings in other colours: the network's own features find the image, its name stands in the row."""
    judges = load_networks(["efficientnet-lite0"])
    grid = np.indices((64, 64)) - 31.5
    shapes = [np.hypot(*grid) < 24, np.abs(grid).max(0) < 20, np.abs(grid[0]) < 6, np.abs(grid).sum(0) % 16 < 8]
    true, made = (
        np.stack([np.where(shape[..., None], colour, 255 - np.array(colour)) for shape in shapes]).astype(np.uint8)
        for colour in ((200, 40, 40), (180, 60, 30))
    )
    card = score_images(true, made, judges=judges)
    assert card["efficientnet-lite0 two-way"].value == 1
    assert card["EffNet-B"].value is None
    assert card["EffNet-B"].reason == "not asked for"
