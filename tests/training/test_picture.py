from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiasm.pipelines.training.picture import draw_loss, read_log, shorten_log


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "training.jsonl"
    lines = [{"step": i + 1, "loss": 2.0 / (i + 1), "rate": 0.1, "norm": 1.0, "seconds": 0.5} for i in range(25)]
    lines[9]["dice"] = 0.7
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_picture_shows_something_and_is_the_same_again(log: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_loss(log, tmp_path / name, smooth=5)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_a_log_of_one_step_can_be_drawn(log: Path, tmp_path: Path) -> None:
    log.write_text(log.read_text().splitlines()[0] + "\n")
    draw_loss(log, tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 1000


def test_the_short_log_holds_means_and_keeps_validation(log: Path, tmp_path: Path) -> None:
    shorten_log(log, tmp_path / "short.jsonl", every=10)
    short = read_log(tmp_path / "short.jsonl")
    assert [line["step"] for line in short] == [10, 20, 25]
    assert short[0]["loss"] == pytest.approx(np.mean([2 / (i + 1) for i in range(10)]), abs=1e-5)
    assert [line.get("dice") for line in short] == [0.7, None, None]
