"""Batches of trials: what a step holds depends on its number alone."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.data.fmri.betas import ArrayBetas
from chiasm.data.fmri.decoding_set import BrainSubject
from chiasm.data.fmri.scaling import fit_scaler
from chiasm.data.fmri.trials import Trials, by_image
from chiasm.pipelines.training.fmri.streams import SubjectSource, TrialStream


def source(n_images: int = 12, repeats: int = 3, *, n_voxels: int = 5, first: int = 0) -> SubjectSource:
    """A subject whose betas say which image and which repeat they are: 100 image + repeat, in every voxel."""
    image = np.repeat(np.arange(n_images), repeats) + first
    repeat = np.tile(np.arange(repeats), n_images)
    n = len(image)
    trials = Trials(
        row=np.arange(n),
        image=image,
        session=np.ones(n, dtype=np.int64),
        repeat=repeat,
        split=np.zeros(n, dtype=np.int8),
    )
    values = np.tile((100.0 * image + repeat)[:, None], (1, n_voxels))
    betas = ArrayBetas(values)
    subject = BrainSubject(name="01", betas=betas, trials=trials)
    return SubjectSource(subject=subject, images=by_image(trials), scaler=fit_scaler(betas, trials, "none"))


def steps(stream: TrialStream, numbers: range) -> list[dict[str, tuple[list[float], list[int]]]]:
    """Read steps and close the stream."""
    found = [
        {name: (b.voxels[:, 0].tolist(), b.images.tolist()) for name, b in stream.step(i).items()} for i in numbers
    ]
    stream.close()
    return found


def stream(**changes: object) -> TrialStream:
    """Make a stream of two subjects."""
    settings = {"batch_size": 8, "repeats": "cycle", "seed": 3, **changes}
    return TrialStream({"01": source(), "02": source(8, first=50)}, **settings)


def test_voxels_and_images_belong_together() -> None:
    for step in steps(stream(), range(9)):
        for values, images in step.values():
            assert [int(value) // 100 for value in values] == images


def test_the_nth_pass_sees_the_nth_repeat_and_every_image_once() -> None:
    found = steps(stream(), range(9))
    for turn in range(3):
        part = [step["01"] for step in found[3 * turn : 3 * turn + 3]]
        assert sorted(image for _, images in part for image in images) == list(range(12))
        assert {int(value) % 100 for values, _ in part for value in values} == {turn}


def test_no_image_stands_twice_in_a_batch() -> None:
    for step in steps(stream(repeats="random-single"), range(20)):
        for _, images in step.values():
            assert len(set(images)) == len(images)


def test_a_step_does_not_depend_on_those_before_it() -> None:
    whole = steps(stream(), range(10))
    assert steps(stream(), range(6, 10)) == whole[6:]
    assert steps(stream(seed=4), range(2)) != whole[:2]


def test_the_smaller_subject_begins_a_new_pass_earlier() -> None:
    found = steps(stream(), range(4))
    assert [len(step["02"][1]) for step in found] == [4, 4, 4, 4]
    assert sorted(found[0]["02"][1] + found[1]["02"][1]) == list(range(50, 58))
    assert {int(value) % 100 for value in found[2]["02"][0]} == {1}


@pytest.mark.parametrize(("repeats", "expected"), [("mean", 1.0), ("first", 0.0)])
def test_mean_and_first(repeats: str, expected: float) -> None:
    (values, _), *_ = [step["01"] for step in steps(stream(repeats=repeats), range(1))]
    assert {round(value % 100, 4) for value in values} == {expected}


def test_padded_repeats_count_once_in_a_mean() -> None:
    whole = source(4, 3)
    trials = whole.subject.trials.where(np.array([0, 1, 2, 3, 4, 6, 7, 8, 9]))  # image 1 twice, image 3 once
    part = SubjectSource(subject=whole.subject, images=by_image(trials), scaler=whole.scaler)
    assert part.voxels(np.arange(4), None)[:, 0].tolist() == [1.0, 100.5, 201.0, 300.0]
