"""The region table: both ways, precedence, and the traps of the usual tools."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.data.errors import InputError, RecipeError
from chiasm.heads.regions import BRATS, Region, RegionTable

STRICT_2021 = RegionTable(
    (
        Region(name="TC", labels=(1, 4), write=1),
        Region(name="WT", labels=(1, 2, 4), write=2),
        Region(name="ET", labels=(4,), write=4),
    )
)


def test_labels_of_brats_2021_survive_both_ways() -> None:
    labels = np.array([[[0, 1, 2, 4]]])
    for table in (BRATS, STRICT_2021):
        assert (table.labels(table.channels(labels)) == labels).all()


def test_regions_hold_the_published_labels_in_channel_order() -> None:
    tc, wt, et = BRATS.channels(np.array([0, 1, 2, 4]))
    assert tc.tolist() == [False, True, False, True]
    assert wt.tolist() == [False, True, True, True]
    assert et.tolist() == [False, False, False, True]


def test_a_written_map_splits_into_the_regions_that_wrote_it_even_with_values_of_its_own() -> None:
    other_values = RegionTable(
        (Region(name="ET", labels=(4,), write=30), Region(name="WT", labels=(1, 2, 4), write=10))
    )
    nested = np.array([[True, False, False], [True, True, False]])
    assert (other_values.written(other_values.labels(nested)) == nested).all()


def test_label_3_of_brats_2023_is_enhancing_tumour_and_is_written_as_4() -> None:
    channels = BRATS.channels(np.array([3, 2]))
    assert channels[:, 0].all()
    assert BRATS.labels(channels).tolist() == [4, 2]


@pytest.mark.filterwarnings("ignore")  # whatever MONAI says when its transforms are made
def test_monai_drops_label_3_in_silence_and_we_do_not() -> None:
    import torch
    from monai.transforms import ConvertToMultiChannelBasedOnBratsClasses

    labels = np.array([[[0, 1], [2, 3]]])
    theirs = ConvertToMultiChannelBasedOnBratsClasses()(torch.from_numpy(labels)[None])
    assert not theirs[:, 0, 1, 1].any()  # the trap; when MONAI mends it this line says so
    assert BRATS.channels(labels)[:, 0, 1, 1].all()


@pytest.mark.filterwarnings("ignore")
def test_monai_logit_thresh_does_nothing_and_our_threshold_cuts() -> None:
    import torch
    from monai.transforms import AsDiscrete

    logits = np.array([[-3.0, 3.0], [-0.1, 0.1], [0.0, 9.0]], dtype=np.float32)
    probability = torch.sigmoid(torch.from_numpy(logits))
    assert torch.equal(AsDiscrete(argmax=False, logit_thresh=0.5)(probability), probability)  # the trap
    assert BRATS.masks(logits).tolist() == [[False, True]] * 3


def test_a_label_that_no_region_knows_is_named() -> None:
    with pytest.raises(InputError, match=r"\[CHI-IN-125\] seg.nii.gz: the label map holds 3, 7, .*known: 0, 1, 2, 4"):
        STRICT_2021.channels(np.array([0, 3, 7]), file="seg.nii.gz")


def test_nested_regions_are_written_from_the_outside_in_whatever_the_channel_order() -> None:
    everything = np.ones((3, 1), dtype=bool)
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        table = RegionTable(tuple(STRICT_2021.regions[i] for i in order))
        assert [table.names[i] for i in table.writing_order] == ["WT", "TC", "ET"]
        assert table.labels(everything).tolist() == [4]


def test_of_regions_that_do_not_nest_the_later_one_wins() -> None:
    one, other = Region(name="a", labels=(1, 2), write=1), Region(name="b", labels=(2, 3), write=2)
    both = np.ones((2, 1), dtype=bool)
    assert RegionTable((one, other)).labels(both).tolist() == [2]
    assert RegionTable((other, one)).labels(both).tolist() == [1]


def test_an_inner_region_writes_even_where_the_outer_one_says_no() -> None:
    assert BRATS.labels(np.array([[False], [False], [True]])).tolist() == [4]


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_the_cut_on_logits_is_the_cut_on_probabilities(threshold: float) -> None:
    logits = np.linspace(-6, 6, 101)[None].repeat(3, axis=0)
    assert (BRATS.masks(logits, threshold=threshold) == (1 / (1 + np.exp(-logits)) > threshold)).all()


def test_a_written_value_over_255_needs_two_bytes() -> None:
    wide = RegionTable((Region(name="x", labels=(1,), write=300),))
    assert wide.labels(np.ones((1, 2), dtype=bool)).dtype == np.uint16
    assert BRATS.labels(np.ones((3, 2), dtype=bool)).dtype == np.uint8


def test_a_wrong_number_of_channels_is_refused() -> None:
    with pytest.raises(InputError, match="4 channels for 3 regions"):
        BRATS.masks(np.zeros((4, 2)))
    with pytest.raises(InputError, match="CHI-IN-126"):
        BRATS.labels(np.zeros((2, 2), dtype=bool))


def test_every_contradiction_of_a_table_is_listed() -> None:
    with pytest.raises(RecipeError) as caught:
        RegionTable((Region(name="a", labels=(1,), write=1), Region(name="a", labels=(1,), write=1)))
    for part in ("'name' a", "'write' 1", "labels of another"):
        assert part in str(caught.value)
    with pytest.raises(RecipeError, match="no region"):
        RegionTable(())
    with pytest.raises(RecipeError, match="background"):
        RegionTable((Region(name="a", labels=(0, 1), write=1),))
