"""fMRIPrep derivatives: the betas that were put into a run come out in the order of its events, with the settings beside them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from chiasm.data.datasets.fmri import fmriprep
from chiasm.data.errors import ChiasmError, SeveralErrors, ToolError
from chiasm.data.fmri.events import Events
from chiasm.data.fmri.single_trials import SingleTrialSettings, event_regressors

GRID, TR, N_SCANS, N_TRIALS = (4, 3, 3), 1.5, 90, 6
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
NAMES = [f"img{i}.png" for i in range(4)]
PLAIN = SingleTrialSettings(scaling="none", drift="none", confounds=())
RUNS = [("01", "1"), ("01", "2"), ("02", "1")]


def brain() -> np.ndarray:
    inside = np.zeros(GRID, dtype=bool)
    inside[1:, 1:, 1:] = True
    return inside


def shown(subject: str, run: str) -> list[str]:
    """Stimuli of a run's trials; one event of five is a rest."""
    start = int(subject) + 2 * int(run)
    return [NAMES[(start + i) % 4] for i in range(N_TRIALS)]


def truth(subject: str, run: str) -> np.ndarray:
    return np.random.default_rng(int(subject) * 10 + int(run)).normal(3, 1, (N_TRIALS, int(brain().sum())))


def write_run(root: Path, raw: Path, subject: str, run: str, *, delay_s: float = 0.0) -> None:
    """Write a run without noise: trials far apart, so that LSS is nearly the truth."""
    func = root / f"sub-{subject}" / "func"
    events = raw / f"sub-{subject}" / "func"
    for folder in (func, events):
        folder.mkdir(parents=True, exist_ok=True)
    base = f"sub-{subject}_task-view_run-{run}"
    rows = [(2.0 + 20 * i, name) for i, name in enumerate(shown(subject, run))] + [(126.0, "n/a")]
    lines = [
        "onset\tduration\ttrial_type\tstim_file",
        *(f"{t}\t2\t{'rest' if n == 'n/a' else 'image'}\t{n}" for t, n in rows),
    ]
    (events / f"{base}_events.tsv").write_text("\n".join(lines) + "\n")
    table = Events(
        onset_s=np.array([t for t, _ in rows]),
        duration_s=np.full(len(rows), 2.0),
        stimulus=tuple(n for _, n in rows),
        condition=("x",) * len(rows),
        side=np.full(len(rows), -1, dtype=np.int8),
    )
    times = delay_s + TR * np.arange(N_SCANS)
    signal = event_regressors(table, times, hrf="glover")[:, :-1] @ truth(subject, run)
    confound = np.random.default_rng(5).standard_normal(N_SCANS)
    bold = np.zeros((*GRID, N_SCANS), dtype=np.float32)
    bold[brain()] = (100 + signal + 2 * confound[:, None]).T
    image = nib.Nifti1Image(bold, AFFINE)
    image.header.set_zooms((3.0, 3.0, 3.0, TR))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, func / f"{base}_space-T1w_desc-preproc_bold.nii.gz")
    timing = {"RepetitionTime": TR} | ({"StartTime": delay_s} if delay_s else {})
    (func / f"{base}_space-T1w_desc-preproc_bold.json").write_text(json.dumps(timing))
    mask = nib.Nifti1Image(brain().astype(np.uint8), AFFINE)
    nib.save(mask, func / f"{base}_space-T1w_desc-brain_mask.nii.gz")
    columns = {name: np.zeros(N_SCANS) for name in ("trans_y", "trans_z", "rot_x", "rot_y", "rot_z", "white_matter")}
    columns = {"trans_x": confound, **columns, "trans_x_derivative1": np.diff(confound, prepend=np.nan)}
    text = ["\t".join(columns)]
    text += [
        "\t".join("n/a" if np.isnan(v) else f"{v:.10g}" for v in row) for row in zip(*columns.values(), strict=True)
    ]
    (func / f"{base}_desc-confounds_timeseries.tsv").write_text("\n".join(text) + "\n")


def write_set(raw: Path, *, delay_s: float = 0.0) -> Path:
    root = raw / "derivatives" / "fmriprep"
    for subject, run in RUNS:
        write_run(root, raw, subject, run, delay_s=delay_s)
    (raw / "stimuli").mkdir()
    for i, name in enumerate(NAMES):
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(raw / "stimuli" / name)
    return root


def codes(root: Path, **options: object) -> list[str]:
    with pytest.raises(ChiasmError) as caught:
        fmriprep.open_set(root, **options)
    error = caught.value
    return [one.code for one in error.errors] if isinstance(error, SeveralErrors) else [error.code]


def base_of(root: Path, subject: str = "01", run: str = "1") -> str:
    return f"{root}/sub-{subject}/func/sub-{subject}_task-view_run-{run}"


WITH_MOTION = SingleTrialSettings(scaling="none", drift="none", confounds=("trans_x",))


def test_betas_images_and_sessions(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    assert fmriprep.matches(root)
    assert fmriprep.matches(tmp_path)
    assert fmriprep.subject_names(tmp_path) == ["01", "02"]
    found = fmriprep.open_set(root, settings=WITH_MOTION)
    for subject, runs in (("01", "12"), ("02", "1")):
        brain_ = found.subject(subject)
        expected = np.concatenate([truth(subject, run) for run in runs])
        betas = brain_.betas.read(brain_.trials.row)
        # Responses of trials 20 s apart hardly overlap and there is no noise: what is left is the undershoot.
        assert np.corrcoef(betas.ravel(), expected.ravel())[0, 1] > 0.99
        np.testing.assert_allclose(betas, expected, atol=0.5)
        names = [name for run in runs for name in shown(subject, run)]
        assert [f"{found.stimuli.names[i]}.png" for i in brain_.trials.image] == names
        np.testing.assert_array_equal(brain_.mask.inside, brain())
        assert brain_.trials.repeat[-1] == names[:-1].count(names[-1])
    assert found.layout == "fmriprep"


def test_the_time_within_a_volume_that_slices_were_moved_to_counts(tmp_path: Path) -> None:
    root = write_set(tmp_path, delay_s=0.75)
    told = fmriprep.open_set(root, subjects=["02"], settings=WITH_MOTION).subjects[0].betas.read(np.arange(N_TRIALS))
    Path(f"{base_of(root, '02')}_space-T1w_desc-preproc_bold.json").write_text(json.dumps({"RepetitionTime": TR}))
    not_told = (
        fmriprep.open_set(root, subjects=["02"], settings=WITH_MOTION).subjects[0].betas.read(np.arange(N_TRIALS))
    )
    error = [np.abs(betas - truth("02", "1")).mean() for betas in (told, not_told)]
    assert error[0] < 0.1
    assert error[1] > 2 * error[0]


def test_without_the_confound_betas_are_worse(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    with_it, without = (
        fmriprep.open_set(root, subjects=["02"], settings=s).subjects[0].betas.read(np.arange(N_TRIALS))
        for s in (WITH_MOTION, PLAIN)
    )
    error = [np.abs(betas - truth("02", "1")).mean() for betas in (with_it, without)]
    assert error[1] > 3 * error[0]


def test_settings_are_saved_and_the_cache_is_used_only_for_the_same(tmp_path: Path) -> None:
    root, cache = write_set(tmp_path / "set"), tmp_path / "cache"
    first = fmriprep.open_set(root, subjects=["02"], cache=cache).subjects[0].betas.read(np.arange(N_TRIALS))
    (saved,) = cache.glob("*_settings.json")
    told = json.loads(saved.read_text())
    expected = json.loads(json.dumps(asdict(SingleTrialSettings())))
    assert {key: told["settings"][key] for key in expected} == expected
    assert "sub-02/func/sub-02_task-view_run-1_space-T1w_desc-preproc_bold.nii.gz" in told["sources"]
    (table,) = cache.glob("*.npy")
    stamp = table.stat().st_mtime_ns
    again = fmriprep.open_set(root, subjects=["02"], cache=cache).subjects[0].betas
    assert table.stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(again.read(np.arange(N_TRIALS)), first)
    fmriprep.open_set(root, subjects=["02"], cache=cache, settings=PLAIN)
    assert len(list(cache.glob("*.npy"))) == 2


def test_repetition_time_from_the_header_or_nowhere(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    Path(f"{base_of(root)}_space-T1w_desc-preproc_bold.json").unlink()
    reference = fmriprep.open_set(root, settings=PLAIN).subject("01").betas.read(np.arange(3))
    path = f"{base_of(root)}_space-T1w_desc-preproc_bold.nii.gz"
    image = nib.load(path)
    image = nib.Nifti1Image(np.asarray(image.dataobj), AFFINE)
    image.header.set_zooms((3.0, 3.0, 3.0, 1500.0))
    image.header.set_xyzt_units("mm", "msec")
    nib.save(image, path)
    np.testing.assert_allclose(
        fmriprep.open_set(root, settings=PLAIN).subject("01").betas.read(np.arange(3)), reference, rtol=1e-6
    )
    image.header.set_zooms((3.0, 3.0, 3.0, 0.0))
    nib.save(image, path)
    assert codes(root) == ["CHI-IN-300"]
    assert [s.name for s in fmriprep.open_set(root, subjects=["2"], settings=PLAIN).subjects] == ["02"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("duration\tstim_file\n2\timg0.png\n", "CHI-IN-294"),
        ("onset\tduration\n1\t2\n", "CHI-IN-294"),
        ("onset\tduration\tstim_file\nn/a\t2\timg0.png\n", "CHI-IN-295"),
        ("onset\tduration\tstim_file\n1\t-2\timg0.png\n", "CHI-IN-295"),
        ("onset\tduration\tstim_file\n5000\t2\timg0.png\n", "CHI-IN-302"),
        ("onset\tduration\tstim_file\n1\t2\tcow.png\n", "CHI-IN-289"),
        ("onset\tduration\tstim_file\n1\t2\tn/a\n", "CHI-IN-297"),
    ],
)
def test_bad_events(tmp_path: Path, text: str, code: str) -> None:
    root = write_set(tmp_path)
    Path(f"{base_of(tmp_path)}_events.tsv").write_text(text)
    assert codes(root) == [code]
    assert len(fmriprep.open_set(root, subjects=["02"], settings=PLAIN).subjects) == 1


def test_what_is_missing_is_all_listed(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    Path(f"{base_of(tmp_path)}_events.tsv").unlink()
    Path(f"{base_of(root, run='2')}_desc-confounds_timeseries.tsv").unlink()
    Path(f"{base_of(root, '02')}_space-T1w_desc-brain_mask.nii.gz").unlink()
    assert codes(root) == ["CHI-IN-297", "CHI-IN-301", "CHI-IN-298"]


def test_confounds_of_another_length_or_without_a_column(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    path = Path(f"{base_of(root)}_desc-confounds_timeseries.tsv")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")
    assert codes(root) == ["CHI-IN-301"]
    path.write_text("\n".join(["x" + lines[0], *lines[1:]]) + "\n")
    assert codes(root) == ["CHI-IN-294"]
    path.write_text("\n".join([lines[0], lines[1].replace("0", "x"), *lines[2:]]) + "\n")
    assert codes(root) == ["CHI-IN-295"]


def test_missing_values_of_confounds_are_the_mean(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    settings = SingleTrialSettings(confounds=("trans_x*",), scaling="none", drift="none")
    betas = fmriprep.open_set(root, settings=settings).subject("01").betas.read(np.arange(N_TRIALS))
    np.testing.assert_allclose(betas, truth("01", "1"), atol=0.6)


def test_masks_and_volumes_that_do_not_fit(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    mask = f"{base_of(root)}_space-T1w_desc-brain_mask.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((4, 3, 4), np.uint8), AFFINE), mask)
    assert codes(root) == ["CHI-IN-296"]
    nib.save(nib.Nifti1Image(brain().astype(np.uint8), AFFINE), mask)
    bold = f"{base_of(root)}_space-T1w_desc-preproc_bold.nii.gz"
    values = np.asarray(nib.load(bold).dataobj).copy()
    values[2, 2, 2, 7] = np.nan
    nib.save(nib.Nifti1Image(values, AFFINE), bold)
    assert codes(root) == ["CHI-IN-267"]
    nib.save(nib.Nifti1Image(values[..., :5], AFFINE), bold)
    assert codes(root) == ["CHI-IN-304"]
    Path(bold).write_bytes(b"nothing")
    assert codes(root) == ["CHI-IN-003"]


def test_a_mask_that_lies_elsewhere(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    shifted = AFFINE.copy()
    shifted[1, 3] = 3.0
    mask = nib.Nifti1Image(brain().astype(np.uint8), shifted)
    nib.save(mask, f"{base_of(root, '02')}_space-T1w_desc-brain_mask.nii.gz")
    assert codes(root, subjects=["02"]) == ["CHI-IN-296"]


def test_one_space_is_used_and_said(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    for path in list((root / "sub-01/func").glob("*space-T1w*")):
        name = path.name.replace("space-T1w", "space-MNI152NLin2009cAsym")
        (path.parent / name).write_bytes(path.read_bytes())
    found = fmriprep.open_set(root, subjects=["01"], settings=PLAIN)
    assert len(found.subjects[0].trials) == 2 * N_TRIALS
    assert any("T1w is used" in note for note in found.notes)


def test_glmsingle_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "glmsingle", None)
    with pytest.raises((ToolError, SeveralErrors), match="CHI-TL-070"):
        fmriprep.open_set(
            write_set(tmp_path / "set"), cache=tmp_path / "cache", settings=SingleTrialSettings(method="glmsingle")
        )
    assert not list((tmp_path / "cache").iterdir())


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(path: str, *_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    root = write_set(tmp_path / "set")
    monkeypatch.setattr("chiasm.data.atomic._sync_file", full)
    assert set(codes(root, cache=tmp_path / "cache")) == {"CHI-RES-010"}
    assert not list((tmp_path / "cache").iterdir())
