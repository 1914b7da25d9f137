"""Small image tokens: statistics, order of the grid, refusals, and what the shipped weights hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from chiasm.encoders.small_image_tokens import SmallImageTokens, SmallImageTokensConfig
from chiasm.pipelines.engine.weights import open_folder, shipped_folder

SHIPPED = shipped_folder() / "small-image-tokens"
TINY = SmallImageTokensConfig(widths=(8, 8, 16), token_width=8, blocks=1, layers=1)


def drawn(n: int, seed: int = 0) -> Tensor:
    """Discs and boxes of random colours on random grounds, uint8 (n, 32, 32, 3)."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[0:32, 0:32]
    images = np.empty((n, 32, 32, 3), np.uint8)
    for image in images:
        image[:] = rng.integers(0, 256, 3)
        for _ in range(3):
            y, x, r = *rng.uniform(6, 26, 2), rng.uniform(3, 9)
            disc = (rows - y) ** 2 + (cols - x) ** 2 < r**2
            box = (abs(rows - y) < r) & (abs(cols - x) < r / 2)
            image[disc if rng.random() < 0.5 else box] = rng.integers(0, 256, 3)
    return torch.from_numpy(images)


@pytest.fixture(scope="module")
def shipped() -> SmallImageTokens:
    return SmallImageTokens.load(SHIPPED)


def test_fitted_statistics_give_every_channel_mean_0_and_variance_1() -> None:
    torch.manual_seed(0)
    model = SmallImageTokens(TINY).requires_grad_(False)
    pixels = drawn(40)
    images = pixels.permute(0, 3, 1, 2) / 127.5 - 1.0
    model.fit_statistics(iter(model.raw(images).split(7)))
    tokens = model(pixels)
    assert torch.allclose(tokens.mean((0, 1)), torch.zeros(8), atol=1e-4)
    assert torch.allclose(tokens.square().mean((0, 1)), torch.ones(8), atol=1e-3)
    assert torch.allclose(tokens.mean(0), torch.zeros(16, 8), atol=1e-4), "the mean is of each position"


def test_statistics_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        SmallImageTokens(TINY).fit_statistics(iter(()))


def test_pictures_are_scaled_from_minus_1_to_1() -> None:
    model = SmallImageTokens(TINY).requires_grad_(False)
    pixels = torch.full((1, 32, 32, 3), 255, dtype=torch.uint8)
    pixels[:, :16] = 0
    images = torch.ones(1, 3, 32, 32)
    images[:, :, :16] = -1
    assert torch.allclose(model(pixels), model.raw(images), atol=1e-5)


@pytest.mark.parametrize(
    "pixels",
    [
        torch.zeros(1, 32, 32, 3),
        torch.zeros(1, 28, 28, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
        torch.zeros(32, 32, 3, dtype=torch.uint8),
    ],
)
def test_other_pictures_are_refused(pixels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"uint8 pictures of \(B, 32, 32, 3\)"):
        SmallImageTokens(TINY)(pixels)


@pytest.mark.parametrize("wrong", [{"size": 30}, {"widths": (8, 8, 12)}, {"widths": (8, 8, 16), "heads": 3}])
def test_sizes_that_do_not_divide_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="multiple"):
        SmallImageTokensConfig(**wrong)


def test_shipped_weights_are_those_of_their_card(shipped: SmallImageTokens) -> None:
    folder = open_folder(SHIPPED)  # checks the sha256
    assert folder.config["statement"] == "features"
    assert folder.config["target"] == "small-16x64"
    assert "unfinished" not in folder.config["training"]
    assert (shipped.config.n_tokens, shipped.config.token_width) == (16, 64)
    assert sum(p.numel() for p in shipped.parameters()) <= 1_500_000
    assert folder.files["model"].stat().st_size <= 8_000_000
    assert not shipped.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in shipped.parameters())


def test_shipped_tokens_do_not_depend_on_the_batch(shipped: SmallImageTokens) -> None:
    pixels = drawn(9)
    assert torch.allclose(shipped(pixels)[4:5], shipped(pixels[4:5]), atol=1e-4)


def test_shipped_tokens_find_a_moved_and_brightened_picture(shipped: SmallImageTokens) -> None:
    pixels = drawn(100)
    moved = (pixels.roll((1, -1), (1, 2)).float() * 0.9 + 10).to(torch.uint8)
    a, b = shipped(pixels), shipped(moved)
    a, b = ((x - x.mean(0)).flatten(1) for x in (a, b))
    cosine = torch.nn.functional.normalize(b, dim=1) @ torch.nn.functional.normalize(a, dim=1).T
    assert (cosine.argmax(1) == torch.arange(100)).float().mean() >= 0.95


def test_shipped_tokens_lie_where_the_picture_changed(shipped: SmallImageTokens) -> None:
    pixels = drawn(16)
    nearest = []
    for corner, token in (((0, 0), 0), ((0, 24), 3), ((24, 0), 12), ((24, 24), 15)):
        other = pixels.clone()
        patch = (slice(None), slice(corner[0], corner[0] + 8), slice(corner[1], corner[1] + 8))
        other[patch] = 255 - other[patch]
        change = (shipped(other) - shipped(pixels)).square().sum(2).mean(0)
        nearest.append(int(change.argmax()) == token)
    assert all(nearest)


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED, tmp_path / "other")
    about = json.loads((tmp_path / "other" / "config.json").read_text("utf-8"))
    (tmp_path / "other" / "config.json").write_text(json.dumps(about | {"kind": "unet3d"}), "utf-8")
    with pytest.raises(ValueError, match="kind must be 'small-image-tokens', got 'unet3d'"):
        SmallImageTokens.load(tmp_path / "other")
