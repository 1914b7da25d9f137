"""The demo's two parts: what they run, what is said of each, and that one does not hide the other."""

from __future__ import annotations

import importlib
import json

import pytest

from chiasm.data.errors import ToolError
from chiasm.data.phantoms.marker import is_phantom
from chiasm.pipelines import demonstration

# `pipelines.cli.main` the module, not the function of that name.
cli = importlib.import_module("chiasm.pipelines.cli.main")


@pytest.fixture
def asked(monkeypatch):
    """Commands that the demo gives, and the exit codes that they get; no heavy work."""
    commands, codes = [], {"run": 1, "train": 0}
    real = cli.main

    def answered(arguments):
        if arguments[0] == "demo":
            return real(arguments)
        commands.append(arguments)
        return codes[arguments[0]]

    monkeypatch.setattr(cli, "main", answered)
    monkeypatch.setattr(demonstration, "make_cohort", lambda folder: iter(["a cohort"]))
    monkeypatch.setattr(demonstration, "make_brain", lambda folder: "a brain")
    return commands, codes


def test_it_segments_then_reconstructs_and_says_where_both_are(asked, tmp_path, capsys) -> None:
    commands, _ = asked
    assert cli.main(["demo", str(tmp_path), "--device", "cpu"]) == 0
    assert [command[:2] for command in commands] == [["run", "brain-tissue"], ["train", "fmri-ridge"]]
    assert all(command[command.index("--device") + 1] == "cpu" for command in commands)
    text = capsys.readouterr().out
    assert str(tmp_path / "output" / "desc-braintissue_report.html") in text
    assert str(tmp_path / "images" / "report.html") in text
    assert "(synthetic)" in text


def test_images_that_fail_do_not_hide_the_brains(asked, tmp_path, monkeypatch, capsys) -> None:
    _, codes = asked
    codes["train"] = 126
    assert cli.main(["demo", str(tmp_path)]) == 126
    text = capsys.readouterr().out
    assert str(tmp_path / "output" / "desc-braintissue_report.html") in text
    assert "images seen and reconstructed (synthetic): failed (exit 126)" in text

    def without_h5py(folder):
        raise ToolError("CHI-TL-020", "h5py is not installed.", "pip install h5py")

    monkeypatch.setattr(demonstration, "make_brain", without_h5py)
    assert cli.main(["demo", str(tmp_path)]) == 127
    captured = capsys.readouterr()
    assert "CHI-TL-020" in captured.err
    assert str(tmp_path / "output" / "desc-braintissue_report.html") in captured.out


@pytest.mark.parametrize(("code", "expected"), [(0, 70), (3, 3)])
def test_a_cohort_without_its_broken_patient_is_a_failure(asked, tmp_path, capsys, code, expected) -> None:
    """Exit 1 is right: one patient is broken on purpose."""
    asked[1]["run"] = code
    assert cli.main(["demo", str(tmp_path)]) == expected
    assert f"brains in a cohort: failed (exit {expected})" in capsys.readouterr().out


def test_the_brain_is_written_once_marked_as_a_phantom_and_again_where_it_was_left_half_way(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(demonstration, "BRAIN_IMAGES", 4)
    monkeypatch.setattr(demonstration, "BRAIN_SHARED", 2)
    folder = tmp_path / "phantom"
    folder.mkdir()
    (folder / "README").write_text("an earlier demo was stopped here")
    line = demonstration.make_brain(folder)
    assert "SYNTHETIC" in line
    assert "no person was measured" in line
    assert is_phantom(folder)
    told = json.loads((folder / "phantom.json").read_text())
    assert (told["images"], told["shared"], list(told["subjects"])) == (4, 2, ["subj01"])
    before = (folder / "phantom.json").stat().st_mtime_ns
    demonstration.make_brain(folder)
    assert (folder / "phantom.json").stat().st_mtime_ns == before
