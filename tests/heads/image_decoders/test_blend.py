"""Blending with the low-level picture, in bytes."""

import pytest
import torch

from chiasm.heads.image_decoders.blend import PUBLISHED_SHARE, blend_record, blended


def test_three_parts_to_one_part() -> None:
    images = torch.full((2, 4, 4, 3), 200, dtype=torch.uint8)
    low = torch.zeros(2, 3, 4, 4)
    low[1, 2] = 1.0
    mixed = blended(images, low)
    assert PUBLISHED_SHARE == 0.25
    assert mixed[0].unique().tolist() == [150]
    assert mixed[1, ..., 2].unique().tolist() == [214]  # 150 + 63.75, rounded
    assert mixed[1, ..., :2].unique().tolist() == [150]


def test_ends() -> None:
    images = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    low = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(blended(images, low, share=0), images)
    assert torch.equal(blended(images, low, share=1), (low * 255).round().to(torch.uint8).permute(0, 2, 3, 1))


def test_a_small_low_level_picture_is_enlarged() -> None:
    low = torch.full((1, 3, 2, 2), 0.4)
    assert blended(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), low, share=0.5).unique().tolist() == [51]


def test_mistakes() -> None:
    images, low = torch.zeros(1, 4, 4, 3, dtype=torch.uint8), torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match="share"):
        blended(images, low, share=1.2)
    with pytest.raises(ValueError, match="as many"):
        blended(images, torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match="uint8"):
        blended(images.float(), low)


def test_a_result_says_its_shares() -> None:
    assert blend_record(0.25) == {"reconstruction": 0.75, "low_level": 0.25}
