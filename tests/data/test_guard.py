"""A job that hangs, dies, eats memory or lies becomes a coded error, and the next job runs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from chiasm.data.errors import ChiasmError, InputError, ResourceError
from chiasm.data.guard import GuardedReader, Limits

JOBS_SOURCE = """
import os, signal, sys, time
import numpy as np
from chiasm.data.errors import InputError

def double(n):
    print("noise on stdout", flush=True)
    return {"pid": os.getpid()}, {"a": np.arange(n) * 2.0, "b": np.ones((2, 0, 3), ">i2")}

def hang():
    time.sleep(60)

def burn():
    while True:
        pass

def die():
    os.kill(os.getpid(), signal.SIGSEGV)

def eat():
    return {}, {"a": np.ones(1 << 40, np.uint8)}

def refuse():
    raise InputError("CHI-IN-047", "no", "yes")

def leak_text():
    raise ValueError("CANARY^NAME")
"""
NAMES = ("double", "hang", "burn", "die", "eat", "refuse", "leak_text")


@pytest.fixture
def guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardedReader]:
    (tmp_path / "guarded_jobs.py").write_text(JOBS_SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    limits = Limits(memory_bytes=2 << 30, cpu_s=1, wall_s=4)
    with GuardedReader({name: f"guarded_jobs:{name}" for name in NAMES}, limits) as reader:
        yield reader


def test_arrays_and_values_come_back_and_the_child_stays(guard: GuardedReader) -> None:
    first, arrays = guard.run("double", {"n": 1000})
    second, _ = guard.run("double", {"n": 1})
    np.testing.assert_array_equal(arrays["a"], np.arange(1000) * 2.0)
    assert arrays["b"].shape == (2, 0, 3)
    assert arrays["b"].dtype == np.dtype(">i2")
    assert first["pid"] == second["pid"] != os.getpid()


@pytest.mark.parametrize(
    ("job", "kind", "code"),
    [
        ("hang", ResourceError, "CHI-RES-030"),
        ("burn", ResourceError, "CHI-RES-030"),
        ("die", ResourceError, "CHI-RES-032"),
        ("eat", ResourceError, "CHI-RES-031"),
        ("refuse", InputError, "CHI-IN-047"),
        ("leak_text", InputError, "CHI-IN-047"),
    ],
)
def test_each_breach_has_its_code_and_the_next_job_runs(
    guard: GuardedReader, job: str, kind: type[ChiasmError], code: str
) -> None:
    start = time.monotonic()
    with pytest.raises(kind) as caught:
        guard.run(job, {}, file="in/x.dcm")
    assert caught.value.code == code
    assert caught.value.file == "in/x.dcm"
    assert "CANARY" not in str(caught.value)
    assert time.monotonic() - start < 20
    assert guard.run("double", {"n": 3})[1]["a"].tolist() == [0, 2, 4]


def test_threads_share_one_guard(guard: GuardedReader) -> None:
    with ThreadPoolExecutor(4) as pool:
        sizes = list(pool.map(lambda n: guard.run("double", {"n": n})[1]["a"].size, range(1, 20)))
    assert sizes == list(range(1, 20))


def test_no_shared_memory_is_left_behind(guard: GuardedReader) -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("no /dev/shm on this system")
    guard.run("double", {"n": 10})
    for job in ("die", "eat"):
        with pytest.raises(ResourceError):
            guard.run(job, {})
    assert not list(Path("/dev/shm").glob(f"chiasm-{os.getpid()}-*"))


def test_closing_ends_the_child_and_a_later_job_starts_another(guard: GuardedReader) -> None:
    pid = guard.run("double", {"n": 1})[0]["pid"]
    guard.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert guard.run("double", {"n": 1})[0]["pid"] != pid


def test_a_job_that_was_not_listed_does_not_run(guard: GuardedReader) -> None:
    with pytest.raises(ValueError, match="no such job"):
        guard.run("os.system", {})
