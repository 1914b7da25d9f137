"""kill -9 at random moments, of a worker or of the driver: no half file under a final name, and in the end the same bytes."""

from __future__ import annotations

import gzip
import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

MakeBench = Callable[[int], Any]


@pytest.mark.timeout(280)
def test_twenty_kills_lose_nothing(bench: MakeBench) -> None:
    disturb(bench(24), kills=20, seed=7)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_two_hundred_kills_lose_nothing(bench: MakeBench) -> None:
    disturb(bench(50), kills=200, seed=8)


def disturb(cohort: Any, *, kills: int, seed: int) -> None:
    """Run a cohort again and again, killing, until the kills are spent; then let it finish and compare."""
    undisturbed = cohort.root / "undisturbed"
    assert cohort.run(undisturbed).returncode == 0
    out = cohort.root / "out"
    rng = random.Random(seed)
    left = kills
    while left:
        left -= one_run(cohort, out, rng, left)
        check_whole(out)
        if not unfinished(cohort, out):
            for record in sorted(out.rglob("*_record.json"))[: rng.randint(4, 12)]:
                record.unlink()  # so that the next run has something to be killed in
    last = cohort.run(out)
    assert last.returncode == 0, last.stderr
    assert cohort.tree(out) == cohort.tree(undisturbed)
    assert not list(out.rglob("*.tmp"))


def one_run(cohort: Any, out: Path, rng: random.Random, left: int) -> int:
    """Start the driver, kill at random moments, and return how many kills were spent."""
    spent = 0
    driver = subprocess.Popen(
        cohort.command(out), env=cohort.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while driver.poll() is None and spent < left:
            time.sleep(rng.uniform(0.0, 1.5) if spent else rng.uniform(1.0, 4.0))
            victims = workers_of(driver)
            if rng.random() < 0.4 or not victims:
                driver.kill()
                spent += 1
                break
            rng.choice(victims).kill()
            spent += 1
        if spent >= left or driver.returncode == -signal.SIGKILL:
            driver.kill()
        driver.wait(timeout=60)
    finally:
        for orphan in psutil.process_iter(["cmdline"]):  # workers of a killed driver end by themselves: wait for that
            if str(out) in " ".join(orphan.info["cmdline"] or []):
                orphan.wait(30)
    return spent


def workers_of(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        children = psutil.Process(driver.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def check_whole(out: Path) -> None:
    """Every file under a final name is whole; every done-record's outputs are there."""
    for path in out.rglob("*.nii.gz"):
        if not path.name.startswith("."):
            gzip.decompress(path.read_bytes())
    for path in out.rglob("*.json"):
        if not path.name.startswith("."):
            json.loads(path.read_text())
    for path in out.rglob("*_record.json"):
        if not path.name.startswith("."):
            for name in json.loads(path.read_text())["outputs"]:
                assert (out / name).is_file(), f"{path.name} promises {name}"


def unfinished(cohort: Any, out: Path) -> list[str]:
    patients = sorted(path.name for path in cohort.source.iterdir())
    return [p for p in patients if not list((out / f"sub-{p}").glob("*_record.json"))]
