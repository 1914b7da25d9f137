"""What every test stands on: no network (pytest-socket, see pyproject.toml), fixed seeds, one thread pool size."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

# Children of a test are not under pytest-socket: they get a proxy nobody listens on, and hubs switched off.
for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "DO_NOT_TRACK"):
    os.environ[_name] = "1"
for _name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
    os.environ[_name] = "http://127.0.0.1:9"
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost,::1"
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Each test that wants weights says where they are; a user's own store must not leak in.
os.environ.pop("CHIASM_WEIGHTS", None)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Seed the global generators that are already imported (importing torch here would cost 2 s a run)."""
    random.seed(0)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(0)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)
