"""Batches of interviews: everyone once, alike in length, the same for one seed, padding that a mask tells."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from chiasm.pipelines.stages.speech.features import Encoders
from chiasm.pipelines.training.speech.batches import POOL, Sample, batches_of, collate, widths_of

Make = Callable[..., Sample]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def names(batches: list[list[Sample]]) -> list[list[str]]:
    return [[sample.name for sample in batch] for batch in batches]


@pytest.fixture
def various(sample: Make) -> list[Sample]:
    lengths = torch.randint(1, 60, (37, 2), generator=generator()).tolist()
    return [sample(i, n_text=n_text, n_audio=n_audio) for i, (n_text, n_audio) in enumerate(lengths)]


@pytest.mark.parametrize("size", [1, 4, 8, 100])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_everyone_is_in_one_batch_of_an_epoch(various: list[Sample], size: int, seed: int | None) -> None:
    batches = batches_of(various, size, generator=None if seed is None else generator(seed))
    assert sorted(name for batch in names(batches) for name in batch) == [sample.name for sample in various]
    assert max(map(len, batches)) <= size
    assert all(batches)


def test_the_order_is_the_generators_and_nothing_elses(various: list[Sample]) -> None:
    first = names(batches_of(various, 4, generator=generator(5)))
    torch.rand(3)  # the global generator is not asked
    assert names(batches_of(various, 4, generator=generator(5))) == first
    assert names(batches_of(various, 4, generator=generator(6))) != first
    ordered = [sample.length for batch in batches_of(various, 4) for sample in batch]
    assert ordered == sorted(ordered)


def test_batches_are_alike_in_length_and_not_always_the_same(sample: Make) -> None:
    samples = [sample(i, n_text=1 + 7 * i % 64, n_audio=1) for i in range(64)]

    def padded(batches: list[list[Sample]]) -> int:
        return sum(len(batch) * max(s.length for s in batch) for batch in batches)

    least = sum(s.length for s in samples)
    mixed = padded([samples[i : i + 4] for i in range(0, 64, 4)])
    ours = [batches_of(samples, 4, generator=generator(seed)) for seed in range(5)]
    assert all(padded(batches) < least + 0.35 * (mixed - least) for batches in ours)
    assert len({frozenset(map(frozenset, names(batches))) for batches in ours}) == 5
    assert POOL * 4 < 64  # or these would be the same batches in every epoch


def test_the_first_batches_are_not_always_the_short_ones(sample: Make) -> None:
    samples = [sample(i, n_text=1 + i, n_audio=1) for i in range(24)]
    first = {batches_of(samples, 4, generator=generator(seed))[0][0].length for seed in range(6)}
    assert len(first) > 2


def test_pictures_do_not_count_as_length(sample: Make) -> None:
    """They are encoded one by one, so only the text is padded."""
    assert sample(0, n_text=4, n_audio=20).length == 24
    assert sample(0, n_text=4, n_audio=20, ids=True).length == 4
    assert sample(0, n_audio=20, without=["text"]).length == 20
    assert sample(0, n_text=4, without=["audio"]).length == 4


def test_padding_is_on_the_right_and_masked(sample: Make) -> None:
    samples = [sample(0, n_text=2, n_audio=5, mmse=21.0), sample(1, n_text=4, n_audio=1)]
    batch = collate(samples)
    assert batch.text_mask.tolist() == [[True, True, False, False], [True] * 4]
    assert batch.audio_mask.sum(1).tolist() == [5, 1]
    for row, one in enumerate(samples):
        assert torch.equal(batch.text[row, batch.text_mask[row]], one.features.text_tokens)
        assert torch.equal(batch.audio[row, batch.audio_mask[row]], one.features.audio_tokens)
    assert batch.label.tolist() == [0, 1]
    assert batch.mmse[0] == 21.0
    assert batch.mmse[1].isnan()
    assert batch.n_pictures == ()


def test_a_missing_modality_has_an_empty_mask(sample: Make) -> None:
    batch = collate([sample(0, n_text=3, without=["audio"]), sample(1, n_text=2, n_audio=4, without=["text"])])
    assert batch.text_mask.any(1).tolist() == [True, False]
    assert batch.audio_mask.sum(1).tolist() == [0, 4]
    assert batch.text.shape == (2, 3, 6)
    nobody = collate([sample(0, without=["text"]), sample(1, without=["text"])])
    assert not nobody.text_mask.any()


def test_ids_and_pictures_of_trained_encoders(sample: Make) -> None:
    samples = [
        sample(0, n_text=3, n_audio=4, ids=True),
        sample(1, n_text=2, ids=True, without=["audio"]),
        sample(2, n_text=5, n_audio=2, ids=True),
    ]
    batch = collate(samples)
    assert batch.text.dtype == torch.int64
    assert torch.equal(batch.text[0, :3], samples[0].features.ids)
    assert batch.n_pictures == (2, 0, 1)
    assert torch.equal(batch.audio, torch.cat([samples[0].features.pixels, samples[2].features.pixels]))
    assert batch.audio_mask.sum(1).tolist() == [4, 0, 2]
    only_text = collate([sample(3, ids=True, without=["audio"])])
    assert only_text.text.dtype == torch.int64
    assert only_text.n_pictures == (0,)


def test_widths_are_those_of_whoever_has_tokens(sample: Make, encoders: Encoders) -> None:
    mute = [sample(0, without=["text"]), sample(1, features={"audio_tokens": torch.zeros(5, 9)})]
    assert widths_of(mute) == (6, 6)
    assert widths_of(mute[1:]) == (6, 9)
    assert widths_of(mute[:1]) == (1, 6)
    assert widths_of([], encoders) == (8, 8)


def test_statistics_are_rows_and_who_lacks_them_has_nan(sample: Make) -> None:
    rows = torch.tensor([1.0, 2.0]), torch.tensor([3.0])
    batch = collate([sample(0, statistics=rows), sample(1, statistics=(None, torch.tensor([4.0])))])
    assert batch.text_statistics[0].tolist() == [1.0, 2.0]
    assert batch.text_statistics[1].isnan().all()
    assert batch.audio_statistics.tolist() == [[3.0], [4.0]]
    assert collate([sample(0), sample(1)]).text_statistics.shape == (2, 0)
