"""A stimulus is on one side only, whoever saw it, and holding out keeps it so."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.data.errors import InputError
from chiasm.data.fmri.betas import ArrayBetas
from chiasm.data.fmri.decoding_set import BrainSubject
from chiasm.data.fmri.stimulus_splits import check_disjoint, hold_out
from chiasm.data.fmri.trials import SPLITS, Trials


def trials(image: list[int], split: list[int]) -> Trials:
    n = len(image)
    return Trials(
        row=np.arange(n), image=np.array(image), session=np.ones(n, np.int64), repeat=np.zeros(n, np.int64),
        split=np.array(split, dtype=np.int8),
    )  # fmt: skip


def subject(name: str, own: Trials) -> BrainSubject:
    return BrainSubject(name=name, betas=ArrayBetas(np.zeros((len(own), 2))), trials=own)


def test_disjoint_passes() -> None:
    check_disjoint(
        [subject("01", trials([0, 0, 1, 2], [0, 0, 1, 2])), subject("02", trials([2, 0, 3, 1], [2, 0, 0, 1]))]
    )


@pytest.mark.parametrize("other", [1, 2])
def test_within_a_subject(other: int) -> None:
    with pytest.raises(InputError, match=SPLITS[other]) as caught:
        check_disjoint([subject("01", trials([4, 4, 1], [0, other, 0]))])
    assert caught.value.code == "CHI-IN-270"
    assert ": 4." in str(caught.value)


def test_validation_and_test_share_nothing_either() -> None:
    with pytest.raises(InputError, match="val, test"):
        check_disjoint([subject("01", trials([4, 1], [1, 0])), subject("02", trials([4], [2]))])


def test_across_subjects_names_five() -> None:
    pair = [subject("01", trials(list(range(7)), [0] * 7)), subject("02", trials(list(range(7)), [2] * 7))]
    with pytest.raises(InputError, match="7 stimuli") as caught:
        check_disjoint(pair, [f"img{i}" for i in range(7)])
    assert "train, test" in str(caught.value)
    assert "img0, img1, img2, img3, img4 ..." in str(caught.value)
    assert "img5" not in str(caught.value)


def test_hold_out_moves_whole_stimuli_alike_for_all_subjects() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 2000, 6000)
    split = np.where(image < 200, 2, 0)
    first = hold_out(trials(image.tolist(), split.tolist()), 0.2, 7)
    second_image = rng.integers(0, 2000, 3000)
    second = hold_out(trials(second_image.tolist(), np.where(second_image < 200, 2, 0).tolist()), 0.2, 7)
    check_disjoint([subject("01", first), subject("02", second)])
    assert ((first.split == 2) == (image < 200)).all()
    moved = np.unique(image[first.split == 1])
    assert len(moved) / 1800 == pytest.approx(0.2, abs=0.03)
    other = hold_out(trials(image.tolist(), split.tolist()), 0.2, 8)
    overlap = np.intersect1d(moved, np.unique(image[other.split == 1]))
    assert len(overlap) / len(moved) == pytest.approx(0.2, abs=0.08)  # seeds are independent


def test_hold_out_is_the_same_for_ever() -> None:
    got = hold_out(trials(list(range(40)), [0] * 40), 0.25, 0)
    # From SplitMix64 computed with Python's integers.
    assert got.image[got.split == 1].tolist() == [1, 4, 5, 18, 25, 27, 31, 33, 35, 38, 39]


def test_hold_out_at_its_limits() -> None:
    own = trials([0, 1, 2], [0, 0, 2])
    np.testing.assert_array_equal(hold_out(own, 0.0, 0).split, own.split)
    with pytest.raises(InputError) as caught:
        hold_out(own, 0.001, 0)
    assert caught.value.code == "CHI-IN-279"
    with pytest.raises(ValueError, match="share"):
        hold_out(own, 1.0, 0)
