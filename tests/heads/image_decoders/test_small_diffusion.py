"""The embedded image decoder: solver against solutions that are known, noise by number, start images, the shipped weights."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from chiasm.encoders.small_image_tokens import SmallImageTokens
from chiasm.heads.image_decoders.small_diffusion import (
    LAST_TIME,
    SmallDiffusionConfig,
    SmallDiffusionDecoder,
    schedule,
    solver_step,
    visited_times,
)
from chiasm.heads.image_decoders.small_unet import SmallUNet, SmallUNetConfig
from chiasm.pipelines.engine.weights import open_folder, shipped_folder

SHIPPED = shipped_folder() / "small-image-decoder"
TINY = SmallUNetConfig(widths=(8, 8, 16), token_width=8, embedding=16)


def drawn(n: int, seed: int = 0) -> Tensor:
    """Discs of random colours on grounds of random colours, uint8 (n, 32, 32, 3)."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[0:32, 0:32]
    images = np.empty((n, 32, 32, 3), np.uint8)
    for image in images:
        image[:] = rng.integers(0, 256, 3)
        for _ in range(2):
            y, x, r = *rng.uniform(8, 24, 2), rng.uniform(4, 10)
            image[(rows - y) ** 2 + (cols - x) ** 2 < r**2] = rng.integers(0, 256, 3)
    return torch.from_numpy(images)


def tiny(**settings: float) -> SmallDiffusionDecoder:
    torch.manual_seed(0)
    network = SmallUNet(TINY).eval().requires_grad_(False)
    network.image_out.weight.normal_(std=0.1)
    return SmallDiffusionDecoder(network, SmallDiffusionConfig(**{"steps": 4, **settings}))


@pytest.fixture(scope="module")
def shipped() -> SmallDiffusionDecoder:
    return SmallDiffusionDecoder.load(SHIPPED)


@pytest.fixture(scope="module")
def encoder() -> SmallImageTokens:
    return SmallImageTokens.load(shipped_folder() / "small-image-tokens")


def test_schedule_keeps_the_variance() -> None:
    assert schedule(0) == (1, 0)
    for time in (0.1, 0.5, LAST_TIME):
        alpha, sigma = schedule(time)
        assert alpha**2 + sigma**2 == pytest.approx(1)
    assert schedule(0.5)[0] == pytest.approx(math.sqrt(0.5))


def test_solver_is_exact_where_the_picture_is_known() -> None:
    torch.manual_seed(0)
    picture, noise = torch.randn(2, 5, dtype=torch.float64)
    times = [0.99, 0.7, 0.4, 0.05]
    x = schedule(times[0])[0] * picture + schedule(times[0])[1] * noise
    before = None
    for time, following in itertools.pairwise(times):
        x, before = solver_step(x, picture, before, time, following)
        alpha, sigma = schedule(following)
        assert torch.allclose(x, alpha * picture + sigma * noise)
    assert torch.equal(solver_step(x, picture, before, 0.05, 0.0)[0], picture)


def _error_of_normal_data(steps: int, *, multistep: bool) -> float:
    """Data of standard deviation 0.5: the exact flow multiplies x by the ratio of its standard deviations at two times."""

    def spread(time: float) -> float:
        alpha, sigma = schedule(time)
        return math.sqrt(0.25 * alpha**2 + sigma**2)

    first, last = 0.9, 0.1
    times = [first + (last - first) * i / steps for i in range(steps + 1)]
    x = torch.tensor([1.0], dtype=torch.float64)
    before = None
    for time, following in itertools.pairwise(times):
        picture = 0.25 * schedule(time)[0] * x / spread(time) ** 2
        x, before = solver_step(x, picture, before if multistep else None, time, following)
    return abs(float(x) - spread(last) / spread(first))


def test_solver_is_of_second_order() -> None:
    errors = [_error_of_normal_data(steps, multistep=True) for steps in (16, 32, 64)]
    assert errors[0] / errors[1] > 3
    assert errors[1] / errors[2] > 3
    first_order = [_error_of_normal_data(steps, multistep=False) for steps in (32, 64)]
    assert first_order[0] / first_order[1] == pytest.approx(2, abs=0.3)
    assert errors[1] < first_order[0] / 4


def test_pictures_do_not_depend_on_the_batch_or_on_their_order() -> None:
    decoder = tiny()
    tokens = torch.randn(7, 16, 8, generator=torch.Generator().manual_seed(1))
    whole = decoder.decode(tokens, seed=3, indices=range(7)).int()
    decoder.config = replace(decoder.config, batch=3)
    assert (decoder.decode(tokens, seed=3, indices=range(7)).int() - whole).abs().max() <= 1
    order = [5, 0, 6]
    again = decoder.decode(tokens[order], seed=3, indices=order).int()
    assert (again - whole[order]).abs().max() <= 1
    assert (decoder.decode(tokens, seed=4, indices=range(7)).int() - whole).abs().float().mean() > 1
    assert (decoder.decode(tokens[order], seed=3, indices=range(3)).int() - whole[order])[0].abs().float().mean() > 1


def test_a_start_image_is_kept_at_little_strength_and_ignored_at_full() -> None:
    start = drawn(3).permute(0, 3, 1, 2) / 255.0
    tokens = torch.randn(3, 16, 8, generator=torch.Generator().manual_seed(1))
    which = {"seed": 0, "indices": range(3)}
    decoder = tiny()
    kept = decoder.decode(tokens, start=start, start_strength=0.005, **which)
    assert (kept.int() - drawn(3).int()).abs().max() <= 8
    assert torch.equal(decoder.decode(tokens, start=start, start_strength=0.0, **which), drawn(3))
    ignored = decoder.decode(tokens, start=start, start_strength=1.0, **which).int()
    assert (ignored - decoder.decode(tokens, **which).int()).abs().float().mean() < 3


def test_steps_are_run_in_proportion_to_the_strength() -> None:
    decoder, times = tiny(steps=10, stop=0.7), []
    decoder.network.register_forward_hook(lambda _, given, __: times.append(float(given[1][0])))
    start = torch.rand(1, 3, 64, 64)
    decoder.decode(torch.zeros(1, 16, 8), start=start, start_strength=0.35, seed=0, indices=[0])
    assert times == pytest.approx([0.35 * LAST_TIME * share for share in (1, 0.9, 0.8, 0.7)])


def test_times_end_at_the_picture() -> None:
    assert visited_times(0.9, 3, 0.5) == pytest.approx([0.9, 0.675, 0.45, 0])
    assert visited_times(0.9, 1, 0.5) == [0.9, 0]


def test_guidance_moves_away_from_no_tokens() -> None:
    x, tokens = torch.randn(2, 3, 32, 32), torch.randn(2, 16, 8)
    plain, free, guided = tiny(), tiny(guidance=0.0), tiny(guidance=1.5)
    plain.network.no_tokens.normal_()
    for other in (free, guided):
        other.network = plain.network
    a, b, c = (d.picture_at(0.1 * x, 0.5, tokens) for d in (plain, free, guided))
    inside = (a.abs() < 1) & (b.abs() < 1)
    assert inside.float().mean() > 0.9
    assert torch.allclose(c[inside], (b + 1.5 * (a - b)).clamp(-1, 1)[inside], atol=1e-5)
    assert (a - b).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("tokens", "start", "indices", "message"),
    [
        (torch.zeros(2, 16, 9), None, [0, 1], r"tokens must be \(B, 16, 8\), got \(2, 16, 9\)"),
        (torch.zeros(2, 128), None, [0, 1], r"tokens must be \(B, 16, 8\)"),
        (torch.zeros(2, 16, 8), torch.zeros(2, 1, 32, 32), [0, 1], r"start must be \(2, 3, S, S\)"),
        (torch.zeros(2, 16, 8), None, [0], "2 pictures and 1 indices"),
    ],
)
def test_other_shapes_are_refused(tokens: Tensor, start: Tensor | None, indices: Sequence[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny().decode(tokens, start=start, seed=0, indices=indices)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"batch": 0}, {"stop": 0.0}, {"stop": 1.1}, {"token_noise": -0.1}, {"guidance": -1.0}]
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        SmallDiffusionConfig(**wrong)


def test_nothing_to_decode_gives_no_pictures() -> None:
    assert tiny().decode(torch.zeros(0, 16, 8), seed=0, indices=[]).shape == (0, 32, 32, 3)


def test_shipped_weights_are_those_of_their_card_and_of_the_shipped_tokens(shipped: SmallDiffusionDecoder) -> None:
    folder = open_folder(SHIPPED)  # checks the sha256
    assert folder.config["target"] == shipped.target == "small-16x64"
    assert "unfinished" not in folder.config["training"]
    assert folder.config["tokens_sha256"] == open_folder(shipped_folder() / "small-image-tokens").sha256
    assert folder.config["statement"] == "features"
    both = sum(open_folder(f).files["model"].stat().st_size for f in (SHIPPED, shipped_folder() / "small-image-tokens"))
    assert both <= 8_000_000


@pytest.mark.parametrize(("level", "share"), [(0.0, 0.18), (0.5, 0.22), (1.0, 0.32)])
def test_shipped_decoder_beats_the_mean_picture(
    shipped: SmallDiffusionDecoder, encoder: SmallImageTokens, level: float, share: float
) -> None:
    pixels = drawn(24)
    tokens = encoder(pixels)
    tokens = tokens + level * torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0))
    made = shipped.decode(tokens, seed=0, indices=range(24)).float() / 255
    true = pixels.float() / 255
    error, mean_error = (made - true).square().mean(), (true - true.mean(0)).square().mean()
    assert error < share * mean_error
    wrong = shipped.decode(tokens.roll(1, 0), seed=0, indices=range(24)).float() / 255
    assert (wrong - true).square().mean() > mean_error, "the pictures must come from the tokens"


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED, tmp_path / "other")
    about = json.loads((tmp_path / "other" / "config.json").read_text("utf-8"))
    (tmp_path / "other" / "config.json").write_text(json.dumps(about | {"kind": "unet3d"}), "utf-8")
    with pytest.raises(ValueError, match="kind must be 'small-image-decoder', got 'unet3d'"):
        SmallDiffusionDecoder.load(tmp_path / "other")
