"""What a decoded subject puts on its page: the right pictures under the right heads, and nothing that is not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chiasm.data.fmri.betas import ArrayBetas
from chiasm.data.fmri.decoding_set import BrainSubject, DecodingSet, VoxelMask
from chiasm.data.fmri.stimuli import ArrayStimuli
from chiasm.data.fmri.trials import TEST, Trials, by_image
from chiasm.data.patients import Session
from chiasm.pipelines.recipes import load_recipe
from chiasm.pipelines.stages.fmri import page
from chiasm.pipelines.stages.fmri.items import BetasCase, Decoded, DecodedCase, Found

N, SIDE, VOXELS = 30, 8, 6


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(page, "find", lambda name: SimpleNamespace(sha256=f"hash of {name}"))
    plan = SimpleNamespace(as_json=lambda: {"seed": 1})
    return SimpleNamespace(flags=["New sessions.", "Test side: shared."], notes={"inputs": {"b.npy": "ab"}}, plan=plan)


@pytest.fixture
def item() -> DecodedCase:
    """Return 30 images with two repeats each: stimulus i is of the grey i, its reconstruction i + 100, its low level i + 200."""
    index = np.arange(2 * N)
    trials = Trials(
        row=index, image=index % N, session=np.ones(2 * N, np.int64), repeat=index // N,
        split=np.full(2 * N, TEST, np.int8),
    )  # fmt: skip
    grey = np.arange(N, dtype=np.uint8)[:, None, None, None]
    stimuli = ArrayStimuli(np.broadcast_to(grey, (N, SIDE, SIDE, 3)).copy(), names=[f"picture {i}" for i in range(N)])
    inside = np.zeros((3, 3, 3), bool)
    inside[0, :2] = True
    first = np.arange(VOXELS) < 2
    subject = BrainSubject(
        name="01", betas=ArrayBetas(np.zeros((2 * N, VOXELS), np.float32)), trials=trials,
        mask=VoxelMask(inside=inside, affine=np.eye(4)), rois={"all": np.ones(VOXELS, bool), "V1": first, "none": ~first & first},
        ncsnr=np.full(VOXELS, 1.0, np.float32), files=(Path("sub-01_space-T1w_mask.nii.gz"),),
    )  # fmt: skip
    data = DecodingSet(
        layout="plain", root=Path("data"), subjects=(subject,), stimuli=stimuli, notes=("Test side: shared.",)
    )
    case = BetasCase(session=Session(patient="01", session=""), data=data, trials=by_image(trials), side="test")
    made = np.broadcast_to(grey, (N, SIDE, SIDE, 3))
    decoded = Decoded(
        image=np.arange(N), reconstruction=made + np.uint8(100), tokens=np.zeros((N, 1, 2), np.float32),
        projected=np.zeros((N, 1, 2), np.float32), start=made + np.uint8(200), spread=np.full(N, 0.25),
        agreement=np.full(N, 0.5),
    )  # fmt: skip
    top = np.stack([(np.arange(N) + 1) % N, np.arange(N)], axis=1)  # the seen image comes second
    found = Found(candidates=np.arange(N), top=top, cosine=np.zeros((N, 2)), rank=np.full(N, 2))
    importance = np.array([0.3, 0.3, 0.1, 0.1, 0.1, 0.1], np.float32)
    scores = {"metrics": [{"metric": "PixCorr"}], "retrieval": [{"direction": "brain-to-image"}], "noise_ceiling": None}
    return DecodedCase(case=case, decoded=decoded, found=found, scores=scores, importance=importance)


def shown_greys(report: Any, column: str) -> list[int]:
    return report.columns[column][:, 0, 0, 0].tolist()


def test_pictures_stand_under_their_heads(item: DecodedCase, context: Any) -> None:
    report = page.subject_report(item, load_recipe("fmri-images"), context, group_href="g.html")
    seen = shown_greys(report, "seen")
    assert len(seen) == 24
    assert (seen[0], seen[-1]) == (0, N - 1)
    assert shown_greys(report, "reconstructed") == [grey + 100 for grey in seen]
    assert shown_greys(report, "low level") == [grey + 200 for grey in seen]
    assert shown_greys(report, "retrieved, 1.") == [(grey + 1) % N for grey in seen]
    assert shown_greys(report, "retrieved, 2.") == seen
    assert not report.found["retrieved, 1."].any()
    assert report.found["retrieved, 2."].all()
    assert report.shown[1].name == f"picture {seen[1]}"
    assert report.shown[1].retrieved == [f"picture {seen[1] + 1}", f"picture {seen[1]}"]


def test_counts_regions_ceiling_and_sources(item: DecodedCase, context: Any) -> None:
    report = page.subject_report(item, load_recipe("fmri-images"), context, group_href="g.html")
    assert (report.n_images, report.n_trials, report.n_voxels, report.n_samples) == (N, 2 * N, VOXELS, 4)
    # A region of all voxels says nothing, and an empty one neither.
    assert [(row.name, row.n_voxels) for row in report.regions] == [("V1", 2)]
    assert report.regions[0].share == pytest.approx(0.6)
    assert report.regions[0].even == pytest.approx(1 / 3)
    assert report.ceiling == pytest.approx(np.full(VOXELS, 75.0))  # 1 / (1 + 1/3)
    assert report.voxels is not None
    assert report.voxels.space == ""
    assert report.provenance["weights"]["chiasm/small-image-decoder"] == "hash of chiasm/small-image-decoder"
    assert report.provenance["inputs"] == {"b.npy": "ab"}


def test_what_a_reader_decided_is_a_notice_and_no_warning(item: DecodedCase, context: Any) -> None:
    report = page.subject_report(item, load_recipe("fmri-images"), context, group_href="")
    assert report.warnings == ["New sessions."]
    assert report.notices[-1] == "Test side: shared."


def test_without_stimuli_decoder_and_mask_only_the_rest_is_told(item: DecodedCase, context: Any) -> None:
    subject = replace(item.case.subject, mask=None, rois={}, ncsnr=None)
    case = replace(item.case, data=replace(item.case.data, subjects=(subject,), stimuli=None), side="all")
    decoded = replace(item.decoded, reconstruction=None, start=None, agreement=np.full(N, np.nan))
    less = replace(item, case=case, decoded=decoded, found=None, scores=None)
    report = page.subject_report(less, load_recipe("fmri-images"), context, group_href="")
    assert report.columns == {}
    assert report.shown == ()
    assert report.rank is None
    assert report.voxels is None
    assert report.ceiling is None
    assert report.regions == []
    assert report.metrics == ()
    assert report.side == "all"


@pytest.mark.parametrize(
    ("names", "space"),
    [
        (["sub-01_space-MNI152NLin2009cAsym_betas.nii.gz"], "MNI152NLin2009cAsym"),
        (["sub-01_space-T1w_betas.nii.gz"], ""),
        (["sub-01_space-MNI152Lin_betas.nii.gz", "sub-01_space-MNI152NLin6Asym_mask.nii.gz"], ""),
        (["betas.npy"], ""),
    ],
)
def test_the_space_is_what_all_files_say(item: DecodedCase, names: list[str], space: str) -> None:
    subject = replace(item.case.subject, files=tuple(Path(name) for name in names))
    assert page.space_of(subject) == space
