"""Candidates are chosen by the brain's tokens and by nothing else."""

import inspect

import pytest
import torch

from chiasm.heads.image_decoders import select
from chiasm.heads.image_decoders.select import candidate_seed, select_by_brain


def encode(pixels: torch.Tensor) -> torch.Tensor:
    """Two tokens of three channels: means of the upper and the lower half."""
    return torch.stack([half.float().mean((1, 2)) for half in pixels.chunk(2, 1)], 1)


def candidates() -> torch.Tensor:
    return torch.randint(0, 256, (4, 6, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_the_highest_cosine_of_all_tokens_wins() -> None:
    images = candidates()
    images[torch.arange(4), torch.tensor([2, 0, 5, 3])] //= 8  # darker: the cosine does not see it
    projected = torch.stack([encode(images[i, k][None])[0] for i, k in enumerate((2, 0, 5, 3))]) * 3.0
    chosen = select_by_brain(images, projected, encode)
    assert chosen.chosen.tolist() == [2, 0, 5, 3]
    assert torch.allclose(chosen.cosines[torch.arange(4), chosen.chosen], torch.ones(4), atol=1e-6)
    assert torch.equal(chosen.images[2], images[2, 5])
    by_hand = torch.nn.functional.cosine_similarity(encode(images[0, 1][None]).flatten(), projected[0].flatten(), dim=0)
    assert chosen.cosines[0, 1] == pytest.approx(by_hand.item(), abs=1e-6)


def test_tokens_are_compared_together_not_one_by_one() -> None:
    images = torch.full((1, 2, 2, 1, 3), 10, dtype=torch.uint8)
    images[0, 0, 0], images[0, 1, 0] = 200, 12  # one by one both are parallel to the brain's
    projected = torch.ones(1, 2, 3)
    assert select_by_brain(images, projected, encode).chosen.tolist() == [1]


def test_ties_go_to_the_first_and_a_candidate_without_direction_never_wins() -> None:
    images = candidates()[:1, :3].clone()
    images[0, 0] = 0
    images[0, 2] = images[0, 1]

    def normed(pixels: torch.Tensor) -> torch.Tensor:
        tokens = encode(pixels)
        return tokens / tokens.norm(dim=(1, 2), keepdim=True)

    assert select_by_brain(images, -torch.ones(1, 2, 3), normed).chosen.tolist() == [1]


def test_no_function_takes_the_true_picture() -> None:
    taken = {name for f in vars(select).values() if inspect.isfunction(f) for name in inspect.signature(f).parameters}
    assert not {name for name in taken if "true" in name or "truth" in name or "stimul" in name or "seen" in name}
    assert list(inspect.signature(select_by_brain).parameters) == ["candidates", "projected", "encode"]


def test_shapes_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="candidates"):
        select_by_brain(candidates(), torch.zeros(3, 2, 3), encode)
    with pytest.raises(ValueError, match="re-encoded"):
        select_by_brain(candidates(), torch.zeros(4, 2, 4), encode)


def test_seeds_of_candidates_differ() -> None:
    seeds = [candidate_seed(seed, k) for seed in range(20) for k in range(16)]
    assert candidate_seed(7, 0) == 7
    assert len(set(seeds)) == len(seeds)
