"""The network over sliding windows, batched across the patients that wait."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from ...heads.segmenter import Blend, Triple, WindowGrid, importance
from ..engine.plan import Plan
from ..engine.stage import BatchedStage, BatchJob, Context
from ..recipes import WindowsSpec
from .items import Logits, Prepared

ON_DEVICE_BYTES = 4 << 30
"""Sums larger than this stay in main memory: decided from the shape alone, so that a rerun decides the same."""
