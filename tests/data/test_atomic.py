"""Atomic files: whole or not at all, whatever the disk says."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from chiasm.data import atomic
from chiasm.data.errors import ResourceError

FAULTS = {
    errno.ENOSPC: "CHI-RES-010",
    errno.EDQUOT: "CHI-RES-010",
    errno.EROFS: "CHI-RES-011",
    errno.EACCES: "CHI-RES-012",
    errno.EPERM: "CHI-RES-012",
    errno.EMFILE: "CHI-RES-013",
    errno.ENFILE: "CHI-RES-013",
    errno.EIO: "CHI-RES-014",
}


def failing(code: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), "/data/someone/SECRET")

    return fail


def test_chunks_are_written_in_order_and_nothing_else_is_left(tmp_path: Path) -> None:
    atomic.write_bytes(tmp_path / "deep" / "er" / "x.bin", b"ab", memoryview(b"cd"), b"")
    assert (tmp_path / "deep" / "er" / "x.bin").read_bytes() == b"abcd"
    assert [p.name for p in (tmp_path / "deep" / "er").iterdir()] == ["x.bin"]


def test_temporary_file_stands_beside_the_final_one_under_a_hidden_name(tmp_path: Path) -> None:
    with atomic.atomic_path(tmp_path / "x.nii.gz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(f".x.nii.gz.{os.getpid()}-")
        assert temporary.name.endswith(".tmp")
        temporary.write_bytes(b"1")
        assert not (tmp_path / "x.nii.gz").exists()
    assert (tmp_path / "x.nii.gz").read_bytes() == b"1"
    assert not temporary.exists()


def test_failure_inside_the_block_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    final = tmp_path / "x"
    final.write_text("old")

    def half_written() -> None:
        with atomic.atomic_path(final) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_written()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert final.read_text() == "old"


@pytest.mark.parametrize("step", ["fsync", "replace", "open"])
@pytest.mark.parametrize("fault", FAULTS)
def test_disk_fault_at_any_step_is_coded_and_leaves_the_old_file(
    fault: int, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "x.json"
    final.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, step, failing(fault))
        with pytest.raises(ResourceError) as caught:
            atomic.write_json(final, {"a": 1})
    assert caught.value.code == FAULTS[fault]
    assert caught.value.code in atomic.CODES
    assert caught.value.remedy
    assert "SECRET" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert final.read_text() == "old"
    atomic.write_json(final, {"a": 1})
    assert json.loads(final.read_text()) == {"a": 1}


def test_full_disk_in_the_middle_of_the_bytes_is_coded(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")

    def write() -> None:
        with atomic.atomic_path(tmp_path / "x"), Path("/dev/full").open("wb") as stream:
            stream.write(bytes(100_000))

    with pytest.raises(ResourceError, match="CHI-RES-010"):
        write()
    assert not list(tmp_path.iterdir())


def test_unknown_system_error_passes_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic.os, "replace", failing(errno.ELOOP))
    with pytest.raises(OSError, match="symbolic links"):
        atomic.write_text(tmp_path / "x", "a")
    assert not list(tmp_path.iterdir())


def test_file_and_folder_are_synced_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        events.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        fsync(descriptor)

    def noted_replace(a: Path, b: Path) -> None:
        events.append("rename")
        replace(a, b)

    monkeypatch.setattr(atomic.os, "fsync", noted_fsync)
    monkeypatch.setattr(atomic.os, "replace", noted_replace)
    atomic.write_text(tmp_path / "x", "a")
    assert events == ["sync file", "rename", "sync folder"]


def test_kill_before_the_rename_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from chiasm.data import atomic\n"
        "atomic.os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "atomic.write_text(Path(sys.argv[1]), 'new')\n"
    )
    final = tmp_path / "x"
    final.write_text("old")
    done = subprocess.run([sys.executable, "-c", code, str(final)], check=False)
    assert done.returncode == -9
    assert final.read_text() == "old"


def test_equal_json_values_are_equal_bytes(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "a", {"b": [0.1, 1e-7], "a": "ü"})
    atomic.write_json(tmp_path / "b", {"a": "ü", "b": [0.1, 0.0000001]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_text("utf-8") == '{\n  "a": "ü",\n  "b": [\n    0.1,\n    1e-07\n  ]\n}\n'


def test_json_refuses_what_json_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "a", {"x": math.nan})
    assert not list(tmp_path.iterdir())


def test_table_cells_never_break_a_row(tmp_path: Path) -> None:
    rows = [{"a": 1.5, "b": "x\ty\nz", "c": None, "left out": 3}, {"a": math.nan, "b": "", "c": 0}]
    atomic.write_tsv(tmp_path / "t.tsv", rows, ["a", "b", "c", "d"])
    assert (tmp_path / "t.tsv").read_text() == "a\tb\tc\td\n1.5\tx y z\tn/a\tn/a\nn/a\tn/a\t0\tn/a\n"


def test_threads_that_write_one_file_do_not_take_each_others_temporary_file(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(atomic.write_bytes, tmp_path / "shared.js", b"x" * 100_000) for _ in range(64)]:
            done.result()
    assert [p.name for p in tmp_path.iterdir()] == ["shared.js"]
