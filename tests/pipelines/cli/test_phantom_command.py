"""``chiasm phantom``: what the command writes, and that the reader of patients finds it."""

from __future__ import annotations

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
