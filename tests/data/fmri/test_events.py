"""Tables of BIDS: what counts as a trial, which values are refused, and how repeats are numbered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chiasm.data.errors import InputError
from chiasm.data.fmri.events import read_confounds, read_events, repeat_numbers


def table(folder: Path, text: str) -> Path:
    path = folder / "t.tsv"
    path.write_text(text)
    return path


def test_trials_are_the_rows_with_a_stimulus(tmp_path: Path) -> None:
    text = (
        "onset\tduration\ttrial_type\tstim_file\tsplit\n"
        "0.5\t2\tface\ta.png\ttrain\n"
        "4\t0\tpress\tn/a\tn/a\n"
        "8\t2\tn/a\tb.png\tTest\n"
        "\n"
        "12\t2\tn/a\tN/A\t\n"
    )
    events = read_events(table(tmp_path, text), timed=True)
    np.testing.assert_array_equal(events.onset_s, [0.5, 4, 8, 12])
    np.testing.assert_array_equal(events.duration_s, [2, 0, 2, 2])
    assert events.stimulus == ("a.png", "", "b.png", "")
    assert events.condition == ("face", "press", "trial", "other")
    np.testing.assert_array_equal(events.side, [0, -1, 2, -1])
    np.testing.assert_array_equal(events.shown, [0, 2])


def test_a_table_of_betas_needs_no_times(tmp_path: Path) -> None:
    events = read_events(table(tmp_path, "image\nx\ny\n"), timed=False)
    assert events.stimulus == ("x", "y")
    assert np.isnan(events.onset_s).all()
    np.testing.assert_array_equal(events.side, [-1, -1])


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("duration\tstim_file\n1\ta\n", "CHI-IN-294", "column onset"),
        ("a\tb\n1\t2\n", "CHI-IN-294", "onset and no column duration and no column stim_file or image"),
        ("onset\tduration\tstim_file\n1\t2\n", "CHI-IN-294", "different lengths"),
        ("onset\tonset\tstim_file\n1\t2\t3\n", "CHI-IN-294", "two columns"),
        ("onset\tduration\tstim_file\n", "CHI-IN-294", "no rows"),
        ("", "CHI-IN-294", "no rows"),
        ("onset\tduration\tstim_file\nx\t2\ta\ninf\t2\ta\n", "CHI-IN-295", "2 rows have no usable onset"),
        ("onset\tduration\tstim_file\n1\tnan\ta\n", "CHI-IN-295", "1 rows have no usable duration"),
        ("onset\tduration\tstim_file\tsplit\n1\t1\ta\tno\n", "CHI-IN-295", "train, val, test"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, code: str, says: str) -> None:
    with pytest.raises(InputError, match=f"{code}.*{says}"):
        read_events(table(tmp_path, text), timed=True)


def test_no_text_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "b.tsv").write_bytes(b"\xff\xfe\x00\x01")
    for name in ("b.tsv", "none.tsv"):
        with pytest.raises(InputError, match="CHI-IN-294"):
            read_events(tmp_path / name, timed=False)


def test_confounds_by_name_and_pattern(tmp_path: Path) -> None:
    path = table(tmp_path, "a\tb_1\tb_2\tc\nn/a\t1\t2\t9\n2\t3\t4\t9\n4\t5\t6\t9\n")
    values, names = read_confounds(path, ["b*", "a", "none*"])
    assert names == ["a", "b_1", "b_2"]
    np.testing.assert_array_equal(values, [[3, 1, 2], [2, 3, 4], [4, 5, 6]])  # n/a: the mean
    assert read_confounds(path, ["x*"])[0].shape == (3, 0)
    with pytest.raises(InputError, match=r"CHI-IN-294.*d"):
        read_confounds(path, ["a", "d"])
    for text in ("a\nn/a\nn/a\n", "a\n1\nx\n"):
        with pytest.raises(InputError, match="CHI-IN-295"):
            read_confounds(table(tmp_path, text), ["a"])


def test_repeats_are_numbered_in_order() -> None:
    np.testing.assert_array_equal(repeat_numbers(np.array([5, 2, 5, 5, 0, 2])), [0, 0, 1, 2, 0, 1])
    assert repeat_numbers(np.zeros(0, dtype=np.int64)).shape == (0,)
