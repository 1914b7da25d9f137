"""Freed memory stays in the process where glibc can be told so, and a large block is then not mapped afresh."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from chiasm.pipelines.engine.memory import keep_freed_memory

PROGRAM = """
import sys, resource, numpy
from chiasm.pipelines.engine.memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
numpy.ones(8_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    numpy.ones(8_000_000)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(mode: str) -> tuple[int, int]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return int(kept), int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the switch is glibc's")
def test_large_blocks_are_reused_without_page_faults() -> None:
    (kept, with_switch), (_, without) = run("keep"), run("leave")
    assert kept == 1
    assert without > 1_000  # else this system reuses pages anyway, and the test shows nothing
    assert with_switch < without / 10


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
