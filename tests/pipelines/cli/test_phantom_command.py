"""``chiasm phantom``: what the command writes, and that the reader of patients finds it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chiasm.data.discovery import ChannelRule, discover
from chiasm.pipelines.cli.main import main
from chiasm.pipelines.recipes import load_recipe

RULES = {
    name: ChannelRule(suffixes=spec.suffixes, keywords=spec.keywords)
    for name, spec in load_recipe("brain-tumour").channels.items()
}


@pytest.mark.parametrize("kind", ["brats", "dicom"])
def test_patients_of_a_phantom_cohort_are_discovered_with_all_channels(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cohort"
    assert main(["phantom", kind, str(out), "--patients", "2", "--spacing", "6", "--seed", "5"]) == 0
    assert "no person was measured" in capsys.readouterr().out
    sessions = discover(out, RULES)
    assert len(sessions) == 2
    for session in sessions:
        assert not session.problems
        assert [recording.channel for recording in session.recordings] == ["flair", "t1ce", "t1", "t2"]


def test_heads_are_discovered_as_t1w(tmp_path: Path) -> None:
    assert main(["phantom", "heads", str(tmp_path / "c"), "--patients", "1", "--spacing", "6"]) == 0
    (session,) = discover(tmp_path / "c", {"T1w": ChannelRule(suffixes=("T1w",), keywords=("t1",))})
    assert session.channel("T1w") is not None


def test_the_default_grid_is_that_of_brats_at_any_spacing() -> None:
    from chiasm.data.phantoms.heads import shape_for

    assert shape_for(1.0) == (240, 240, 155)
    assert shape_for(3.0) == (80, 80, 52)


def test_a_wrong_setting_is_exit_code_2_with_its_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["phantom", "brats", str(tmp_path / "x"), "--patients", "0", "--spacing", "3"]) == 2
    assert "CHI-RC-070" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_brains_are_read_back_as_nsd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from chiasm.data.datasets.fmri import open_decoding_set

    out = tmp_path / "brains"
    sizes = ["--subjects", "1", "--images", "20", "--shared", "5", "--repeats", "2", "--seed", "7"]
    more = ["--strength", "0.5", "--noise-ceiling", "55", "--stimuli", "fashion-mnist-small"]
    assert main(["phantom", "nsd", str(out), *sizes, *more]) == 0
    assert "no person was measured" in capsys.readouterr().out
    found = open_decoding_set(out)
    assert found.layout == "nsd"
    assert len(found.subject("01").trials) == 2 * 25
    recipe = json.loads((out / "phantom.json").read_text())
    assert (recipe["seed"], recipe["strength"], recipe["forward_model"]["noise_ceiling"]) == (7, 0.5, 55.0)


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["--subjects", "9"], 2, "CHI-RC-130"),
        (["--stimuli", "fashion-mnist-small", "--images", "1999"], 2, "CHI-RC-132"),
        (["--stimuli", "fashion-mnist", "--stimuli-folder", "."], 127, "CHI-TL-020"),
        (["--stimuli", "no-such-folder"], 3, "CHI-IN-330"),
    ],
)
def test_brains_that_cannot_be_made_leave_nothing(
    arguments: list[str], status: int, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["phantom", "nsd", str(tmp_path / "x"), *arguments]) == status
    assert code in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
