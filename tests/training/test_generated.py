from __future__ import annotations

import numpy as np
import pytest
import torch

from chiasm.data.phantoms.label_maps import TissueMaps, maps_from_arrays
from chiasm.pipelines.training.generated import GeneratedSource, fixed_samples, fixed_volumes
from chiasm.pipelines.training.settings import Generator, Phase, TestSet

FIXED = TestSet(seed=3, volumes=5, shape=(16, 16, 16), spacing_mm=3.0)
PHASE = Phase(steps=1, patch=(12, 14, 16), spacing_mm=(2.0, 3.0))


@pytest.fixture(scope="module")
def maps() -> TissueMaps:
    axes = np.meshgrid(*[np.arange(50) - 24.5] * 3, indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes))
    return maps_from_arrays(
        (radius >= 9).astype(np.float32) * (radius < 15), (radius < 9).astype(np.float32), radius < 18
    )


def test_samples_repeat_by_index_in_any_order(maps: TissueMaps) -> None:
    one, two = (GeneratedSource(maps, Generator(), seed=1) for _ in range(2))
    ahead = {i: one.sample(i, PHASE) for i in (2, 0)}
    for i in (0, 2):
        assert all(torch.equal(a, b) for a, b in zip(ahead[i], two.sample(i, PHASE), strict=True))
    assert ahead[0][0].shape == (1, 12, 14, 16)
    assert ahead[0][1].dtype == torch.int64


def test_another_seed_gives_other_samples(maps: TissueMaps) -> None:
    samples = [GeneratedSource(maps, Generator(), seed=seed).sample(0, PHASE)[0] for seed in (1, 2)]
    assert not torch.equal(*samples)


def test_a_recipe_can_narrow_the_ranges(maps: TissueMaps) -> None:
    calm = Generator(ranges={"contrasts": [["inverted", 1.0]], "mask_error": 0.0})
    fixed = GeneratedSource(maps, calm, seed=1)
    assert fixed.ranges.mask_error == 0
    assert {s.contrast for s in fixed_samples(maps, calm, FIXED)} == {"t1", "pd", "inverted"}


def test_the_test_set_is_fixed_takes_contrasts_in_turn_and_keeps_its_separation(maps: TissueMaps) -> None:
    first = list(fixed_samples(maps, Generator(), FIXED))
    again = list(fixed_samples(maps, Generator(), FIXED))
    assert [s.contrast for s in first] == ["t1", "pd", "inverted", "t1", "pd"]
    assert all(s.separation >= 3.0 for s in first)
    assert all(
        torch.equal(a.image, b.image) and torch.equal(a.labels, b.labels) for a, b in zip(first, again, strict=True)
    )


def test_test_volumes_carry_image_labels_and_spacing(maps: TissueMaps) -> None:
    image, labels, spacing = next(iter(fixed_volumes(maps, Generator(), FIXED)))
    assert image.shape[1:] == labels.shape
    assert labels.dtype == np.uint8
    assert spacing == (3.0, 3.0, 3.0)
